"""How what goes wrong reaches the user: one line on stderr and an exit code, not a traceback."""

from __future__ import annotations

import errno
import sys
import warnings
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from embstore.errors import EmbstoreError, StoreWarning


class InputError(EmbstoreError):
    """What the user gave cannot be used; the message says what to do."""


# The builtin ones too: so upstream reports an unknown model, a prompt that the model has not got, a
# library that is not installed.
USER_ERRORS = (EmbstoreError, OSError, ValueError, ImportError)


class Commands(TyperGroup):
    """Commands whose errors are a message and exit code 2; ``--debug`` shows the traceback too."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that ``ctx`` names."""
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                if ctx.params["debug"]:
                    raise
                print("interrupted", file=sys.stderr)
                raise typer.Exit(130) from None
            except Exception as error:
                # Typer's own, which say by themselves how they end; and a closed pipe
                # (`embstore stats | head -1`), which is nobody's error.
                theirs = isinstance(error, typer.Abort) or hasattr(error, "exit_code")
                if theirs or ctx.params["debug"] or getattr(error, "errno", None) == errno.EPIPE:
                    raise
                print(f"error: {explain(error)}", file=sys.stderr)
                if not isinstance(error, USER_ERRORS):
                    print("embstore --debug shows where it arose", file=sys.stderr)
                raise typer.Exit(2) from None


def explain(error: BaseException) -> str:
    """What an error says, without the number in front of an OSError.

    >>> explain(FileNotFoundError(2, "No such file or directory", "a.txt"))
    'a.txt: No such file or directory'
    """
    if isinstance(error, OSError) and error.filename and error.strerror:
        return f"{error.filename}: {error.strerror}"
    if not isinstance(error, USER_ERRORS):
        return f"{type(error).__name__}: {error}"
    return str(error) or type(error).__name__


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # At which line of embstore it arose tells a user of the command line nothing.
    if issubclass(category, StoreWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))
