"""``storage_dtype="float16"``: half the bytes, rounded once, and the same numbers ever after."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, ModelOutputError, cached
from embstore.halves import narrow, widen

TEXTS = ["a cat", "a dog", "", "an eel"]


def numbers(texts: list[str]) -> np.ndarray:
    rows = [np.random.default_rng(len(text)).standard_normal(7) for text in texts]
    return np.array(rows, np.float32)


def open_encoder(tmp_path: Path, **arguments: Any) -> CachedEncoder:
    arguments = {"model_name": "numbers", "storage_dtype": "float16", **arguments}
    return CachedEncoder(numbers, EmbeddingStore(tmp_path), **arguments)


def test_every_finite_number_is_widened_exactly() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert widen(finite.reshape(-1, 1)).tobytes() == finite.astype(np.float32).tobytes()
    strided = finite[: 2 * 10**4].reshape(-1, 4)[::2]
    assert widen(strided).tobytes() == strided.astype(np.float32).tobytes()


def test_numbers_that_are_too_large_are_refused_and_infinite_ones_kept() -> None:
    with pytest.raises(ModelOutputError, match="65,504"):
        narrow(np.array([[1.0, 70000.0]], np.float32), "m")
    assert narrow(np.array([[np.inf, 65504.0]], np.float32), "m").tolist() == [[np.inf, 65504.0]]


def test_what_is_returned_at_first_is_what_is_found_later(tmp_path: Path) -> None:
    with open_encoder(tmp_path).store as store:
        encoder = CachedEncoder(numbers, store, model_name="numbers", storage_dtype="float16")
        first = encoder.encode(TEXTS)
        assert first.dtype == np.float32
        assert first.tobytes() == numbers(TEXTS).astype(np.float16).astype(np.float32).tobytes()
        assert encoder.encode([*TEXTS, "new"])[:4].tobytes() == first.tobytes()
        assert encoder.encode(TEXTS[1]).tobytes() == first[1].tobytes()
    encoder = open_encoder(tmp_path, on_miss="raise")
    assert encoder.encode(TEXTS).tobytes() == first.tobytes()
    assert asyncio.run(encoder.aencode(TEXTS)).tobytes() == first.tobytes()
    info = encoder.store.namespaces()[0]
    assert (info.dtype, info.dim) == ("float16", 7)


def test_rounded_vectors_are_kept_apart_from_others(tmp_path: Path) -> None:
    rounded = open_encoder(tmp_path)
    exact = CachedEncoder(numbers, rounded.store, model_name="numbers")
    rounded.encode(TEXTS)
    assert exact.encode(TEXTS).tobytes() == numbers(TEXTS).tobytes()
    assert rounded.stats().entries == 8
    assert rounded.namespace().stored_as == "float16"
    assert exact.namespace().stored_as is None


def test_a_function(tmp_path: Path) -> None:
    embed = cached(EmbeddingStore(tmp_path), model_name="numbers", storage_dtype="float16")(numbers)
    first = embed(TEXTS)
    assert first.tobytes() == embed(TEXTS).tobytes()
    assert (first != numbers(TEXTS)).any()


def test_infinite_vectors_are_returned_and_not_stored(tmp_path: Path) -> None:
    def infinite(texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 2), np.inf, np.float32)

    encoder = CachedEncoder(
        infinite, EmbeddingStore(tmp_path), model_name="i", storage_dtype="float16"
    )
    assert np.isinf(encoder.encode(TEXTS)).all()
    assert encoder.stats().entries == 0


def test_the_real_model(tmp_path: Path, minilm: Any) -> None:
    encoder = CachedEncoder(minilm, EmbeddingStore(tmp_path), storage_dtype="float16")
    texts = [f"{text} of number {number}" for text in TEXTS for number in range(20)]
    rounded = encoder.encode(texts)
    exact = minilm.encode(texts)
    assert rounded.dtype == exact.dtype
    assert np.abs(rounded - exact).max() < 2**-11
    lengths = np.linalg.norm(rounded, axis=1) * np.linalg.norm(exact, axis=1)
    assert ((rounded * exact).sum(axis=1) / lengths).min() > 0.999999
    quantized = encoder.encode(texts, precision="int8")
    assert quantized.dtype == np.int8


def test_other_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="float16"):
        open_encoder(tmp_path, storage_dtype="bfloat16")
    with pytest.raises(ValueError, match="float16"):
        cached(EmbeddingStore(tmp_path), model_name="m", storage_dtype="int8")  # type: ignore[arg-type]
