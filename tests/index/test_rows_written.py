"""The bytes of rows on disk: the same however they were stored, and nothing of others in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embstore import EmbeddingStore, Namespace
from embstore.backends.disk.vectors import read_header
from tests.helpers import check, put, texts_of

LAYOUTS = [
    (1, "int8"),
    (7, "uint8"),
    (13, "int8"),
    (8, "int8"),
    (1, "float16"),
    (5, "float16"),
    (3, "float32"),
    (7, "float32"),
    (8, "float32"),
    (3, "float64"),
]
SPACES = {Namespace("m", extra={"layout": list(layout)}): layout for layout in LAYOUTS}
LARGE = Namespace("large")
HUGE = Namespace("too large to be laid out at once")


def rows_of(location: Path) -> dict[Namespace, np.ndarray]:
    """All rows, by namespace, as they lie in the files."""
    found = {}
    for file in (location / "vectors").glob("*.vec"):
        header = read_header(file)
        form = header.row_format()
        raw = file.read_bytes()[header.size :]
        assert len(raw) % form.stride == 0
        found[header.namespace] = np.frombuffer(raw, form.dtype)
    return found


def dirty(store: EmbeddingStore) -> None:
    """Have larger rows written, without a zero in them."""
    ones = np.full((64, 301), 0x7F, np.uint8).view(np.int8)
    dirty.count = getattr(dirty, "count", 0) + 64
    store.put_many(LARGE, texts_of(64, dirty.count), ones)


def test_padding_is_zero_after_larger_rows(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        for namespace, layout in SPACES.items():
            for first, count in ((0, 2), (10, 300), (400, 1), (500, 17)):
                dirty(store)
                put(store, namespace, texts_of(count, first), *layout)
        for namespace, layout in SPACES.items():
            assert all(check(store, namespace, texts_of(300, 10), *layout))
        assert store.verify().ok
    padded = 0
    for namespace, rows in rows_of(tmp_path).items():
        pad = rows["pad"].tobytes()
        assert pad == bytes(len(pad)), namespace
        padded += bool(pad)
    assert padded >= 6


@pytest.mark.parametrize("order", ["C", "F", "strided"])
def test_one_by_one_or_all_at_once_are_the_same_bytes(tmp_path: Path, order: str) -> None:
    texts = texts_of(30)
    for way in ("single", "batch", "some"):
        with EmbeddingStore(tmp_path / way, memory_limit=0, seed=7, on_error="raise") as store:
            size = {"single": 1, "batch": len(texts), "some": 2}[way]
            for namespace, (dim, dtype) in SPACES.items():
                rng = np.random.default_rng(dim)
                vectors = rng.integers(0, 100, (len(texts), 2 * dim)).astype(dtype)
                vectors = {
                    "C": np.ascontiguousarray(vectors[:, :dim]),
                    "F": np.asfortranarray(vectors[:, :dim]),
                    "strided": vectors[:, ::2],
                }[order]
                dirty(store)
                for first in range(0, len(texts), size):
                    part = slice(first, first + size)
                    store.put_many(namespace, texts[part], vectors[part])
                    if size == 2:
                        dirty(store)
                got, found = store.get_many(namespace, texts)
                assert found.all()
                assert got.tobytes() == np.ascontiguousarray(vectors).tobytes()
    one, all_at_once, some = (
        {namespace: rows.tobytes() for namespace, rows in rows_of(tmp_path / way).items()}
        for way in ("single", "batch", "some")
    )
    for namespace in SPACES:
        assert one[namespace] == all_at_once[namespace] == some[namespace]


def test_more_than_fits_the_scratch_buffer(tmp_path: Path) -> None:
    """And as much as just fits, and a row less and more."""
    from embstore.backends.disk import backend

    with EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store:
        stride = 56
        fits = backend._SCRATCH // stride
        first = 0
        for count in (fits - 1, fits, fits + 1, 2):
            dirty(store)
            put(store, HUGE, texts_of(count, first))
            assert all(check(store, HUGE, texts_of(count, first)))
            first += count
        assert store.verify().ok


def test_threads_do_not_share_a_row(tmp_path: Path) -> None:
    """They share the buffer that rows are laid out in."""
    from concurrent.futures import ThreadPoolExecutor

    with (
        EmbeddingStore(tmp_path, memory_limit=0, on_error="raise") as store,
        ThreadPoolExecutor(4) as pool,
    ):

        def work(number: int) -> bool:
            namespace, layout = list(SPACES.items())[number % len(SPACES)]
            texts = texts_of(40, 100 * number)
            put(store, namespace, texts, *layout)
            return all(check(store, namespace, texts, *layout))

        assert all(pool.map(work, range(60)))
        assert store.verify().ok
