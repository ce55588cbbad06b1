"""Files that are not as they were written: what is wrong is found, and no vector is."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from embstore import EmbeddingStore, Namespace, StoreDamagedError, StoreError, StoreRefusedError
from embstore.keys import canonical_json
from embstore.moving import Manifest, export_store, import_store, read_manifest
from embstore.moving.manifest import _sealed
from tests.helpers import MODEL, check, put, texts_of
from tests.moving.stores import ALL, SEED, fill, found_in

Arrays = dict[str, np.ndarray]

DAMAGES = 100
"""For each format."""


@pytest.fixture
def arrays(tmp_path: Path) -> Arrays:
    """What is in an .npz file of two namespaces, of 50 vectors each."""
    with EmbeddingStore(tmp_path / "two", seed=SEED, on_error="raise") as store:
        put(store, MODEL, texts_of(50))
        put(store, Namespace("b"), texts_of(50))
        export_store(store, tmp_path / "two.npz")
    with np.load(tmp_path / "two.npz") as found:
        return {name: found[name].copy() for name in found}


@pytest.fixture
def imported(tmp_path: Path) -> Callable[[Arrays], int]:
    """Imports arrays, which must be refused; returns how many vectors arrived, all right."""

    def imported(arrays: Arrays, match: str = "x.npz") -> int:
        np.savez(tmp_path / "x.npz", **arrays)
        with pytest.raises(StoreDamagedError, match=match) as caught:
            import_store(tmp_path / "x.npz", tmp_path / "new")
        assert caught.value.path == str(tmp_path / "x.npz")
        if not (tmp_path / "new").exists():
            return 0
        with EmbeddingStore(tmp_path / "new", on_error="raise") as store:
            found = [check(store, each, texts_of(50)) for each in (MODEL, Namespace("b"))]
            assert store.stats().entries == sum(map(sum, found))
            return sum(map(sum, found))

    return imported


def resealed(arrays: Arrays, change: Callable[[dict], object]) -> Arrays:
    """With a manifest that somebody changed who knows how its checksum is made."""
    fields = json.loads(arrays["embstore"].tobytes())
    change(fields)
    del fields["checksum"]
    document = canonical_json(_sealed(fields))
    return {**arrays, "embstore": np.frombuffer(document, np.uint8)}


# --- by chance ----------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["parquet", "safetensors", "npz"])
def test_flipped_bits_and_lost_ends(fast_path: Path, format: str) -> None:
    """Refused, or all is there; and whatever arrives is right."""
    file, chance = fast_path / f"x.{format}", random.Random(format)
    export_store(fill(fast_path / "source"), file)
    sound = file.read_bytes()
    refused = 0
    for number in range(DAMAGES):
        if number % 5:
            damaged = bytearray(sound)
            damaged[chance.randrange(len(sound))] ^= 1 << chance.randrange(8)
            file.write_bytes(damaged)
        else:
            file.write_bytes(sound[: chance.randrange(len(sound))])
        try:
            import_store(file, fast_path / "new")
            assert found_in(fast_path / "new") == ALL
        except StoreError:
            refused += 1
            if (fast_path / "new").exists():
                found_in(fast_path / "new")
        shutil.rmtree(fast_path / "new", ignore_errors=True)
    assert refused > DAMAGES / 2  # zip and Parquet have bytes that say nothing


# --- by hand ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vectors.0", "digests.0", "checksums.0"])
def test_swapped_rows(arrays: Arrays, imported: Callable[..., int], name: str) -> None:
    arrays[name][[3, 7]] = arrays[name][[7, 3]]
    assert imported(arrays, "2 do not match their checksums, and 98 are sound") == 98


def test_rows_of_another_namespace(arrays: Arrays, imported: Callable[..., int]) -> None:
    for name in ("vectors", "digests", "checksums"):
        arrays[f"{name}.1"] = arrays[f"{name}.0"]
    assert imported(arrays, "50 do not match") == 50


def test_a_row_in_the_place_of_another(arrays: Arrays, imported: Callable[..., int]) -> None:
    """Which is sound, and a vector is missing all the same."""
    for name in ("vectors.0", "digests.0", "checksums.0"):
        arrays[name][3] = arrays[name][7]
    assert imported(arrays, "0 do not match their checksums, and 100 are sound") == 99


def test_a_lost_row_group(tmp_path: Path) -> None:
    export_store(fill(tmp_path / "s"), tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table.slice(60), tmp_path / "x.parquet")
    with pytest.raises(StoreDamagedError, match=f"of {ALL} rows, 0 do .* {ALL - 60} are sound"):
        import_store(tmp_path / "x.parquet", tmp_path / "new")
    assert found_in(tmp_path / "new") == ALL - 60


@pytest.mark.parametrize(
    "change",
    [
        lambda fields: fields.update(seed=SEED + 1),
        lambda fields: fields["namespaces"][0].update(dtype="int32"),
        lambda fields: fields["namespaces"][0].update(dim=4),
        lambda fields: fields["namespaces"][0].update(rows=2**62),
        lambda fields: fields["namespaces"].reverse(),
    ],
    ids=["seed", "dtype", "dim", "rows", "order"],
)
def test_a_manifest_that_says_something_else(
    arrays: Arrays, imported: Callable[..., int], change: Callable[[dict], object]
) -> None:
    """Its checksum tells if that happened by chance, the rows' own if it was done on purpose."""
    changed = resealed(arrays, change)
    assert imported(changed) <= 50
    fields = json.loads(changed["embstore"].tobytes())
    fields["checksum"] = json.loads(arrays["embstore"].tobytes())["checksum"]
    document = np.frombuffer(canonical_json(fields), np.uint8)
    assert imported({**arrays, "embstore": document}, "does not match its checksum") <= 50


