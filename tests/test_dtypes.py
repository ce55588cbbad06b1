"""Differential for models that do not compute in float32: dtypes as upstream's, warm as cold."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from embstore import CachedEncoder, EmbeddingStore

TEXTS = ["the cat sat", "", "A longer text, of two sentences. This one ends it.", "世界"]
CLOSE = {torch.float16: 2e-3, torch.bfloat16: 2e-2, torch.float64: 1e-6}
"""Rounding differs with the batch; float64 is compared as float32 is."""
RETURNS: list[dict[str, Any]] = [
    {},
    {"convert_to_tensor": True},
    {"convert_to_numpy": False},
    {"normalize_embeddings": True, "convert_to_tensor": True},
    {"truncate_dim": 8},
    {"precision": "int8"},
    {"precision": "ubinary", "convert_to_tensor": True},
]


@pytest.fixture(scope="module", params=CLOSE, ids=str)
def model(request: pytest.FixtureRequest, unnormalized: Any) -> Any:
    return copy.deepcopy(unnormalized).to(request.param)


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def raw(value: Any) -> bytes:
    return b"".join(
        part.contiguous().flatten().view(torch.uint8).numpy().tobytes()
        if isinstance(part, torch.Tensor)
        else part.tobytes()
        for part in listed(value)
    )


@pytest.mark.parametrize("arguments", RETURNS, ids=str)
def test_dtype_and_values(
    model: Any,
    store: EmbeddingStore,
    reopened: Callable[..., EmbeddingStore],
    arguments: dict[str, Any],
) -> None:
    disk = reopened(memory_limit=0)
    expected = model.encode(TEXTS, **arguments)
    cold = CachedEncoder(model, store).encode(TEXTS, **arguments)
    warm = CachedEncoder(model, store).encode(TEXTS, **arguments)
    from_disk = CachedEncoder(model, disk).encode(TEXTS, **arguments)
    assert disk.stats().misses == 0
    assert raw(cold) == raw(warm) == raw(from_disk)
    for got in (cold, warm, from_disk):
        assert type(got) is type(expected)
        for one, other in zip(listed(got), listed(expected), strict=True):
            assert (type(one), one.dtype, one.shape) == (type(other), other.dtype, other.shape)
            if "precision" not in arguments:
                difference = (torch.as_tensor(one).double() - torch.as_tensor(other).double()).abs()
                largest = max(1.0, float(torch.as_tensor(other).abs().max()))
                assert float(difference.max()) <= CLOSE[model.dtype] * largest


@pytest.mark.parametrize("texts", [[], "one text", ["one text"]], ids=str)
@pytest.mark.parametrize("arguments", RETURNS[:3], ids=str)
def test_nothing_and_single_texts(
    model: Any, store: EmbeddingStore, texts: Any, arguments: dict[str, Any]
) -> None:
    expected = model.encode(texts, **arguments)
    encoder = CachedEncoder(model, store)
    for _ in range(2):
        got = encoder.encode(texts, **arguments)
        assert type(got) is type(expected)
        for one, other in zip(listed(got), listed(expected), strict=True):
            assert (one.dtype, one.shape) == (other.dtype, other.shape)


def test_dtypes_side_by_side(unnormalized: Any, store: EmbeddingStore) -> None:
    model = copy.deepcopy(unnormalized)
    encoder = CachedEncoder(model, store)
    first = {}
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model.to(dtype)
        first[dtype] = encoder.encode(TEXTS, convert_to_tensor=True)
        assert first[dtype].dtype == dtype
    assert store.stats().misses == 3 * len(TEXTS)
    # Weights that went through bfloat16 are not what they were; back in float32 they are others.
    model.to(torch.float32)
    back = encoder.encode(TEXTS, convert_to_tensor=True)
    assert store.stats().misses == 4 * len(TEXTS)
    expected = model.encode(TEXTS, convert_to_tensor=True)
    assert torch.allclose(back, expected, rtol=0, atol=1e-6)
    assert not torch.equal(back, first[torch.float32])
