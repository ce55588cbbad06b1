"""Stores into files and back, whatever the format."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from embstore import (
    EmbeddingStore,
    Namespace,
    NamespaceError,
    StoreError,
    StoreRefusedError,
)
from embstore.moving import export_store, import_store, read_manifest
from tests.helpers import MODEL, OTHER, check, put, run_python, texts_of, vectors_of
from tests.moving.stores import ALL, LAYOUTS, SEED, TEXTS, fill, found_in
from tests.test_read_only import listing

FORMATS = ("parquet", "safetensors", "npz")
every = pytest.mark.parametrize("format", FORMATS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "there" / "source")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A store of 100 vectors under one namespace."""
    with EmbeddingStore(tmp_path / "small", seed=SEED, on_error="raise") as store:
        put(store, MODEL, texts_of(100))
    return tmp_path / "small"


# --- there and back -----------------------------------------------------------------------------


@every
def test_all_comes_back_bit_for_bit(source: Path, tmp_path: Path, format: str) -> None:
    before = listing(source)
    heard: list[int] = []
    file = tmp_path / f"all.{format}"
    report = export_store(source, file, progressed=heard.append)
    assert (report.namespaces, report.rows, report.damaged) == (len(LAYOUTS), ALL, 0)
    assert sum(heard) == ALL
    assert listing(source) == before, "an export writes nothing to its store"

    heard.clear()
    report = import_store(file, tmp_path / "new", progressed=heard.append)
    assert (report.namespaces, report.rows, report.stored) == (len(LAYOUTS), ALL, ALL)
    assert sum(heard) == ALL
    assert found_in(tmp_path / "new") == ALL
    assert import_store(file, tmp_path / "new").stored == 0
    assert found_in(tmp_path / "new") == ALL


@every
def test_equal_stores_give_equal_files(source: Path, tmp_path: Path, format: str) -> None:
    first, second = tmp_path / f"1.{format}", tmp_path / f"2.{format}"
    export_store(source, first)
    import_store(first, tmp_path / "copy")
    export_store(tmp_path / "copy", second)
    assert read_manifest(first) == read_manifest(second)
    assert first.read_bytes() == second.read_bytes()


@every
def test_one_namespace_of_several(source: Path, tmp_path: Path, format: str) -> None:
    one, two, *_ = LAYOUTS
    file = tmp_path / f"one.{format}"
    assert export_store(source, file, namespaces=one).rows == len(TEXTS)
    assert [part.namespace for part in read_manifest(file).parts] == [one]
    export_store(source, file, namespaces=[one, two])
    assert import_store(file, tmp_path / "new", namespaces=two).rows == len(TEXTS)
    with EmbeddingStore(tmp_path / "new", on_error="raise") as store:
        assert [info.namespace for info in store.namespaces()] == [two]
        assert all(check(store, two, TEXTS, *LAYOUTS[two]))
    with pytest.raises(NamespaceError, match="has no vectors under a/model"):
        export_store(source, file, namespaces=MODEL)
    with pytest.raises(TypeError, match=r"not 'one/model': store\.namespaces"):
        export_store(source, file, namespaces="one/model")
    with pytest.raises(NamespaceError, match="has no vectors under half"):
        import_store(file, tmp_path / "new", namespaces=Namespace("half", "1"))


@every
def test_a_store_without_vectors(tmp_path: Path, format: str) -> None:
    EmbeddingStore(tmp_path / "empty", seed=7).close()
    export_store(tmp_path / "empty", tmp_path / f"x.{format}")
    assert import_store(tmp_path / f"x.{format}", tmp_path / "new").rows == 0
    EmbeddingStore(tmp_path / "new", seed=7, on_error="raise").close()


@every
def test_vectors_of_many_numbers(tmp_path: Path, format: str) -> None:
    texts, layout = texts_of(9), (300_000, "float32")
    with EmbeddingStore(tmp_path / "wide", on_error="raise") as store:
        put(store, MODEL, texts, *layout)
        export_store(store, tmp_path / f"x.{format}")
    import_store(tmp_path / f"x.{format}", tmp_path / "new")
    with EmbeddingStore(tmp_path / "new", on_error="raise") as store:
        assert all(check(store, MODEL, texts, *layout))


def test_numbers_that_a_format_has_not(tmp_path: Path) -> None:
    vectors = np.arange(6, dtype=np.longdouble).reshape(3, 2)
    with EmbeddingStore(tmp_path / "s", on_error="raise") as store:
        store.put_many(MODEL, texts_of(3), vectors)
        for suffix in ("parquet", "safetensors"):
            with pytest.raises(NamespaceError, match="npz has"):
                export_store(store, tmp_path / f"x.{suffix}")
            assert not (tmp_path / f"x.{suffix}").exists()
        export_store(store, tmp_path / "x.npz")
    import_store(tmp_path / "x.npz", tmp_path / "new")
    with EmbeddingStore(tmp_path / "new", on_error="raise") as store:
        got, found = store.get_many(MODEL, texts_of(3))
        assert found.all()
        assert got.dtype == vectors.dtype
        assert (got == vectors).all()


