"""What commands give back: tables and JSON on stdout, arrays in files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from embstore.cli.errors import InputError
from embstore.files import written_whole


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]], *, left: int = 1) -> None:
    """A table on stdout; its first ``left`` columns are words, the others figures."""
    table = Table()
    for number, column in enumerate(columns):
        # Folded and not cut: of a model name that lost its end, nothing can be made.
        table.add_column(column, justify="left" if number < left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    # No markup: a model may well be called "org/[draft]".
    Console(markup=False, highlight=False, emoji=False).print(table)


def progress_bar(total: int, unit: str) -> tqdm[Any]:
    """A bar on stderr, with rate and remaining time, if that is a terminal; to be used in
    ``with``."""
    return tqdm(total=total, unit=f" {unit}", unit_scale=True, disable=not sys.stderr.isatty())


def check_writable(path: Path) -> None:
    """Find out before the work is done that its result could not be written.

    Raises:
        InputError: if no file can be made at ``path``.
    """
    folder = path.resolve().parent
    if path.is_dir():
        raise InputError(f"{path} is a directory: name a file in it")
    if not folder.is_dir():
        raise InputError(f"there is no directory {folder}: make it first")
    if not os.access(folder, os.W_OK):
        raise InputError(f"{folder} may not be written to")


def write_npy(path: Path, array: np.ndarray[Any, Any]) -> None:
    """Write ``array`` to ``path``, whole or not at all.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    with written_whole(path) as file:
        np.save(file, array, allow_pickle=False)
