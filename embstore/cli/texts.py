"""Reading texts from files and from standard input."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator
from enum import StrEnum
from pathlib import Path

from embstore.cli.errors import InputError


class Format(StrEnum):
    """How a file holds its texts."""

    TXT = "txt"
    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


_SUFFIXES = {
    ".txt": Format.TXT,
    ".csv": Format.CSV,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".parquet": Format.PARQUET,
}


def read_texts(
    source: str,
    *,
    file_format: Format | None = None,
    column: str | None = None,
    encoding: str = "utf-8",
) -> list[str]:
    """The texts of a file, in its order, repeats included.

    - txt: one text a line, blank lines included, so that text *i* is line *i*.
    - csv: the cells of ``column``, below a header line; blank lines are no rows.
    - jsonl: the strings under the key ``column`` of an object a line, or one string a line.
    - parquet: the cells of ``column``.

    Args:
        source: a path, or "-" for standard input.
        file_format: None takes it from the path's suffix; standard input is then txt.
        column: column or key; None takes the only one there is.
        encoding: of txt, csv and jsonl. A UTF-8 byte order mark is left out.

    Raises:
        InputError: if there is no text, or something that is not one.
        OSError: if the file cannot be read.
    """
    name = "standard input" if source == "-" else source
    file_format = file_format or _format_of(source)
    if file_format is Format.PARQUET:
        texts = _parquet(source, column, name)
    else:
        data = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
        texts = list(_READERS[file_format](_decode(data, encoding, name), column, name))
    if not texts:
        raise InputError(f"{name} is empty: there is no text in it")
    return texts


def _format_of(source: str) -> Format:
    if source == "-":
        return Format.TXT
    suffix = Path(source).suffix.lower()
    if suffix not in _SUFFIXES:
        raise InputError(
            f"cannot tell the format of {source}: say it with --format {'|'.join(Format)}"
        )
    return _SUFFIXES[suffix]


def _decode(data: bytes, encoding: str, name: str) -> str:
    try:
        text = data.decode(encoding)
    except LookupError:
        raise InputError(f"Python knows no encoding {encoding!r}; try utf-8 or latin-1") from None
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{name} is not {encoding}: line {line} has the byte 0x{data[error.start]:02x}. "
            "Say what it is, for instance --encoding cp1252, or --format if it is no text file"
        ) from None
    return text.removeprefix("\ufeff")


def _lines(text: str) -> Iterable[str]:
    # Not str.splitlines, which also splits at form feeds and at U+2028: those belong to the text.
    return io.StringIO(text, newline=None)


def _txt(text: str, column: str | None, name: str) -> Iterator[str]:
    if column is not None:
        raise InputError(f"{name} is read as one text a line, so it has no column {column!r}")
    return (line.removesuffix("\n") for line in _lines(text))


def _csv(text: str, column: str | None, name: str) -> Iterator[str]:
    # The default refuses a cell of more than 128 KiB.
    csv.field_size_limit(2**31 - 1)
    # Strict, because an unclosed quote would otherwise make one text of the rest of the file.
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(rows, [])
        column = _choose(column, header, f"the header of {name}")
        if header.count(column) > 1:
            raise InputError(f"{name} has {header.count(column)} columns named {column!r}")
        index = header.index(column)
        for row in rows:
            if not row:
                continue
            if index >= len(row):
                raise InputError(
                    f"{name}, line {rows.line_num}: the row has {len(row)} cells and none for "
                    f"column {column!r}; the header has {len(header)}"
                )
            yield row[index]
    except csv.Error as error:
        raise InputError(f"{name}, line {rows.line_num}: {error}") from None


def _jsonl(text: str, column: str | None, name: str) -> Iterator[str]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is not JSON: {error}") from None
        if isinstance(value, dict):
            column = _choose(column, list(value), where)
            value = value[column]
        elif column is not None:
            raise InputError(f"{where} is no object, so it has no {column!r}")
        if not isinstance(value, str):
            raise InputError(
                f"{where} has {json.dumps(value)[:60]} where a string is needed: "
                "turn it into a string, or leave the line out"
            )
        yield value


def _parquet(source: str, column: str | None, name: str) -> list[str]:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise InputError(
            "reading parquet needs an extra: pip install 'embstore[parquet]'"
        ) from None
    try:
        with parquet.ParquetFile(
            pa.BufferReader(sys.stdin.buffer.read()) if source == "-" else source
        ) as file:
            column = _choose(column, file.schema_arrow.names, name)
            cells = file.read(columns=[column]).column(column)
    except pa.ArrowException as error:
        raise InputError(f"{name} cannot be read as parquet: {error}") from None
    kind = cells.type.value_type if pa.types.is_dictionary(cells.type) else cells.type
    if str(kind) not in {"string", "large_string", "string_view"}:
        raise InputError(f"column {column!r} of {name} holds {kind}, not strings")
    if cells.null_count:
        row = cells.is_null().index(True).as_py()
        raise InputError(
            f"column {column!r} of {name} is null in row {row} (from 0): fill it, or drop the row"
        )
    texts: list[str] = cells.to_pylist()
    return texts


def _choose(column: str | None, names: list[str], where: str) -> str:
    """``column`` if it is among ``names``; without one, the only name there is."""
    if column is None and len(names) == 1:
        return names[0]
    if column in names:
        return column
    if column is None:
        problem = "say which holds the texts with --column"
    else:
        problem = f"there is no {column!r}"
    raise InputError(f"{where} has {', '.join(map(repr, names)) or 'no columns'}: {problem}")


_READERS = {Format.TXT: _txt, Format.CSV: _csv, Format.JSONL: _jsonl}
