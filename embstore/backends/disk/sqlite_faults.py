"""Faults of SQLite and of the system, by what they mean for a store."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import NoReturn

from embstore.errors import StoreDamagedError, StoreError

_DAMAGE = {
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_ERROR,  # a table or column that is gone: the SQL itself is constant
    sqlite3.SQLITE_MISMATCH,
}


class FaultsNamed:
    """``with`` this, an error of SQLite or the system is raised as StoreDamagedError if the file
    contradicts itself, as StoreError otherwise.

    A class, as a generator takes four times as long to enter, and a commit enters six.

    Args:
        path: the file.
        is_written: whether it was opened to be written.
    """

    def __init__(self, path: Path, *, is_written: bool) -> None:
        self._path = path
        self._is_written = is_written

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            if self._is_damage(error):
                self.damaged(str(error), error)
            why, full = f"{self._path}: {error}", {}
            if self._is_disk_full():  # which SQLite calls an I/O error, now and then
                why, full = f"{why}: the disk is full", {"errno": errno.ENOSPC}
            raise StoreError(why, path=str(self._path), **full) from error
        if isinstance(error, UnicodeDecodeError):  # of a name in SQLite's schema
            self.damaged(str(error), error)
        if isinstance(error, OSError):
            directory = str(self._path.parent)
            raise StoreError(f"{directory}: {error}", path=directory) from error

    def damaged(self, why: str, cause: Exception | None = None) -> NoReturn:
        """Raise StoreDamagedError."""
        raise StoreDamagedError(f"{self._path} is damaged: {why}", path=str(self._path)) from cause

    def _is_disk_full(self) -> bool:
        try:
            return os.statvfs(self._path.parent).f_bavail == 0
        except OSError:
            return False

    def _is_damage(self, error: sqlite3.Error) -> bool:
        code = getattr(error, "sqlite_errorcode", None)
        if code is None:  # the sqlite3 module's own: a text that is not UTF-8, for one
            return not isinstance(error, sqlite3.ProgrammingError)
        if code & 0xFF == sqlite3.SQLITE_READONLY and self._is_written:
            # Of a file that can be written it means a format that SQLite never wrote.
            return os.access(self._path, os.W_OK) and os.access(self._path.parent, os.W_OK)
        return code & 0xFF in _DAMAGE
