"""What the benchmark commands have in common: their options, and how a result is given back."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from embstore.batching.figures import check_suffix, require_matplotlib, save
from embstore.batching.report import Section, write_report
from embstore.cli.errors import InputError
from embstore.cli.output import check_writable, print_json

File = Annotated[
    str | None,
    typer.Argument(metavar="FILE", help="Your own texts; - for stdin.", show_default=False),
]
Rounds = Annotated[int, typer.Option(min=1, help="How often everything is measured.")]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Take a sample of so many texts.", show_default="all"),
]
Plot = Annotated[
    Path | None, typer.Option(help="Draw the result: a .png or .svg.", show_default=False)
]
Html = Annotated[Path | None, typer.Option(help="Write a page with all of it.", show_default=False)]


def check_targets(plot: Path | None, html: Path | None) -> None:
    """Find out before the work is done that its pictures could not be drawn or written.

    Raises:
        InputError: if no file can be made at one of the paths.
        ValueError: if ``plot`` ends in neither .png nor .svg.
        ImportError: if matplotlib is not installed.
    """
    if plot is not None:
        check_suffix(plot)
    for path in (plot, html):
        if path is not None:
            check_writable(path)
            require_matplotlib()


def numbers(value: str, option: str) -> list[int]:
    """The numbers of an option that takes several.

    Raises:
        InputError: if ``value`` is anything but numbers with commas between them.
    """
    try:
        return [int(number) for number in value.split(",")]
    except ValueError:
        raise InputError(f"{option} takes numbers with commas between, not {value!r}") from None


def give_back(
    section: Section,
    document: Mapping[str, object],
    *,
    as_json: bool,
    plot: Path | None,
    html: Path | None,
) -> None:
    """Write the files that were asked for, and print the result: ``document`` as JSON, or text."""
    if plot is not None:
        save(section.draw(), plot)
    if html is not None:
        write_report(html, [section])
    if as_json:
        print_json(document)
    else:
        print(section)


def show_progress() -> bool:
    """Whether there is somebody to see it."""
    return sys.stderr.isatty()
