"""A model's identity stays what it is, whatever is done that reaches no vector."""

from __future__ import annotations

import copy
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from embstore import CachedEncoder, EmbeddingStore
from embstore.fingerprint import fingerprint
from embstore.watch import Watch

TEXTS = ["The CAT sat on the mat", "docstring of a café: " + "many words " * 20, "one"]
PROMPT = "query: "


def test_by_use(own_minilm: Any, store: EmbeddingStore, tmp_path: Path) -> None:
    encoder, watch = CachedEncoder(own_minilm, store), Watch(own_minilm)
    before = (fingerprint(own_minilm), encoder.namespace())

    def same() -> bool:
        return (fingerprint(own_minilm), encoder.namespace()) == before

    for arguments in (
        {},
        {"prompt": PROMPT},
        {"batch_size": 1, "normalize_embeddings": True},
        {"truncate_dim": 8, "precision": "int8"},
        {"output_value": None},
        {"processing_kwargs": {"text": {"max_length": 8}}},
    ):
        own_minilm.encode(TEXTS, **arguments)
        encoder.encode(TEXTS, **arguments)
        assert same(), arguments
    own_minilm.encode_query(TEXTS)
    own_minilm.similarity(np.eye(3), np.eye(3))
    own_minilm.tokenizer(TEXTS, padding="max_length", truncation=True, max_length=5)
    assert same()
    assert watch.same(own_minilm)

    for way in (own_minilm.train, own_minilm.eval, own_minilm.cpu):
        way()
        assert same(), way.__name__
    own_minilm.to("cpu")
    own_minilm.requires_grad_(False)
    own_minilm.save(str(tmp_path / "saved"))
    assert same()


def test_by_what_the_namespace_says_itself(minilm: Any, store: EmbeddingStore) -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(modules=list(minilm), device="cpu")
    encoder, before = CachedEncoder(model, store), fingerprint(model)
    namespaces = [
        encoder.namespace(),
        encoder.namespace(normalize_embeddings=True),
        encoder.namespace(prompt=PROMPT),
        encoder.namespace(truncate_dim=8),
        encoder.namespace(task="query"),
    ]
    model.prompts = {"query": "other: "}
    namespaces.append(encoder.namespace(prompt_name="query"))
    model.default_prompt_name = "query"
    assert encoder.namespace() == namespaces[-1]
    model.default_prompt_name = None
    model.truncate_dim = 16
    namespaces.append(encoder.namespace())
    assert fingerprint(model) == before
    assert {namespace.fingerprint for namespace in namespaces} == {before}
    assert len({namespace.id for namespace in namespaces}) == len(namespaces)


def test_by_copies(minilm: Any, model_path: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    before = fingerprint(minilm)
    assert fingerprint(copy.deepcopy(minilm)) == before
    assert fingerprint(pickle.loads(pickle.dumps(minilm))) == before
    assert fingerprint(SentenceTransformer(model_path, device="cpu")) == before
    shutil.copytree(model_path, tmp_path / "copy")
    assert fingerprint(SentenceTransformer(str(tmp_path / "copy"), device="cpu")) == before


def test_by_a_version_whatever_the_weights(own_minilm: Any, store: EmbeddingStore) -> None:
    encoder = CachedEncoder(own_minilm, store, version="1")
    before = encoder.namespace()
    for tensor in list(own_minilm.parameters()):
        tensor.data += 1
    own_minilm[0].auto_model.encoder.layer[0] = own_minilm[0].auto_model.encoder.layer[1]
    own_minilm.train()
    assert encoder.namespace() == before
    assert CachedEncoder(own_minilm, store, version="2").namespace() != before
    assert CachedEncoder(own_minilm, store).namespace() != before


def test_but_what_a_version_does_not_say(own_minilm: Any, store: EmbeddingStore) -> None:
    encoder = CachedEncoder(own_minilm, store, version="1")
    namespaces = [encoder.namespace()]

    def changed() -> bool:
        namespaces.append(encoder.namespace())
        return namespaces[-1] not in namespaces[:-1]

    own_minilm.max_seq_length = 64
    assert changed()
    own_minilm.tokenizer.model_max_length = 32
    assert changed()
    own_minilm.truncate_dim = 8
    assert changed()
    own_minilm.prompts["query"] = "other: "
    assert not changed()
    own_minilm.default_prompt_name = "query"
    assert changed()
    own_minilm.prompts["query"] = "another: "
    assert changed()
    own_minilm.half()
    assert changed()
    assert namespaces[-1].dtype == "float16"
    assert encoder.namespace() == namespaces[-1]
