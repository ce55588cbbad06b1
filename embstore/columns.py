"""Columns of data frames as lists of texts, without importing the libraries they come from."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

_COLUMNS = {
    ("pandas", "Series"): "tolist",
    ("pandas", "Index"): "tolist",
    ("pandas.api.extensions", "ExtensionArray"): "tolist",  # Series.array, Series.unique()
    ("polars", "Series"): "to_list",
    ("pyarrow", "Array"): "to_pylist",
    ("pyarrow", "ChunkedArray"): "to_pylist",
}
"""Library and class of each kind of column, and the method that makes a list of one."""

_FRAMES = (
    *(("pandas", "DataFrame"), ("polars", "DataFrame"), ("datasets", "Dataset")),
    *(("pyarrow", "Table"), ("pyarrow", "RecordBatch")),
)


def listed(texts: Iterable[Any]) -> list[Any]:
    """Texts as a list of one's own, whatever they come in.

    Raises:
        TypeError: if it is a frame; or a column with anything but texts, a missing value included.
    """
    if isinstance(texts, (list, tuple)):
        return list(texts)
    column = column_texts(texts)
    return list(texts) if column is None else column


def column_texts(given: Any) -> list[str] | None:
    """The texts of a pandas, polars or Arrow column in the order of its rows, or None if it is
    none.

    Raises:
        TypeError: if it is a frame; or a column with anything but texts, a missing value included.
    """
    method = next((how for kind, how in _COLUMNS.items() if _is_a(given, kind)), None)
    if method is None:
        if any(_is_a(given, kind) for kind in _FRAMES):
            raise TypeError(
                f"a {type(given).__name__} may have several columns: give the one with the texts, "
                'as in frame["text"]'
            )
        return None
    values: list[Any] = getattr(given, method)()
    refuse_others(values)
    return values


def refuse_others(values: list[Any]) -> None:
    """Raise TypeError unless all values are texts; it tells where the first other one stands."""
    if set(map(type, values)) <= {str}:
        return
    for place, value in enumerate(values):
        if not isinstance(value, str):
            raise TypeError(
                f"texts must be str, not {type(value).__name__}: {value!r:.80} at position {place}"
                + (
                    ", a missing value: drop such rows, or put a text in their place"
                    if is_missing(value)
                    else ""
                )
            )


def is_missing(value: Any) -> bool:
    """Whether a value stands for none: None, NaN, or pandas' own."""
    if value is None or (isinstance(value, float) and value != value):
        return True
    return type(value).__name__ in ("NAType", "NaTType")


def _is_a(given: Any, kind: tuple[str, str]) -> bool:
    # Whoever has a column has imported its library.
    known = getattr(sys.modules.get(kind[0]), kind[1], None)
    return isinstance(known, type) and isinstance(given, known)
