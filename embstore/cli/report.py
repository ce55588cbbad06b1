"""``embstore report``: a store on one page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from embstore.batching import Sweep
from embstore.batching.page import write_page
from embstore.cli import options as opt
from embstore.cli.errors import InputError
from embstore.cli.output import check_writable, print_json
from embstore.cli.report_page import TITLE, page
from embstore.cli.report_style import STYLE
from embstore.cli.survey import survey

Html = Annotated[Path, typer.Option("--html", help="The page to write.")]
SweepFile = Annotated[
    Path | None,
    typer.Option(
        "--sweep",
        help="Show this too: what 'embstore bench batch-size --json' has printed.",
        show_default=False,
    ),
]


def report(
    html: Html,
    location: opt.Store = None,
    sweep: SweepFile = None,
    json: opt.Json = False,
) -> None:
    """Write a page about a store: what it holds, how it grew, its hit rate over time, and the
    computing it saved. The page needs nothing else, and the store is not written to.

    [bold]Example:[/bold] embstore report --html store.html
    """
    check_writable(html)
    measured = None if sweep is None else _read_sweep(sweep)
    found = survey(location)
    write_page(html, TITLE, page(found, measured), STYLE)
    size = html.stat().st_size
    if json:
        print_json({"store": found.location, "html": str(html), "bytes": size})
    else:
        print(f"{html}: {len(found.spaces):,} namespaces of {found.location}")


def _read_sweep(path: Path) -> Sweep:
    try:
        found = Sweep.from_json(path.read_bytes())
        found.section()  # whose figures may be no numbers
    except (ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise InputError(
            f"{path} is not what 'embstore bench batch-size --json' prints: {error}"
        ) from error
    return found
