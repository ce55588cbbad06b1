"""How measured results are shown: tables as text and HTML, and a page of them."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from embstore.batching.figures import to_svg
from embstore.batching.page import write_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cells = Sequence[Sequence[str]]
"""A table: its header, then its rows, all of one length; the first column names the rows."""


@dataclass(frozen=True)
class Section:
    """One benchmark's result, ready to be printed or to stand in a report.

    Attributes:
        title: what was measured, in some words.
        setup: on what and how, in a sentence.
        cells: the figures.
        conclusions: what follows from them, each a sentence.
        environment: where it was measured, by name.
        draw: makes the picture; called only if one is wanted, as it needs matplotlib.
    """

    title: str
    setup: str
    cells: Cells
    conclusions: Sequence[str]
    environment: Mapping[str, str]
    draw: Callable[[], Figure]

    def __str__(self) -> str:
        parts = [f"{self.title}\n{self.setup}", text_table(self.cells)]
        if self.conclusions:
            parts.append("\n".join(f"- {sentence}" for sentence in self.conclusions))
        parts.append("\n".join(f"{name}: {value}" for name, value in self.environment.items()))
        return "\n\n".join(parts)


def text_table(cells: Cells) -> str:
    """A table of text whose columns line up; it is Markdown too.

    >>> print(text_table([("batch size", "texts/s"), ("8", "350"), ("16", "1,020")]))
    | batch size | texts/s |
    | ---------- | ------: |
    | 8          |     350 |
    | 16         |   1,020 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    widths = [max(3, *map(len, column)) for column in zip(*escaped, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    aligned = [
        [row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]
        for row in (escaped[0], rule, *escaped[1:])
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in aligned)


def html_table(cells: Cells) -> str:
    """The same as an HTML ``<table>``."""
    header, *rows = cells
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in header)
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in figures)
        + "</tr>\n"
        for name, *figures in rows
    )
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def write_report(path: str | os.PathLike[str], sections: Sequence[Section]) -> None:
    """Write one HTML page that loads nothing: tables, pictures and style are in it.

    Raises:
        ImportError: if matplotlib is not installed.
        OSError: if the file cannot be written; what was there before is untouched.
    """
    title = "embstore: benchmarks"
    write_page(path, title, "\n".join([f"<h1>{title}</h1>", *map(_html, sections)]))


def _html(section: Section) -> str:
    title = escape(section.title)
    conclusions = "".join(f"<li>{escape(sentence)}</li>\n" for sentence in section.conclusions)
    environment = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n"
        for name, value in section.environment.items()
    )
    # As an image and not as elements of the page: the ids of two pictures would clash there.
    picture = base64.b64encode(to_svg(section.draw()).encode()).decode()
    return f"""<section>
<h2>{title}</h2>
<p>{escape(section.setup)}</p>
<ul>
{conclusions}</ul>
<img alt="{title}; the table below has the figures" src="data:image/svg+xml;base64,{picture}">
<div class="wide">{html_table(section.cells)}</div>
<details><summary>Measured on</summary><dl>
{environment}</dl></details>
</section>"""
