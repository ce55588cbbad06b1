"""Vectors in a .safetensors file.

The arrays of arrays.py are its tensors, and the manifest is in its metadata, under ``embstore``.
The format is eight bytes, a JSON header and the tensors, so it is written and read here: the
library takes and gives whole tensors, in memory or as a map of a file that may be cut short.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

from embstore.errors import NamespaceError
from embstore.moving.arrays import Column, columns, from_bytes, to_bytes
from embstore.moving.chunks import Chunk, ChunksOf, rows_at_once
from embstore.moving.manifest import KEY, Manifest, Part

_LENGTH = struct.Struct("<Q")
_MOST_JSON = 100_000_000  # what the library reads

_DTYPES = {
    **{f"f{size}": f"F{8 * size}" for size in (2, 4, 8)},
    **{f"i{size}": f"I{8 * size}" for size in (1, 2, 4, 8)},
    **{f"u{size}": f"U{8 * size}" for size in (1, 2, 4, 8)},
}


def write(file: BinaryIO, manifest: Manifest, chunks_of: ChunksOf) -> None:
    """Write all parts, each chunk into its place.

    Raises:
        NamespaceError: if the format has no such dtype.
    """
    every = [columns(number, part) for number, part in enumerate(manifest.parts)]
    entries: dict[str, Any] = {"__metadata__": {KEY: manifest.to_json().decode()}}
    # Wide numbers first: who maps the file needs them at multiples of their size.
    end = 0
    for column in sorted((one for three in every for one in three), key=_narrowness):
        entries[column.name] = _entry(column, end)
        end += column.size
    header = json.dumps(entries, separators=(",", ":")).encode()
    header = header.ljust(-(-len(header) // 8) * 8)
    file.write(_LENGTH.pack(len(header)) + header)
    start = _LENGTH.size + len(header)
    for part, three in zip(manifest.parts, every, strict=True):
        done = 0
        for chunk in chunks_of(part):
            for column, piece in zip(three, to_bytes(chunk), strict=True):
                file.seek(start + entries[column.name]["data_offsets"][0] + done * column.width)
                file.write(piece)
            done += len(chunk.digests)


def _narrowness(column: Column) -> int:
    return -column.dtype.itemsize


def _entry(column: Column, start: int) -> dict[str, Any]:
    kind = f"{column.dtype.kind}{column.dtype.itemsize}"
    if kind not in _DTYPES:
        raise NamespaceError(f"safetensors has no {column.dtype}; npz has", namespace=None)
    offsets = [start, start + column.size]
    return {"dtype": _DTYPES[kind], "shape": list(column.shape), "data_offsets": offsets}


def read_manifest(file: BinaryIO, path: str) -> Manifest:
    """What the file says it holds."""
    return Manifest.from_json(_header(file)[0]["__metadata__"][KEY].encode(), path)


def read(
    file: BinaryIO, manifest: Manifest, wanted: Iterable[Part]
) -> Iterator[tuple[Part, Chunk]]:
    """The rows of the wanted parts, unchecked."""
    entries, start = _header(file)
    for part in wanted:
        three = columns(manifest.parts.index(part), part)
        places = []
        for column in three:
            at = entries[column.name]["data_offsets"][0]
            if entries[column.name] != _entry(column, at):
                raise ValueError(f"{column.name} is not of shape {column.shape} and {column.dtype}")
            places.append(start + at)
        at_once = rows_at_once(part.row_format(manifest.seed).stride)
        for first in range(0, part.rows, at_once):
            rows = min(at_once, part.rows - first)
            pieces = [
                _exactly(file, place + first * column.width, rows * column.width)
                for place, column in zip(places, three, strict=True)
            ]
            yield part, from_bytes(part, *pieces)


def _header(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """What is said of each tensor, and where the first one begins."""
    (length,) = _LENGTH.unpack(_exactly(file, 0, _LENGTH.size))
    if length > _MOST_JSON:
        raise ValueError("its header is too long")
    entries = json.loads(_exactly(file, _LENGTH.size, length))
    return entries, _LENGTH.size + length


def _exactly(file: BinaryIO, start: int, size: int) -> bytes:
    file.seek(start)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends early")
    return data
