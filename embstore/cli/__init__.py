"""The command line: ``embstore --help``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line on ``sys.argv``; the console script ``embstore`` calls this.

    Raises:
        SystemExit: always. 0: done; 1: a check failed; 2: bad usage or input; 130: interrupted.
    """
    try:
        from embstore.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in {"typer", "rich"}:
            raise
        print("the command line needs an extra: pip install 'embstore[cli]'", file=sys.stderr)
        raise SystemExit(2) from None
    app(prog_name="embstore")
