"""Collections, persistent ones above all, with an embedding function that is cached."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb import Documents, Embeddings
from chromadb.api import ClientAPI

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.chroma import CachedEmbeddingFunction
from tests.integrations.chroma.models import (
    PAGES,
    QUESTION,
    SECRET,
    Old,
    Signs,
    letters,
    listed,
    rebuilt,
)

# --- collections ----------------------------------------------------------------------------------


def test_a_collection_opened_in_another_process_computes_nothing(
    client: ClientAPI, model_path: str, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    embed = CachedEmbeddingFunction(model_path, tmp_path / "store")
    pages = client.create_collection("pages", embedding_function=embed)
    pages.add(ids=list(PAGES), documents=list(PAGES.values()))
    assert pages.query(query_texts=QUESTION, n_results=1)["ids"] == [["bakery"]]
    assert embed.store.stats().misses == 4
    client.close()

    script = """
import sys, chromadb, embstore.integrations.chroma
from chromadb.config import Settings
place, question, page = sys.argv[1:]
client = chromadb.PersistentClient(place, settings=Settings(anonymized_telemetry=False))
pages = client.get_collection("pages")
pages.add(ids=["another"], documents=[page])
print(pages.query(query_texts=question, n_results=1)["ids"][0][0])
stats = pages.configuration["embedding_function"].store.stats()
print(stats.misses, stats.hits, "torch" in sys.modules)
"""
    place = tmp_path / "chroma"
    assert run_python(script, place, QUESTION, PAGES["penguins"]).splitlines() == [
        "bakery",
        "0 2 False",
    ]


def test_a_model_is_loaded_once_for_a_collection(static: Any, tmp_path: Path) -> None:
    static.save(str(tmp_path / "model"))
    embed = CachedEmbeddingFunction(tmp_path / "model", tmp_path / "store")
    # Chroma builds it for each query.
    assert rebuilt(embed) is rebuilt(embed)
    assert rebuilt(embed).embed_query([QUESTION])[0].shape == (384,)


def test_chroma_takes_it_for_one_of_its_own(client: ClientAPI, tmp_path: Path) -> None:
    embed = CachedEmbeddingFunction("some/model", tmp_path / "store")
    assert not embed.is_legacy()
    pages = client.create_collection("pages", embedding_function=embed)
    kept = pages.configuration_json["embedding_function"]
    assert (kept["type"], kept["name"]) == ("known", "embstore")
    assert pages.configuration_json["hnsw"]["space"] == "cosine"
    assert kept["config"] == embed.get_config() == rebuilt(embed).get_config()
    assert not (tmp_path / "store").exists(), "nothing was opened for that"


def test_collections_with_a_schema(client: ClientAPI, tmp_path: Path) -> None:
    embed = CachedEmbeddingFunction(Signs(), tmp_path / "store", model_name="signs")
    schema = chromadb.Schema().create_index(
        config=chromadb.VectorIndexConfig(embedding_function=embed)
    )
    client.create_collection("pages", schema=schema)
    pages = client.get_collection("pages")
    pages.add(ids=list(PAGES), documents=list(PAGES.values()))
    assert len(pages.query(query_texts=QUESTION)["ids"][0]) == 3
    assert set(Signs.asked.values()) == {1}
    assert len(Signs.asked) == 4


def test_paths_hold_in_every_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, model_path: str
) -> None:
    monkeypatch.chdir(Path(model_path).parent)
    embed = CachedEmbeddingFunction(Path(model_path).name, "store")
    assert embed.get_config()["model"] == model_path
    assert embed.get_config()["store"] == str(Path(model_path).parent / "store")
    assert CachedEmbeddingFunction("some/model").get_config()["store"] is None


# --- what is wrapped ------------------------------------------------------------------------------


def test_queries_and_documents_are_never_mixed(client: ClientAPI, store: EmbeddingStore) -> None:
    embed = CachedEmbeddingFunction(Signs(), store, model_name="signs")
    pages = client.create_collection("pages", embedding_function=embed)
    texts = list(PAGES.values())
    pages.add(ids=list(PAGES), documents=texts)
    for _ in range(2):
        pages.query(query_texts=texts)
        assert listed(embed(texts)) == [[len(text), 1] for text in texts]
        assert listed(embed.embed_query(texts)) == [[len(text), -1] for text in texts]
    assert Signs.asked == {f"{kind} {text}": 1 for text in texts for kind in ("document", "query")}


def test_without_queries_of_its_own_they_are_documents(store: EmbeddingStore) -> None:
    old = Old()
    embed = CachedEmbeddingFunction(old, store, model_name="old")
    embed(["a", "bb", "a"])
    assert listed(embed.embed_query(["bb", "a"])) == [[2, 1], [1, 1]]
    assert old.asked == {"a": 1, "bb": 1}


def test_what_is_wrapped_is_made_when_it_is_needed(store: EmbeddingStore) -> None:
    embed = CachedEmbeddingFunction(Signs(2), store, model_name="signs")
    embed(["a"])
    again = rebuilt(embed)
    assert Signs.made == 1
    assert listed(again(["a"])) == [[1, 2]]
    assert Signs.made == 1
    assert listed(again(["bb"])) == [[2, 2]]
    assert listed(again.embed_query(["bb"])) == [[2, -2]]
    assert Signs.made == 2


def test_its_own_settings_tell_vectors_apart(store: EmbeddingStore) -> None:
    for sign in (1, 2):
        embed = CachedEmbeddingFunction(Signs(sign), store, model_name="signs")
        assert listed(embed(["a"])) == [[1, sign]]
    for further in (
        {"device": "cuda", "api_key_env_var": "OTHER_KEY", "timeout": 9, "new": None},
        {"api_key": SECRET},
    ):
        CachedEmbeddingFunction(Signs(1, **further), store, model_name="signs")(["a"])
    assert Signs.asked == {"document a": 2}, "these decide no vector"


def test_spaces_are_those_of_what_is_wrapped(client: ClientAPI, store: EmbeddingStore) -> None:
    embed = CachedEmbeddingFunction(Signs(), store, model_name="signs")
    for each in (embed, rebuilt(embed)):
        assert each.default_space() == "ip"
        assert each.supported_spaces() == ["ip"]
    assert CachedEmbeddingFunction(letters, store, model_name="l").supported_spaces() == [
        "cosine",
        "l2",
        "ip",
    ]
    pages = client.create_collection("pages", embedding_function=embed)
    assert pages.configuration_json["hnsw"]["space"] == "ip"


def test_models_and_functions(static: Any, store: EmbeddingStore) -> None:
    model = copy.deepcopy(static)
    model.prompts = {"query": "search for: ", "document": ""}
    for embed in (
        CachedEmbeddingFunction(model, store),
        CachedEmbeddingFunction(CachedEncoder(model, store)),
    ):
        assert np.allclose(embed([QUESTION]), model.encode_document([QUESTION]))
        assert np.allclose(embed.embed_query([QUESTION]), model.encode_query([QUESTION]))
        assert not np.allclose(embed([QUESTION]), embed.embed_query([QUESTION]))
    assert store.stats().misses == 2
    embed = CachedEmbeddingFunction(letters, store, model_name="l", normalize_embeddings=True)
    assert np.linalg.norm(embed([QUESTION])) == pytest.approx(1)
    assert embed([QUESTION])[0].dtype == np.float32


def test_whole_numbers_are_floats(store: EmbeddingStore) -> None:
    class Mixed(Old):
        def __call__(self, input: Documents) -> Embeddings:
            kind = np.int64 if input == ["whole"] else np.float32
            return [vector.astype(kind) for vector in super().__call__(input)]

    embed = CachedEmbeddingFunction(Mixed(), store, model_name="mixed")
    assert listed(embed(["whole"]) + embed(["not"]) + embed(["whole", "else"])) == [
        [5, 1],
        [3, 1],
        [5, 1],
        [4, 1],
    ]
    assert embed(["whole"])[0].dtype == np.float32
