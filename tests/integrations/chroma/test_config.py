"""What a collection keeps of its embedding function, what it cannot, and what may be changed."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
from chromadb import Documents, Embeddings
from chromadb.api import ClientAPI

from embstore import CachedEncoder, EmbeddingStore
from embstore.errors import ModelOutputError
from embstore.integrations.chroma import CachedEmbeddingFunction
from tests.integrations.chroma.models import (
    SECRET,
    Config,
    Old,
    Signs,
    letters,
)

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
