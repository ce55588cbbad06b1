"""Chroma's collections, persistent ones above all, with an embedding function that is cached."""

from __future__ import annotations

import copy
import functools
import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import chromadb
import numpy as np
import pytest
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.api import ClientAPI
from chromadb.config import Settings
from chromadb.utils.embedding_functions import register_embedding_function

from embstore import CachedEncoder, EmbeddingStore
from embstore.errors import ModelOutputError
from embstore.integrations.chroma import CachedEmbeddingFunction

PAGES = {
    "penguins": "Penguins swim in cold seas and hunt for fish.",
    "bakery": "The bakery opens at six and sells rye bread.",
    "engine": "A diesel engine ignites its fuel by compression.",
}
QUESTION = "Where can I buy a loaf?"
SECRET = "sk-0123456789"

Config = dict[str, Any]


def letters(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), float(text.count("a")), 1.0] for text in texts]


@register_embedding_function
class Signs(EmbeddingFunction[Documents]):
    """Embeds documents as [length, sign] and queries as [length, -sign]; all that are made count
    what they are asked, together."""

    made: ClassVar[int] = 0
    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self, sign: int = 1, **further: Any) -> None:
        type(self).made += 1
        self.config = {"sign": sign, **further}

    def __call__(self, input: Documents) -> Embeddings:
        return self._note("document", input, self.config["sign"])

    def embed_query(self, input: Documents) -> Embeddings:
        return self._note("query", input, -self.config["sign"])

    def _note(self, kind: str, texts: Documents, sign: int) -> Embeddings:
        self.asked.update(f"{kind} {text}" for text in texts)
        return [np.array([len(text), sign], np.int64) for text in texts]

    @staticmethod
    def name() -> str:
        return "signs"

    def default_space(self) -> Any:
        return "ip"

    def supported_spaces(self) -> Any:
        return ["ip"]

    def get_config(self) -> Config:
        return self.config

    @staticmethod
    def build_from_config(config: Config) -> Signs:
        return Signs(**config)


