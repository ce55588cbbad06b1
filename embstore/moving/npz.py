"""Vectors in an .npz file: needs nothing but numpy, here and there.

It holds ``embstore``, the manifest as JSON in uint8, and the arrays of arrays.py. Nothing is
pickled. numpy.load would hold a whole array in memory, so arrays are written and read in pieces, as
streams of a zip archive, which is never unpacked to files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Iterator
from typing import IO, Any, BinaryIO

import numpy as np

from embstore.moving.arrays import Column, columns, from_bytes, to_bytes
from embstore.moving.chunks import Chunk, ChunksOf, rows_at_once
from embstore.moving.manifest import KEY, Manifest, Part

_MOST_JSON = 2**26


def write(file: BinaryIO, manifest: Manifest, chunks_of: ChunksOf) -> None:
    """Write all parts. Of each, 24 bytes a row are held in memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        document = manifest.to_json()
        with _new(archive, Column(KEY, np.dtype(np.uint8), (len(document),))) as stream:
            stream.write(document)
        for number, part in enumerate(manifest.parts):
            vectors, digests, checksums = columns(number, part)
            rest = []
            with _new(archive, vectors) as stream:
                for chunk in chunks_of(part):
                    numbers, *others = to_bytes(chunk)
                    stream.write(numbers)
                    rest.append(others)
            with _new(archive, digests) as stream:
                stream.writelines(one for one, _ in rest)
            with _new(archive, checksums) as stream:
                stream.writelines(one for _, one in rest)


def _new(archive: zipfile.ZipFile, column: Column) -> IO[bytes]:
    # With zip's oldest date, as numpy.savez does it: equal stores give equal files.
    stream = archive.open(zipfile.ZipInfo(f"{column.name}.npy"), "w", force_zip64=True)
    header = {"descr": column.dtype.str, "fortran_order": False, "shape": column.shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream


def read_manifest(file: BinaryIO, path: str) -> Manifest:
    """What the file says it holds."""
    with zipfile.ZipFile(file) as archive, archive.open(f"{KEY}.npy") as stream:
        (length,), _, _ = _header(stream)
        return Manifest.from_json(_exactly(stream, min(length, _MOST_JSON)), path)


def read(
    file: BinaryIO, manifest: Manifest, wanted: Iterable[Part]
) -> Iterator[tuple[Part, Chunk]]:
    """The rows of the wanted parts, unchecked."""
    with zipfile.ZipFile(file) as archive:
        for part in wanted:
            three = columns(manifest.parts.index(part), part)
            streams = [_open(archive, column) for column in three]
            at_once = rows_at_once(part.row_format(manifest.seed).stride)
            for start in range(0, part.rows, at_once):
                rows = min(at_once, part.rows - start)
                pieces = [
                    _exactly(stream, rows * column.width)
                    for stream, column in zip(streams, three, strict=True)
                ]
                yield part, from_bytes(part, *pieces)


def _open(archive: zipfile.ZipFile, column: Column) -> IO[bytes]:
    stream = archive.open(f"{column.name}.npy")
    if _header(stream) != (column.shape, False, column.dtype):
        raise ValueError(f"{column.name} is not of shape {column.shape} and {column.dtype}")
    return stream


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of an array."""
    if np.lib.format.read_magic(stream) != (1, 0):
        raise ValueError("an array has a header that embstore never writes")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, fortran, dtype


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data