def test_format_and_suffix(small: Path, tmp_path: Path) -> None:
    export_store(small, tmp_path / "X.NPZ")
    export_store(small, tmp_path / "x.bin", format="npz")
    assert (tmp_path / "X.NPZ").read_bytes() == (tmp_path / "x.bin").read_bytes()
    assert import_store(tmp_path / "x.bin", tmp_path / "new", format="npz").rows == 100
    with pytest.raises(ValueError, match=r"x\.bin: name it \.parquet, \.safetensors or \.npz"):
        import_store(tmp_path / "x.bin")
    with pytest.raises(ValueError, match="not 'csv'"):
        export_store(small, tmp_path / "x.csv", format="csv")  # type: ignore[arg-type]


# --- stores that are there ----------------------------------------------------------------------


@pytest.mark.parametrize("open", [True, False])
def test_what_is_stored_stays(small: Path, tmp_path: Path, open: bool) -> None:
    export_store(small, tmp_path / "x.npz")
    mine = np.full((10, 8), 0.5, np.float32)
    with EmbeddingStore(tmp_path / "target", seed=SEED, on_error="raise") as store:
        store.put_many(MODEL, texts_of(10), mine)
        put(store, MODEL, ["more"])
        report = import_store(tmp_path / "x.npz", store if open else store.location)
        assert (report.rows, report.stored) == (100, 90)
        assert store.get_many(MODEL, texts_of(10))[0].tobytes() == mine.tobytes()
        assert all(check(store, MODEL, ["more", *texts_of(90, 10)]))


@pytest.mark.parametrize("open", [True, False])
def test_another_seed_is_refused(small: Path, tmp_path: Path, open: bool) -> None:
    export_store(small, tmp_path / "x.npz")
    with EmbeddingStore(tmp_path / "target", on_error="raise") as store:
        place = store if open else store.location
        with pytest.raises(StoreRefusedError, match="is empty: remove it") as caught:
            import_store(tmp_path / "x.npz", place)
        put(store, OTHER, ["a"])
        with pytest.raises(StoreRefusedError, match=r"seed than .*x\.npz.* seed=") as caught:
            import_store(tmp_path / "x.npz", place)
        assert caught.value.path == store.location
        assert str(SEED) not in str(caught.value), "the seed is a secret"
        assert [info.namespace for info in store.namespaces()] == [OTHER]


def test_another_layout_is_refused_before_anything_is_stored(source: Path, tmp_path: Path) -> None:
    export_store(source, tmp_path / "x.npz")
    with EmbeddingStore(tmp_path / "target", seed=SEED, on_error="raise") as store:
        put(store, Namespace("unsigned"), ["a"], 2, "uint8")
        with pytest.raises(NamespaceError, match=r"x\.npz has vectors of 1 x uint8, and .* of 2 x"):
            import_store(tmp_path / "x.npz", store)
        assert store.stats().entries == 1


def test_a_store_that_is_only_read(small: Path, tmp_path: Path) -> None:
    with EmbeddingStore(small, read_only=True, on_error="raise") as store:
        export_store(store, tmp_path / "x.npz")
        with pytest.raises(StoreError, match="read-only"):
            import_store(tmp_path / "x.npz", store)


def test_what_computing_took_travels(tmp_path: Path) -> None:
    """But for what is stored there already: that took nobody any time twice."""
    with EmbeddingStore(tmp_path / "s", seed=SEED, on_error="raise") as store:
        digests = store.digests(texts_of(100))
        store.keep(MODEL, digests, vectors_of(MODEL, texts_of(100)), seconds=20.0)
        export_store(store, tmp_path / "x.npz")
    with EmbeddingStore(tmp_path / "new", seed=SEED, on_error="raise") as store:
        store.keep(MODEL, digests[:50], vectors_of(MODEL, texts_of(50)), seconds=5.0)
        for _ in range(2):
            import_store(tmp_path / "x.npz", store)
            (info,) = store.namespaces()
            assert info.computed == 100
            assert info.encode_seconds == pytest.approx(5 + 50 * 0.2)
        store.get_many(MODEL, texts_of(10))
        assert store.stats().seconds_saved == pytest.approx(10 * 0.15)


# --- while something happens --------------------------------------------------------------------


