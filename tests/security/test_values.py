"""Names, settings, sizes and seeds that somebody chose."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embstore import (
    EmbeddingStore,
    Namespace,
    NamespaceError,
)
from tests.helpers import (
    MODEL,
    check,
    put,
    texts_of,
)


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "namespace",
    [
        Namespace("x" * 1_000_000),
        Namespace("../\0\n\x1b[31m" * 10_000),
        Namespace("m", prompt="p" * 1_000_000),
        Namespace("m", extra={str(number): number for number in range(2000)}),
        Namespace("m", extra=nested(100)),
        Namespace("m", truncate_dim=10**4000),
    ],
    ids=["1 MB name", "control characters", "1 MB prompt", "2,000 extras", "nested", "number"],
)
@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
def test_large_namespaces(fast_path: Path, namespace: Namespace) -> None:
    with EmbeddingStore(fast_path, on_error="raise") as store:
        put(store, namespace, ["a"])
        put(store, MODEL, ["a"])
    (fast_path / "cache.db").unlink()  # and out of the header
    with EmbeddingStore(fast_path, on_error="raise") as store:
        assert check(store, namespace, ["a", "b"]) == [True, False]
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        assert store.verify().ok


@pytest.mark.parametrize(
    "extra",
    [
        nested(100_000),
        {"a": 10**5000},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": b"bytes"},
        {1: "a"},
    ],
    ids=["deep", "long", "nan", "inf", "bytes", "key"],
)
def test_settings_that_are_no_json_are_refused(extra: dict) -> None:
    with pytest.raises(NamespaceError):
        Namespace("m", extra=extra)


def test_vectors_of_a_million_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        with EmbeddingStore(tmp_path, on_error="raise") as store:
            put(store, MODEL, ["a", "b"], 10**6)
            assert check(store, MODEL, ["a", "b", "c"], 10**6) == [True, True, False]


@pytest.mark.parametrize("dim", [0, 2**24 + 1])
def test_vectors_of_too_few_or_too_many_numbers_are_refused(tmp_path: Path, dim: int) -> None:
    with EmbeddingStore(tmp_path) as store:
        with pytest.raises(NamespaceError):
            store.put_many(MODEL, ["a"], np.zeros((1, dim), np.int8))
        put(store, MODEL, ["a"])
        assert check(store, MODEL, ["a"]) == [True]


@pytest.mark.parametrize(
    "size",
    [
        -1, "-1", 1.5, True, "nan", "inf", "1e9", "", "1EB",
        "9" * 400,
    ],
    ids=lambda size: repr(size)[:9],
)  # fmt: skip
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: object) -> None:
    for name in ("size_limit", "memory_limit"):
        with pytest.raises(ValueError, match="size"):
            EmbeddingStore(tmp_path, **{name: size})


def test_sizes_beyond_any_disk_are_no_limit(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, size_limit=2**80, memory_limit=2**80) as store:
        put(store, MODEL, texts_of(10))
        assert all(check(store, MODEL, texts_of(10)))
        assert store.prune(max_size=2**80) == 0


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64, 1.5, "a", True])
def test_seeds_that_are_none_are_refused(tmp_path: Path, seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        EmbeddingStore(tmp_path, seed=seed)  # type: ignore[arg-type]