class Old(EmbeddingFunction[Documents]):
    """An embedding function as they were: without name, config and queries of its own."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, input: Documents) -> Embeddings:
        self.asked.update(input)
        return [np.array([len(text), 1.0], np.float32) for text in input]


@pytest.fixture(autouse=True)
def _anew() -> None:
    Signs.made = 0
    Signs.asked.clear()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    settings = Settings(anonymized_telemetry=False)
    with chromadb.PersistentClient(tmp_path / "chroma", settings=settings) as client:
        yield client


def rebuilt(embed: CachedEmbeddingFunction) -> CachedEmbeddingFunction:
    """As Chroma makes it from what it has written."""
    return CachedEmbeddingFunction.build_from_config(json.loads(json.dumps(embed.get_config())))


def listed(vectors: Embeddings) -> list[list[float]]:
    return [vector.tolist() for vector in vectors]


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


# --- what a collection cannot keep ----------------------------------------------------------------


def absent(static: Any, store: EmbeddingStore) -> dict[str, CachedEmbeddingFunction]:
    cached = CachedEmbeddingFunction
    with_headers = Signs(default_headers={"Authorization": f"Bearer {SECRET}"})
    code = {"trust_remote_code": True, "token": SECRET}
    return {
        "function 'letters'": cached(letters, store, model_name="l"),
        "partial": cached(functools.partial(letters), store, model_name="l"),
        "SentenceTransformer": cached(static, store),
        "CachedEncoder": cached(CachedEncoder(static, store)),
        "Old": cached(Old(), store, model_name="old"),
        "Signs": cached(with_headers, store, model_name="signs"),
        "'a/model' with token, trust_remote_code": cached("a/model", encoder_kwargs=code),
    }


def test_it_says_what_it_was_and_wants_it_again(
    client: ClientAPI, static: Any, store: EmbeddingStore
) -> None:
    for number, (what, embed) in enumerate(absent(static, store).items()):
        assert embed.get_config()["model"] == {"given": what}
        client.create_collection(f"pages-{number}", embedding_function=embed)
        pages = client.get_collection(f"pages-{number}")
        with pytest.raises(ValueError, match=f"was made with {what}, which cannot be kept in it"):
            pages.add(ids=["a"], documents=["a text"])
        with pytest.raises(ValueError, match="give it to get_collection, as embedding_function="):
            pages.query(query_texts="a text")
        if "token" not in what:
            pages = client.get_collection(f"pages-{number}", embedding_function=embed)
            pages.add(ids=["a"], documents=["a text"])
            assert pages.query(query_texts="a text")["ids"] == [["a"]]


def test_no_secret_is_written(
    client: ClientAPI, static: Any, store: EmbeddingStore, tmp_path: Path
) -> None:
    secrets: list[Config] = [
        {"api_key": SECRET},
        {"session_args": {"aws_secret_access_key": SECRET}},
        {"url": f"https://user:{SECRET}@example.org/embed"},
        {"url": f"https://{SECRET}@example.org/embed"},
        {"kwargs": {"options": [{"token": SECRET}]}},
    ]
    embeds: list[CachedEmbeddingFunction] = [
        *absent(static, store).values(),
        *(CachedEmbeddingFunction(Signs(**each), store, model_name="signs") for each in secrets),
    ]
    for number, embed in enumerate(embeds):
        assert SECRET not in json.dumps(embed.get_config())
        assert SECRET not in repr(embed)
        client.create_collection(f"pages-{number}", embedding_function=embed)
    open_config = {"api_key_env_var": "OPENAI_API_KEY", "url": "https://example.org/a@b"}
    embed = CachedEmbeddingFunction(Signs(**open_config), store, model_name="signs")
    assert embed.get_config()["model"]["config"] == {"sign": 1, **open_config}
    client.close()
    for place in (tmp_path / "chroma", Path(store.location)):
        for file in place.rglob("*"):
            assert file.is_dir() or SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize(
    "change, message",
    [
        ({"encoder_kwargs": {"trust_remote_code": True}}, "trust_remote_code is not taken from a"),
        ({"encoder_kwargs": {"model_kwargs": {"x": 1}}}, "model_kwargs is not taken from a coll"),
        (
            {
                "model": {
                    "embedding_function": "sentence_transformer",
                    "config": {"kwargs": {"trust_remote_code": True}},
                }
            },
            "secrets and foreign code are not taken",
        ),
        ({"model": {"pickle": "gASV"}}, "as its 'model'"),
        ({"model": 5}, "has 5 as its 'model'"),
        ({"normalize_embeddings": None}, "has None as its 'normalize_embeddings'"),
        ({"batch_size": True}, "has True as its 'batch_size'"),
        ({"size_limit": "1KB"}, "has 'size_limit', which this embstore does not know"),
    ],
)
def test_what_others_have_written_is_refused(change: Config, message: str) -> None:
    config = {**CachedEmbeddingFunction("a/model").get_config(), **change}
    with pytest.raises(ValueError, match=message):
        CachedEmbeddingFunction.validate_config(config)
    with pytest.raises(ValueError, match=message):
        CachedEmbeddingFunction.build_from_config(config)


def test_an_embedding_function_that_cannot_be_made(store: EmbeddingStore) -> None:
    config = CachedEmbeddingFunction(Signs(), store, model_name="signs").get_config()
    config["model"]["embedding_function"] = "unheard-of"
    with pytest.raises(ValueError, match="knows no embedding function 'unheard-of': import the"):
        CachedEmbeddingFunction.build_from_config(config)(["a"])
    config["model"] = {"embedding_function": "signs", "config": {"self": 1}}
    with pytest.raises(ValueError, match="'signs' cannot be made from what the collection keeps"):
        CachedEmbeddingFunction.build_from_config(config)(["a"])


# --- changing it, and bad input -------------------------------------------------------------------


def test_only_what_leaves_vectors_as_they_are_can_be_changed(
    client: ClientAPI, store: EmbeddingStore, tmp_path: Path
) -> None:
    cached = CachedEmbeddingFunction
    pages = client.create_collection("pages", embedding_function=cached("a/model", store))

    def change(embed: CachedEmbeddingFunction) -> None:
        pages.modify(configuration={"embedding_function": embed})

    for other, message in [
        (cached("b/model", store), "model was 'a/model' and is to be 'b/model'"),
        (cached("a/model", version="2"), "version was None and is to be '2'"),
        (cached("a/model", model_name="a"), "model_name was None"),
        (cached("a/model", normalize_embeddings=True), "normalize_embeddings was False"),
        (cached("a/model", encoder_kwargs={"truncate_dim": 5}), "truncate_dim was None"),
        (cached(Signs(), model_name="signs"), "model_name was None"),
    ]:
        with pytest.raises(ValueError, match=message):
            change(other)
    (tmp_path / "moved").mkdir()
    for same in (
        cached("a/model", tmp_path / "other", encoder_kwargs={"device": "cpu"}, batch_size=8),
        cached(tmp_path / "moved"),
        cached(CachedEncoder(letters, store, model_name="l")),
        cached("a/model"),
    ):
        change(same)
        kept = client.get_collection("pages").configuration_json["embedding_function"]["config"]
        assert kept == same.get_config()


def test_what_is_wrapped_can_be_changed_as_little(client: ClientAPI) -> None:
    def signs(sign: int, **further: Any) -> CachedEmbeddingFunction:
        return CachedEmbeddingFunction(Signs(sign, **further), model_name="signs")

    pages = client.create_collection("pages", embedding_function=signs(1))
    with pytest.raises(ValueError, match="the collection would have vectors of both"):
        pages.modify(configuration={"embedding_function": signs(2)})
    pages.modify(configuration={"embedding_function": signs(1, device="cuda")})


@pytest.mark.parametrize(
    "model, given, error, message",
    [
        (None, {}, TypeError, "model is a SentenceTransformer, a name or path"),
        (letters, {}, ValueError, "a function needs model_name="),
        (Signs, {}, ValueError, "model_name is missing: .* behind Signs"),
        (Signs, {"model_name": "s", "normalize_embeddings": True}, ValueError, "is not for Signs"),
        (Signs, {"model_name": "s", "encoder_kwargs": {"a": 1}}, ValueError, "is not for Signs"),
        (CachedEncoder, {"version": "1"}, ValueError, "has a store, a name and settings already"),
    ],
)
def test_what_it_cannot_be_made_of(
    store: EmbeddingStore, model: Any, given: Config, error: type[Exception], message: str
) -> None:
    if model is CachedEncoder:
        model = CachedEncoder(letters, store, model_name="letters")
    elif model is Signs:
        model = Signs()
    with pytest.raises(error, match=message):
        CachedEmbeddingFunction(model, **given)


def test_wrong_texts_and_wrong_vectors(store: EmbeddingStore) -> None:
    embed = CachedEmbeddingFunction(Signs(), store, model_name="signs")
    with pytest.raises(TypeError, match="a list of texts: for a single one give \\[text\\]"):
        embed("a text")
    with pytest.raises(TypeError, match="must be str, not int: 1 at position 0"):
        embed.embed_query([1])

    class Broken(Old):
        def __call__(self, input: Documents) -> Embeddings:
            return super().__call__(input)[1:]

    with pytest.raises(ModelOutputError, match="2 texts need numbers of shape"):
        CachedEmbeddingFunction(Broken(), store, model_name="broken")(["a", "b"])
