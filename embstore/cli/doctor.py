"""``embstore doctor``: what is wrong here, and what to do."""

from __future__ import annotations

import typer

from embstore.cli import options as opt
from embstore.cli.output import print_json, print_table
from embstore.doctor import diagnose


def doctor(location: opt.Store = None, json: opt.Json = False) -> None:
    """Look at versions, file system, permissions, space and health of a store, and say what to do;
    exit code 1 if there is an error. Writes nothing."""
    diagnosis = diagnose(location)
    if json:
        print_json(diagnosis.to_dict())
    else:
        print(diagnosis.location)
        print_table(
            ("check", "status", "found"),
            ((check.name, check.status, check.found) for check in diagnosis.checks),
            left=3,
        )
        for check in diagnosis.checks:
            if check.advice:
                # Not in the table, which would break the commands at its edges.
                print(f"{check.name}: {check.advice}")
    if not diagnosis.ok:
        raise typer.Exit(1)
