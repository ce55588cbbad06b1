"""When a process is in a transaction, seen from inside it."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

STEP = 20
"""SQLite's own instructions between two moments."""


class Connections:
    """All connections to ledgers that this process opens from now on."""

    def __init__(self) -> None:
        self._opened: list[sqlite3.Connection] = []
        self._connect = sqlite3.connect
        sqlite3.connect = self._open

    def _open(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection: sqlite3.Connection = self._connect(*arguments, **options)
        self._opened.append(connection)
        return connection

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is under way, be it only to read."""
        return any(map(_in_transaction, self._opened))


def _in_transaction(connection: sqlite3.Connection) -> bool:
    try:
        return connection.in_transaction
    except sqlite3.ProgrammingError:  # closed
        return False


class WriteLock(Connections):
    """The same, called back by SQLite. Exceptions that land in such a call come to nothing.

    Args:
        at_statement: called before each SQL statement.
        at_step: called within them.
    """

    def __init__(
        self,
        at_statement: Callable[[], None] | None = None,
        at_step: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self._at_statement = at_statement
        self._at_step = at_step
        self._writes = False

    def _open(self, *arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = super()._open(*arguments, **options)
        connection.set_trace_callback(self._trace)
        connection.set_progress_handler(self._at_step, STEP)
        return connection

    def _trace(self, statement: str) -> None:
        if statement.startswith("BEGIN"):
            self._writes = "IMMEDIATE" in statement
        if self._at_statement is not None:
            self._at_statement()

    @property
    def is_held(self) -> bool:
        """Whether a transaction that writes is under way, so that all others have to wait."""
        return self._writes and self.in_transaction
