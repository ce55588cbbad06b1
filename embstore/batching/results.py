"""What all results have in common: a table, a picture, a data frame."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embstore.batching import figures
from embstore.batching.report import html_table, text_table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Result(ABC):
    """Something that was measured."""

    @abstractmethod
    def _cells(self) -> Sequence[tuple[str, ...]]:
        """The table's header, and its lines."""

    @abstractmethod
    def figure(self) -> Figure:
        """The picture.

        Raises:
            ImportError: if matplotlib is not installed.
        """

    def table(self) -> str:
        """The figures as text; it is Markdown too."""
        return text_table(self._cells())

    def _repr_html_(self) -> str:
        return html_table(self._cells())

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Save :meth:`figure` as .png or .svg.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if ``path`` has another suffix.
            OSError: if it cannot be written.
        """
        figures.save(self.figure(), path)


def data_frame(rows: Iterable[Mapping[str, object]]) -> Any:
    """A pandas DataFrame of these rows.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise ImportError("to_pandas needs an extra: pip install 'embstore[bench]'") from error
    return pd.DataFrame(list(rows))
