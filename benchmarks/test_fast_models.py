"""Models so fast that committing counts: encode() of new texts against the model alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import StaticEmbedding

from benchmarks.corpus import DIM, sentence
from benchmarks.race import Race
from embstore import CachedEncoder, EmbeddingStore, commits

TEXTS = 8192
A_SECOND = 20_000
"""Texts a second of a model on another device."""


def unseen() -> Iterator[tuple[list[str]]]:
    """Calls of texts that are stored nowhere yet."""
    for first in itertools.count(0, TEXTS):
        yield ([sentence(number) for number in range(first, first + TEXTS)],)


def inline(encode: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The same with each commit before the next chunk."""

    def encode_inline(texts: list[str]) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(commits, "_SLOW", 0.0)
            return encode(texts)

    return encode_inline


def test_another_device(race: Race, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that waits for a device, and leaves the processor alone meanwhile."""
    vectors = np.random.default_rng(0).standard_normal((256, DIM), np.float32)

    def device(texts: list[str]) -> np.ndarray[Any, Any]:
        time.sleep(len(texts) / A_SECOND)
        return vectors[: len(texts)]

    def bare(texts: list[str]) -> object:
        parts = [device(texts[start : start + 256]) for start in range(0, TEXTS, 256)]
        return np.concatenate(parts)

    with (
        EmbeddingStore(folder / "device", on_error="raise") as store,
        EmbeddingStore(folder / "device-inline", on_error="raise") as other,
    ):
        encoder = CachedEncoder(device, store, model_name="device")
        second = CachedEncoder(device, other, model_name="device")
        result = race(
            {
                "model": bare,
                "inline": inline(lambda texts: second.encode(texts, batch_size=256), monkeypatch),
                "embstore": lambda texts: encoder.encode(texts, batch_size=256),
            },
            items=TEXTS,
            rounds=15,
            inputs=unseen(),
        )
    result.report("encode(), all new, a device of 20,000 texts/s", against="model")
    result.report("the same, each commit before the next chunk", side="inline", against="model")


def test_static_embeddings(race: Race, folder: Path, model: Any) -> None:
    """Word vectors and a mean: tokenizing is all there is to do, on all cores."""
    words = model[0].auto_model.embeddings.word_embeddings.weight.detach().clone()
    tokenizer = model[0].tokenizer.backend_tokenizer
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_weights=words.numpy())], device="cpu"
    )
    with EmbeddingStore(folder / "static", on_error="raise") as store:
        encoder = CachedEncoder(static, store)
        result = race(
            {
                "model": lambda texts: static.encode(texts, batch_size=512),
                "embstore": encoder.encode,
            },
            items=TEXTS,
            rounds=15,
            inputs=unseen(),
        )
    result.report("encode(), all new, static embeddings", against="model")
