"""EmbeddingStore: tiers, deduplication, arguments and errors, on the disk backend."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embstore import (
    EmbeddingStore,
    Namespace,
    NamespaceError,
    StoreError,
    StoreRefusedError,
    StoreWarning,
)
from tests.helpers import MODEL, OTHER, check, put, texts_of, vector_files, vectors_of


@pytest.fixture(params=["256MB", 0], ids=["memory", "no memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[EmbeddingStore]:
    with EmbeddingStore(tmp_path / "store", memory_limit=request.param) as store:
        yield store


def test_what_was_put_is_got(store: EmbeddingStore) -> None:
    texts = ["", " ", "a", "é", "e\u0301", "日本語", "\0", "a\0b", "\ud800", "x" * 100_000, "\n"]
    put(store, MODEL, texts)
    assert check(store, MODEL, texts[::-1]) == [True] * len(texts)
    assert check(store, MODEL, ["b", *texts, "A"]) == [False, *[True] * len(texts), False]


def test_an_unknown_namespace_has_no_dim(store: EmbeddingStore) -> None:
    put(store, OTHER, ["a"])
    vectors, found = store.get_many(MODEL, ["a", "b"])
    assert vectors.shape == (2, 0)
    assert found.tolist() == [False, False]


def test_empty_calls(store: EmbeddingStore) -> None:
    store.put_many(MODEL, [], np.zeros((0, 4)))
    assert store.namespaces() == []
    vectors, found = store.get_many(MODEL, [])
    assert (vectors.shape, found.shape) == ((0, 0), (0,))
    assert store.delete_many(MODEL, []) == 0
    put(store, MODEL, ["a"])
    for _ in range(2):
        vectors, found = store.get_many(MODEL, [])
        assert (vectors.shape, vectors.dtype) == ((0, 8), np.float32)
        assert found.shape == (0,)


def test_repeats(store: EmbeddingStore) -> None:
    given = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.put_many(MODEL, ["a", "b", "a"], given)
    vectors, found = store.get_many(MODEL, ["b", "a", "c", "a", "b"])
    assert found.tolist() == [True, True, False, True, True]
    assert vectors.tolist() == [[2, 3], [0, 1], [0, 0], [0, 1], [2, 3]]


def test_a_stored_text_keeps_its_vector_until_it_is_deleted(store: EmbeddingStore) -> None:
    put(store, MODEL, ["a"])
    store.put_many(MODEL, ["a"], np.ones((1, 8), np.float32))
    assert check(store, MODEL, ["a"]) == [True]
    assert store.delete_many(MODEL, ["a"]) == 1
    store.put_many(MODEL, ["a"], np.ones((1, 8), np.float32))
    assert store.get_many(MODEL, ["a"])[0].tolist() == [[1] * 8]


def test_the_vector_stored_by_another_wins_over_ones_own(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as one, EmbeddingStore(tmp_path) as other:
        put(one, MODEL, ["a", "b"])
        other.put_many(MODEL, ["b", "c"], np.ones((2, 8), np.float32))
        for _ in range(2):
            assert check(other, MODEL, ["a", "b"]) == [True, True]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int32"])
@pytest.mark.parametrize("dim", [1, 5, 384])
def test_layouts(store: EmbeddingStore, dtype: str, dim: int) -> None:
    texts = texts_of(100)
    put(store, MODEL, texts, dim, dtype)
    assert all(check(store, MODEL, texts, dim, dtype))
    assert all(check(store, MODEL, texts[:3], dim, dtype))
    info = store.namespaces()[0]
    assert (info.namespace, info.dtype, info.dim, info.entries) == (MODEL, dtype, dim, 100)


@pytest.mark.parametrize("byte_order", ["<", ">"])
def test_vectors_come_back_in_native_byte_order(store: EmbeddingStore, byte_order: str) -> None:
    given = vectors_of(MODEL, texts_of(5)).astype(f"{byte_order}f4")
    store.put_many(MODEL, texts_of(5), given)
    for count in (5, 6):
        vectors = store.get_many(MODEL, texts_of(count))[0]
        assert vectors.dtype == np.float32
        assert vectors.dtype.isnative
        assert (vectors[:5] == given).all()


def test_lists_are_taken_for_vectors(store: EmbeddingStore) -> None:
    store.put_many(MODEL, ["a"], [[0.5, 1.5]])
    assert store.get_many(MODEL, ["a"])[0].tolist() == [[0.5, 1.5]]


def test_a_part_in_memory_and_a_part_on_disk_make_one_array(tmp_path: Path) -> None:
    texts = texts_of(10)
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts)
    with EmbeddingStore(tmp_path) as store:
        assert check(store, MODEL, texts[3:5]) == [True, True]
        asked = [texts[8], texts[3], "unknown", texts[4], texts[8], "unknown", texts[0]]
        assert check(store, MODEL, asked) == [True, True, False, True, True, False, True]
        vectors, _ = store.get_many(MODEL, asked)
        assert vectors.flags.writeable
        assert vectors.flags.c_contiguous
        assert not vectors[[2, 5]].any()


def test_what_is_in_memory_fits_what_is_on_disk_after_another_dim(tmp_path: Path) -> None:
    """Another process cleared the namespace and stored vectors of another length."""
    with EmbeddingStore(tmp_path) as one, EmbeddingStore(tmp_path) as other:
        put(one, MODEL, ["a", "b"])
        other.clear(MODEL)
        put(other, MODEL, ["a", "c"], 3, "float16")
        vectors, found = one.get_many(MODEL, ["a", "b", "c"])
        assert found[2]
        expected = vectors_of(MODEL, ["a", "b", "c"], 3, "float16")
        assert vectors.dtype == expected.dtype
        assert (vectors[found] == expected[found]).all()


def test_what_is_not_finite_is_not_stored(store: EmbeddingStore) -> None:
    texts = texts_of(5)
    given = vectors_of(MODEL, texts)
    given[1, 3], given[2, 0], given[4, 7] = np.nan, np.inf, -np.inf
    store.put_many(MODEL, texts, given)
    assert check(store, MODEL, texts) == [True, False, False, True, False]
    store.put_many(OTHER, ["a"], [[np.nan]])
    assert [info.namespace for info in store.namespaces()] == [MODEL]


@pytest.mark.parametrize(
    "vectors",
    [
        np.zeros(2),
        np.zeros((1, 8)),
        np.zeros((3, 8)),
        np.zeros((2, 8, 1)),
        np.zeros((2, 0)),
        np.zeros((2, 8), np.complex64),
        np.zeros((2, 8), np.bool_),
        np.zeros((2, 8), "M8[s]"),
        np.array([["a"], ["b"]]),
        np.array([[None], [object()]]),
        [[1.0], [1.0, 2.0]],
        0.0,
        None,
    ],
)
@pytest.mark.parametrize("read_only", [False, True])
def test_what_is_no_vector_per_text_is_refused(
    tmp_path: Path, vectors: object, read_only: bool
) -> None:
    EmbeddingStore(tmp_path).close()
    with EmbeddingStore(tmp_path, read_only=read_only) as store:
        with pytest.raises(NamespaceError):
            store.put_many(MODEL, ["a", "b"], vectors)
        assert store.namespaces() == []
        assert not store.get_many(MODEL, ["a", "b"])[1].any()


def test_another_layout_is_refused(store: EmbeddingStore) -> None:
    put(store, MODEL, ["a"])
    for dim, dtype in ((9, "float32"), (8, "float64")):
        with pytest.raises(NamespaceError, match="do not fit") as caught:
            put(store, MODEL, ["b"], dim, dtype)
        assert caught.value.namespace == MODEL
    assert check(store, MODEL, ["a", "b"]) == [True, False]


@pytest.mark.parametrize("texts", [[None], [b"a"], ["a", 1], [["a"]], ["\ud800", 1]])
def test_texts_must_be_str(store: EmbeddingStore, texts: list) -> None:
    put(store, MODEL, ["a"])
    with pytest.raises(TypeError, match="str"):
        store.get_many(MODEL, texts)
    with pytest.raises(TypeError, match="str"):
        store.put_many(MODEL, texts, np.zeros((len(texts), 8), np.float32))
    with pytest.raises(TypeError, match="str"):
        store.delete_many(MODEL, texts)


def test_deleting_and_clearing(store: EmbeddingStore) -> None:
    texts = texts_of(10)
    for namespace in (MODEL, OTHER):
        put(store, namespace, texts)
    assert store.delete_many(MODEL, [texts[0], texts[0], "unknown"]) == 1
    assert check(store, MODEL, texts) == [False, *[True] * 9]
    assert store.clear(MODEL) == 9
    assert not any(check(store, MODEL, texts))
    assert all(check(store, OTHER, texts))
    assert store.clear() == 10
    assert store.namespaces() == []
    assert not any(check(store, OTHER, texts))
    put(store, MODEL, texts, 3, "float16")
    assert all(check(store, MODEL, texts, 3, "float16"))


def test_looking_after_a_store(store: EmbeddingStore) -> None:
    put(store, MODEL, texts_of(2000), 64)
    store.delete_many(MODEL, texts_of(1900))
    report = store.verify()
    assert (report.ok, report.rows, report.corrupt) == (True, 100, 0)
    compacted = store.compact()
    assert compacted.rows == 100
    assert compacted.bytes_after < compacted.bytes_before / 2
    assert store.stats().bytes == compacted.bytes_after
    assert check(store, MODEL, texts_of(2000), 64) == [False] * 1900 + [True] * 100
    assert store.verify().ok


def test_a_pickled_store_opens_the_same_place(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, seed=5, maxsize=3, on_error="raise") as store:
        put(store, MODEL, ["a"])
        again = pickle.loads(pickle.dumps(store))
        with again:
            assert again.location == store.location
            assert check(again, MODEL, ["a"]) == [True]
            put(again, MODEL, texts_of(20))
            again.get_many(MODEL, texts_of(20))
            assert again.stats().memory_hits == 3
        assert all(check(store, MODEL, texts_of(20)))


def test_digests_are_seeded_anew_in_each_store(tmp_path: Path) -> None:
    with (
        EmbeddingStore(tmp_path / "a") as one,
        EmbeddingStore(tmp_path / "b") as other,
        EmbeddingStore(tmp_path / "a") as again,
    ):
        assert one.digests(["x"]) != other.digests(["x"])
        assert one.digests(["x"]) == again.digests(["x"])


def test_a_seed_that_is_asked_for(tmp_path: Path) -> None:
    seeds = {}
    for name in ("a", "b"):
        with EmbeddingStore(tmp_path / name, seed=2**63 - 1) as store:
            seeds[name] = store.digests(["x"])
    assert seeds["a"] == seeds["b"]
    with pytest.raises(StoreRefusedError, match="another seed"):
        EmbeddingStore(tmp_path / "a", seed=1)


def test_a_closed_store_warns_and_finds_nothing(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    put(store, MODEL, ["a"])
    store.close()
    store.close()
    with pytest.warns(StoreWarning, match="closed"):
        assert store.get_many(MODEL, ["a"])[1].tolist() == [False]
    with pytest.raises(StoreError, match="closed"):
        store.delete_many(MODEL, ["a"])
    with EmbeddingStore(tmp_path, on_error="raise") as store:
        pass
    with pytest.raises(StoreError, match="closed"):
        store.get_many(MODEL, ["a"])


def test_reading_only(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, ["a"])
        store.put_identity(b"k" * 16, {"x": 1})
    before = {path: path.read_bytes() for path in vector_files(tmp_path)}
    with EmbeddingStore(tmp_path, read_only=True) as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        assert store.get_identity(b"k" * 16) == {"x": 1}
        assert store.namespaces()[0].entries == 1
        assert store.verify().ok
        store.put_identity(b"k" * 16, {"x": 2})
        for forbidden in (
            lambda: put(store, MODEL, ["b"]),
            lambda: store.delete_many(MODEL, ["a"]),
            store.clear,
            store.compact,
        ):
            with pytest.raises(StoreError, match="read-only"):
                forbidden()
        assert store.stats().write_errors == 0
    assert {path: path.read_bytes() for path in vector_files(tmp_path)} == before
    with EmbeddingStore(tmp_path) as store:
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        assert store.get_identity(b"k" * 16) == {"x": 1}


def test_reading_only_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="no store") as caught:
        EmbeddingStore(tmp_path / "none", read_only=True)
    assert caught.value.path == str(tmp_path / "none")
    assert not os.path.exists(tmp_path / "none")


def test_two_stores_in_one_process_see_each_other(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as one, EmbeddingStore(tmp_path) as other:
        assert not any(check(other, MODEL, ["a"]))
        put(one, MODEL, ["a"])
        assert check(other, MODEL, ["a"]) == [True]


def test_identities(store: EmbeddingStore) -> None:
    assert store.get_identity(b"k" * 16) is None
    store.put_identity(b"k" * 16, {"fingerprint": "x"})
    assert store.get_identity(b"k" * 16) == {"fingerprint": "x"}


@pytest.mark.parametrize(
    "arguments",
    [{"on_error": "ignore"}, {"memory_limit": "lots"}, {"memory_limit": -1}, {"size_limit": "x"}],
)
def test_bad_arguments(tmp_path: Path, arguments: dict) -> None:
    with pytest.raises(ValueError, match=r"on_error|size"):
        EmbeddingStore(tmp_path / "store", **arguments)
    assert not os.path.exists(tmp_path / "store")


def test_its_repr_says_where_it_is(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        assert repr(store) == f"EmbeddingStore({str(tmp_path)!r})"


def test_a_namespace_of_another_fingerprint_shares_nothing(store: EmbeddingStore) -> None:
    put(store, MODEL, ["a"])
    for stranger in (OTHER, Namespace("a/model"), Namespace("a/model", "1", prompt="q")):
        assert not any(check(store, stranger, ["a"]))
