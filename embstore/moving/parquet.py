"""Vectors in a Parquet file, for all that reads tables. The only module that imports pyarrow.

    namespace      string: the namespace's id, 32 hexadecimal digits
    digest         fixed_size_binary[16]
    checksum       uint64
    vector         fixed_size_list<float>[dim], or whatever is stored

A file of several dtypes or dims has a column for each, such as ``vector_float16_768``; a row has
one of them, and null in the others. The manifest is in the schema's metadata, under ``embstore``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from embstore.errors import NamespaceError
from embstore.keys import DIGEST_SIZE
from embstore.moving.chunks import Chunk, ChunksOf, rows_at_once
from embstore.moving.manifest import KEY, Manifest, Part

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ImportError("Parquet files need an extra: pip install 'embstore[parquet]'") from error

_GROUP = 2**24
"""Bytes of vectors in a row group: what is held in memory."""

_FIXED = ("namespace", "digest", "checksum")


def write(file: BinaryIO, manifest: Manifest, chunks_of: ChunksOf) -> None:
    """Write all parts, each in row groups of its own.

    Raises:
        NamespaceError: if the format has no such dtype.
    """
    names = _names(manifest)
    schema = _schema(manifest, names)
    # Numbers of one byte take four here, unless they are entries of a dictionary.
    small = [name for (dtype, _), name in names.items() if np.dtype(dtype).itemsize == 1]
    with pq.ParquetWriter(
        file,
        schema,
        compression="NONE",  # of such numbers it saves a tenth at most
        use_dictionary=["namespace", *(f"{name}.list.element" for name in small)],
        write_statistics=False,
        write_page_checksum=True,
    ) as writer:
        for part in manifest.parts:
            waiting: list[Any] = []
            for chunk in chunks_of(part):
                waiting.append(_batch(schema, names[part.dtype, part.dim], part, chunk))
                if sum(len(batch) for batch in waiting) * chunk.vectors[:1].nbytes >= _GROUP:
                    _write_group(writer, waiting)
                    waiting = []
            if waiting:
                _write_group(writer, waiting)


def _write_group(writer: Any, batches: list[Any]) -> None:
    table = pa.Table.from_batches(batches)
    writer.write_table(table, row_group_size=len(table))


Names = dict[tuple[str, int], str]
"""The column that vectors of a dtype and dim stand in."""


def _names(manifest: Manifest) -> Names:
    layouts = dict.fromkeys((part.dtype, part.dim) for part in manifest.parts)
    if len(layouts) == 1:
        return dict.fromkeys(layouts, "vector")
    return {(dtype, dim): f"vector_{dtype}_{dim}" for dtype, dim in layouts}


def _schema(manifest: Manifest, names: Names) -> Any:
    types = [pa.string(), pa.binary(DIGEST_SIZE), pa.uint64()]
    fields = [pa.field(name, each, False) for name, each in zip(_FIXED, types, strict=True)]
    for (dtype, dim), name in names.items():
        try:
            numbers = pa.from_numpy_dtype(np.dtype(dtype))
        except pa.ArrowNotImplementedError:
            raise NamespaceError(f"Parquet has no {dtype}; npz has", namespace=None) from None
        fields.append(pa.field(name, pa.list_(numbers, dim), len(names) > 1))
    return pa.schema(fields, {KEY: manifest.to_json()})


def _batch(schema: Any, name: str, part: Part, chunk: Chunk) -> Any:
    rows = len(chunk.digests)
    digests = pa.py_buffer(b"".join(chunk.digests))
    columns = {
        "namespace": pa.array([part.namespace.id.hex()] * rows, pa.string()),
        "digest": pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(DIGEST_SIZE), rows, [None, digests]
        ),
        "checksum": pa.array(chunk.checksums),
        name: pa.FixedSizeListArray.from_arrays(pa.array(chunk.vectors.reshape(-1)), part.dim),
    }
    return pa.record_batch(
        [
            columns[field.name] if field.name in columns else pa.nulls(rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


def read_manifest(file: BinaryIO, path: str) -> Manifest:
    """What the file says it holds."""
    return Manifest.from_json(pq.ParquetFile(file).schema_arrow.metadata[KEY.encode()], path)


def read(
    file: BinaryIO, manifest: Manifest, wanted: Iterable[Part]
) -> Iterator[tuple[Part, Chunk]]:
    """The rows of the wanted parts, unchecked, in whatever order they stand."""
    parts = {part.namespace.id.hex(): part for part in manifest.parts}
    chosen = {part.namespace.id.hex() for part in wanted}
    names = _names(manifest)
    opened = pq.ParquetFile(file, page_checksum_verification=True)
    if not opened.schema_arrow.equals(_schema(manifest, names)):
        raise ValueError("its columns are others than its manifest says")
    for group in range(opened.num_row_groups):
        ids = opened.read_row_group(group, ["namespace"])["namespace"].unique().to_pylist()
        for each in ids:
            if each not in parts:
                raise ValueError("it has rows of a namespace that its manifest does not name")
        for each in sorted(chosen.intersection(ids)):
            part = parts[each]
            name = names[part.dtype, part.dim]
            at_once = rows_at_once(part.row_format(manifest.seed).stride)
            for batch in opened.iter_batches(at_once, [group], [*_FIXED, name]):
                if len(ids) > 1:  # somebody has sorted the rows
                    batch = batch.filter(pc.equal(batch["namespace"], each))
                if len(batch):
                    yield part, _chunk(part, batch, batch[name])


def _chunk(part: Part, batch: Any, column: Any) -> Chunk:
    return Chunk(
        batch["digest"].to_pylist(),
        batch["checksum"].to_numpy(),
        column.flatten().to_numpy().reshape(len(batch), part.dim),
    )
