"""Stores into files, and back: Parquet, safetensors, npz."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal, Protocol

from embstore.backends.base import Progressed, unheard
from embstore.errors import EmbstoreError, StoreDamagedError
from embstore.files import written_whole
from embstore.moving.chunks import Chunk, ChunksOf, add_up, count, counted, heard
from embstore.moving.manifest import Manifest, Part
from embstore.moving.places import (
    Chosen,
    MoveReport,
    absorb,
    reading,
    refuse_misfits,
    select,
    writing,
)
from embstore.store import StoreLike

Format = Literal["parquet", "safetensors", "npz"]

SUFFIXES: dict[str, Format] = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".safetensors": "safetensors",
    ".npz": "npz",
}
"""What a file's suffix says."""


class _Module(Protocol):
    """What parquet.py, safetensors.py and npz.py do. Of a damaged file they raise anything, or give
    rows that do not match their checksums."""

    def write(self, file: BinaryIO, manifest: Manifest, chunks_of: ChunksOf) -> None: ...

    def read_manifest(self, file: BinaryIO, path: str) -> Manifest: ...

    def read(
        self, file: BinaryIO, manifest: Manifest, wanted: Iterable[Part]
    ) -> Iterator[tuple[Part, Chunk]]: ...


def export_store(
    store: StoreLike,
    path: str | os.PathLike[str],
    *,
    format: Format | None = None,
    namespaces: Chosen = None,
    progressed: Progressed = unheard,
) -> MoveReport:
    """Write the vectors of a store to a file, whole or not at all.

    The store is read twice: to find how much there is to write, and to write it. What others store
    meanwhile is left out.

    Args:
        store: a store or its location; it may be read-only, and in use.
        path: the file; one that is there is replaced.
        format: how it is written; None goes by its suffix.
        namespaces: one :class:`~embstore.Namespace`, several, or all (None).
        progressed: called with a number of rows when so many more are written.

    Returns:
        ``rows`` and ``stored`` are the vectors in the file.

    Raises:
        ImportError: if the format needs a library that is not installed.
        NamespaceError: if nothing is stored under a namespace asked for, or the format has no such
            numbers.
        OSError: if the file cannot be written.
        StoreError: if the store cannot be read, or vectors were deleted meanwhile.
        ValueError: if the format cannot be told.
    """
    module = _module(path, format)
    with reading(store) as source:
        infos = select(source.namespaces(), namespaces, source.location)
        parts = [part for info in infos if (part := count(source, info)).rows]
        manifest = Manifest(source.seed, tuple(parts))

        def chunks_of(part: Part) -> Iterator[Chunk]:
            return heard(counted(source, part), progressed)

        with written_whole(path) as file:
            module.write(file, manifest, chunks_of)
        return MoveReport(len(parts), manifest.rows, manifest.rows, source.corrupt)


def import_store(
    path: str | os.PathLike[str],
    store: StoreLike = None,
    *,
    format: Format | None = None,
    namespaces: Chosen = None,
    progressed: Progressed = unheard,
) -> MoveReport:
    """Store the vectors of a file that :func:`export_store` wrote.

    Where there is no store, one is made with the seed of the file. A text that is stored already
    keeps its vector. Each chunk of rows is one commit, so an import that was interrupted is just
    done again.

    Args:
        path: the file.
        store: a store or its location; None is the default location.
        format: how it was written; None goes by its suffix.
        namespaces: one :class:`~embstore.Namespace`, several, or all (None).
        progressed: called with a number of rows when so many more are done.

    Raises:
        ImportError: if the format needs a library that is not installed.
        NamespaceError: if the file has nothing under a namespace asked for, or vectors of another
            dtype or dim than the store.
        OSError: if the file cannot be opened.
        StoreDamagedError: if anything in the file is not as it was written. What is sound of it is
            stored all the same, as far as it could be read.
        StoreError: if the store cannot be written.
        StoreRefusedError: if the store has another seed, or a newer embstore wrote the file.
        ValueError: if the format cannot be told.
    """
    module, name = _module(path, format), os.fspath(path)
    with Path(path).open("rb") as file:
        manifest = _read_manifest(module, file, name)
        parts = select(manifest.parts, namespaces, name)
        with writing(store, manifest.seed, name) as into:
            refuse_misfits([(into.location, into.namespaces()), (name, parts)])
            seen = {part.namespace: (0, 0) for part in parts}
            stored = bad = 0
            for part, chunk in _read(module, file, manifest, parts, name):
                sound = chunk.sound(part.row_format(manifest.seed))
                rows, checksum = seen[part.namespace]
                seen[part.namespace] = rows + len(sound.digests), add_up(checksum, sound)
                bad += len(chunk.digests) - len(sound.digests)
                stored += absorb(into, part.namespace, sound.digests, sound.vectors, part.pace)
                progressed(len(chunk.digests))
    rows = sum(rows for rows, _ in seen.values())
    for part in parts:
        if seen[part.namespace] != (part.rows, part.checksum):
            raise StoreDamagedError(
                f"{name} is damaged: of {sum(part.rows for part in parts):,} rows, {bad:,} do not "
                f"match their checksums, and {rows:,} are sound; these are in the store",
                path=name,
            )
    return MoveReport(len(parts), rows, stored)


def read_manifest(path: str | os.PathLike[str], *, format: Format | None = None) -> Manifest:
    """What a file that :func:`export_store` wrote says it holds. Its rows are not looked at.

    Raises:
        ImportError: if the format needs a library that is not installed.
        OSError: if it cannot be opened.
        StoreDamagedError: if it is damaged, or something else.
        StoreRefusedError: if a newer embstore wrote it.
        ValueError: if the format cannot be told.
    """
    with Path(path).open("rb") as file:
        return _read_manifest(_module(path, format), file, os.fspath(path))


def _read_manifest(module: _Module, file: BinaryIO, name: str) -> Manifest:
    with _damage_named(name):
        return module.read_manifest(file, name)


def _read(
    module: _Module, file: BinaryIO, manifest: Manifest, parts: list[Part], name: str
) -> Iterator[tuple[Part, Chunk]]:
    chunks = module.read(file, manifest, parts)
    while True:
        with _damage_named(name, "; what was read before that is stored"):
            read = next(chunks, None)
        if read is None:
            return
        yield read


@contextmanager
def _damage_named(name: str, so_far: str = "") -> Iterator[None]:
    try:
        yield
    except EmbstoreError:
        raise
    except Exception as error:  # what zipfile, numpy and pyarrow make of garbage is without limit
        raise StoreDamagedError(
            f"{name} is damaged, or was not written by embstore: {error}{so_far}", path=name
        ) from error


def _module(path: str | os.PathLike[str], format: str | None) -> _Module:
    format = format or SUFFIXES.get(Path(path).suffix.lower())
    if format == "parquet":
        from embstore.moving import parquet

        return parquet
    if format == "safetensors":
        from embstore.moving import safetensors

        return safetensors
    if format == "npz":
        from embstore.moving import npz

        return npz
    raise ValueError(
        f"{os.fspath(path)}: name it .parquet, .safetensors or .npz"
        if format is None
        else f'the format is "parquet", "safetensors" or "npz", not {format!r}'
    )