@every
def test_what_others_store_meanwhile_is_left_out(small: Path, tmp_path: Path, format: str) -> None:
    with EmbeddingStore(small, on_error="raise") as other:
        numbers = iter(range(1000, 2000))
        put_one = lambda rows: put(other, MODEL, [f"text {next(numbers)}"])  # noqa: E731
        other.put_many(OTHER, ["a"], vectors_of(OTHER, ["a"]))
        report = export_store(small, tmp_path / f"x.{format}", progressed=put_one)
    assert report.rows == 101
    assert import_store(tmp_path / f"x.{format}", tmp_path / "new").rows == 101


@every
def test_what_others_delete_meanwhile(source: Path, tmp_path: Path, format: str) -> None:
    """The file says how much is in it before that is written: there is none then, or the old."""
    file = tmp_path / f"x.{format}"
    file.write_text("old")
    with (
        EmbeddingStore(source, on_error="raise") as other,
        pytest.raises(StoreError, match="deleted while they were copied"),
    ):
        export_store(source, file, progressed=lambda rows: other.clear())
    assert file.read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["there", file.name]


@every
def test_a_damaged_row_is_left_out(small: Path, tmp_path: Path, format: str) -> None:
    (vectors,) = (small / "vectors").glob("*.vec")
    raw = bytearray(vectors.read_bytes())
    raw[-1] ^= 1
    vectors.write_bytes(raw)
    report = export_store(small, tmp_path / f"x.{format}")
    assert (report.rows, report.damaged) == (99, 1)
    assert import_store(tmp_path / f"x.{format}", tmp_path / "new").rows == 99


@every
def test_an_interrupted_import_is_just_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setattr("embstore.moving.chunks._MOST", 10)
    file = tmp_path / f"x.{format}"
    export_store(fill(tmp_path / "source"), file)
    times = 0

    def interrupt(rows: int) -> None:
        nonlocal times
        times += 1
        if times == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_store(file, tmp_path / "new", progressed=interrupt)
    assert found_in(tmp_path / "new") == 70
    report = import_store(file, tmp_path / "new")
    assert (report.rows, report.stored) == (ALL, ALL - 70)
    assert found_in(tmp_path / "new") == ALL


def test_a_killed_export_leaves_what_was_there(small: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_text("old")
    code = (
        "import os, sys; from embstore.moving import export_store\n"
        "export_store(*sys.argv[1:], progressed=lambda rows: os._exit(3))"
    )
    done = subprocess.run([sys.executable, "-c", code, small, file], check=False)
    assert done.returncode == 3
    assert file.read_text() == "old"


def test_a_missing_library_is_named(small: Path, tmp_path: Path) -> None:
    script = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from embstore.moving import export_store, import_store\n"
        "small, folder = sys.argv[1:]\n"
        "for suffix in 'npz', 'safetensors':\n"
        "    export_store(small, f'{folder}/x.{suffix}')\n"
        "    import_store(f'{folder}/x.{suffix}', f'{folder}/{suffix}')\n"
        "try: export_store(small, f'{folder}/x.parquet')\n"
        "except ImportError as error: print(error)\n"
        "assert 'safetensors' not in sys.modules"
    )
    assert "pip install 'embstore[parquet]'" in run_python(script, small, tmp_path)


_MEMORY = """
import sys
import numpy as np
import pyarrow.parquet
from pathlib import Path
from embstore import EmbeddingStore, Namespace
from embstore.moving import bake, export_store, import_store, merge

def in_memory():  # without what is mapped of files, which the kernel takes back when it must
    (line,) = (one for one in open("/proc/self/status") if one.startswith("RssAnon"))
    return int(line.split()[1]) // 1024

def measured(work, *arguments):
    seen = []
    work(*arguments, progressed=lambda rows: seen.append(in_memory()))
    half = len(seen) // 2
    print(work.__name__, max(seen[half:]) - max(seen[:half]))

here = Path(sys.argv[1])
with EmbeddingStore(here / "source", memory_limit=0, on_error="raise") as store:
    for first in range(0, 60_000, 6_000):
        vectors = np.arange(first * 512, (first + 6_000) * 512, dtype=np.float32)
        texts = [str(number) for number in range(first, first + 6_000)]
        store.put_many(Namespace("m"), texts, vectors.reshape(-1, 512))
for suffix in "npz", "safetensors", "parquet":
    measured(export_store, here / "source", here / f"x.{suffix}")
    measured(import_store, here / f"x.{suffix}", here / suffix)
measured(merge, here / "all", here / "npz", here / "parquet")
measured(bake, here / "all", here / "baked")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_is_bounded(fast_path: Path) -> None:
    """The second half of a store, 58 MiB, takes no more than the first; what allocators keep comes
    and goes."""
    grown = [line.split() for line in run_python(_MEMORY, fast_path).splitlines()]
    assert len(grown) == 8
    assert all(int(mib) < 40 for _, mib in grown), grown