def test_a_namespace_under_another_name(arrays: Arrays, imported: Callable[..., int]) -> None:
    def rename(fields: dict) -> None:
        renamed = Namespace("another")
        fields["namespaces"][0].update(namespace=renamed.to_dict(), id=renamed.id.hex())

    assert imported(resealed(arrays, rename), "50 do not match") == 50


@pytest.mark.parametrize(
    "name, value",
    [
        ("namespace", {"model_name": "m", "fingerprints": "?"}),
        ("namespace", {"model_name": ""}),
        ("id", "00" * 16),
        ("dtype", "object"),
        ("dtype", "f4,f4"),
        ("dtype", "<f4"),
        ("dim", 0),
        ("dim", 2**40),
        ("rows", -1),
        ("rows", True),
        ("encode_seconds", -1.0),
        ("encode_seconds", "1"),
        ("checksum", "x"),
    ],
)
def test_a_manifest_that_says_nonsense(
    arrays: Arrays, imported: Callable[..., int], name: str, value: object
) -> None:
    changed = resealed(arrays, lambda fields: fields["namespaces"][0].update({name: value}))
    assert imported(changed, "its manifest is damaged: ") == 0


def test_a_manifest_of_a_newer_embstore(arrays: Arrays, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **resealed(arrays, lambda fields: fields.update(version=2)))
    with pytest.raises(StoreRefusedError, match="newer embstore: upgrade"):
        import_store(tmp_path / "x.npz", tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_deeply_nested_json(arrays: Arrays, imported: Callable[..., int]) -> None:
    document = np.frombuffer(b'{"a":' * 100_000, np.uint8)
    assert imported({**arrays, "embstore": document}, "its manifest is damaged: ") == 0


def test_numbers_that_a_store_would_not_take(arrays: Arrays, tmp_path: Path) -> None:
    """Not even with the right checksum."""
    manifest = Manifest.from_json(arrays["embstore"].tobytes(), "")
    part = manifest.parts[0]
    vectors, digests = arrays["vectors.0"], arrays["digests.0"]
    vectors[0, 0], digests[1] = np.nan, 0
    packed = part.row_format(manifest.seed).pack(digests.view("<u8"), vectors)["checksum"]
    arrays["checksums.0"] = packed
    checksum = int(packed.sum(dtype=np.uint64))
    parts = (replace(part, checksum=checksum), *manifest.parts[1:])
    document = replace(manifest, parts=parts).to_json()
    np.savez(tmp_path / "x.npz", **{**arrays, "embstore": np.frombuffer(document, np.uint8)})
    with pytest.raises(StoreDamagedError, match="2 do not match"):
        import_store(tmp_path / "x.npz", tmp_path / "new")


# --- files of other kinds -----------------------------------------------------------------------


class Trap:
    """Tells if it is unpickled."""

    def __reduce__(self) -> tuple:
        return (Path.touch, (Path("sprung"),))


@pytest.mark.parametrize("name", ["embstore", "vectors.0", "digests.0"])
def test_nothing_is_unpickled(
    arrays: Arrays,
    imported: Callable[..., int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    trap = np.empty(arrays[name].shape, object)
    trap.fill(Trap())
    imported({**arrays, name: trap})
    assert not (tmp_path / "sprung").exists()


def test_names_are_no_paths(arrays: Arrays, tmp_path: Path) -> None:
    folder = tmp_path / "in" / "here"
    folder.mkdir(parents=True)
    np.savez(folder / "x.npz", **arrays)
    with zipfile.ZipFile(folder / "x.npz", "a") as archive:
        for name in ("../../out.npy", "/tmp/embstore-out.npy", "vectors.9.npy"):
            archive.writestr(name, "out")
    assert import_store(folder / "x.npz", tmp_path / "new").rows == 100
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "new", "two", "two.npz"]
    assert not Path("/tmp/embstore-out.npy").exists()


def test_a_compressed_archive_is_read_too(arrays: Arrays, tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    assert import_store(tmp_path / "x.npz", tmp_path / "new").rows == 100


def test_other_files(tmp_path: Path) -> None:
    strange = {
        "text.npz": b"hello",
        "empty.npz": b"",
        "empty.safetensors": b"",
        "empty.parquet": b"",
        "long.safetensors": (2**63).to_bytes(8, "little") + b"{}",
        "list.safetensors": (2).to_bytes(8, "little") + b"[]",
    }
    for name, content in strange.items():
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "theirs.npz", vectors=np.zeros((3, 3)))
    safetensors.numpy.save_file({"a": np.zeros(3)}, tmp_path / "theirs.safetensors")
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "theirs.parquet")
    with zipfile.ZipFile(tmp_path / "none.npz", "w"):
        pass
    files = sorted(tmp_path.iterdir())
    assert len(files) == 10
    for file in files:
        for read in (read_manifest, lambda file: import_store(file, tmp_path / "new")):
            with pytest.raises(StoreDamagedError, match="damaged, or was not written by embstore"):
                read(file)
    assert not (tmp_path / "new").exists()
    with pytest.raises(FileNotFoundError):
        import_store(tmp_path / "none.parquet", tmp_path / "new")
    with pytest.raises(IsADirectoryError):
        import_store(tmp_path, tmp_path / "new", format="npz")


def test_a_header_that_asks_for_a_huge_array(arrays: Arrays, tmp_path: Path) -> None:
    """It is told from the manifest, before anything is read."""
    header = io.BytesIO()
    fields = {"descr": "|u1", "fortran_order": False, "shape": (2**62,)}
    np.lib.format.write_array_header_1_0(header, fields)
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("embstore.npy", header.getvalue())
    with pytest.raises(StoreDamagedError, match="ends early"):
        read_manifest(tmp_path / "x.npz")
