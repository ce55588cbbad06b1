"""What diskcache may do with keys and values: keep bytes as they are, and nothing else."""

from __future__ import annotations

import sqlite3
from typing import Any, NoReturn

from diskcache import Disk
from diskcache.core import MODE_RAW

from embstore.errors import StoreDamagedError


class RawDisk(Disk):  # type: ignore[misc]  # diskcache has no types
    """Bytes as they are; whatever diskcache would unpickle, open or unlink is refused."""

    def put(self, key: bytes) -> tuple[Any, bool]:
        return sqlite3.Binary(key), True

    def get(self, key: Any, raw: Any) -> bytes:
        return expect_bytes(key)

    def store(self, value: bytes, read: bool, key: Any = None) -> tuple[int, int, None, Any]:
        return 0, MODE_RAW, None, sqlite3.Binary(value)

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any = False) -> bytes:
        if mode != MODE_RAW or filename is not None:
            raise StoreDamagedError("the ledger has an entry that embstore never writes")
        return expect_bytes(value)

    def filename(self, key: Any = None, value: Any = None) -> NoReturn:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")

    def remove(self, file_path: Any) -> None:
        """Paths found in the ledger are data: nothing is unlinked for them."""


def expect_bytes(value: Any) -> bytes:
    """``value``, which embstore wrote as bytes.

    Raises:
        StoreDamagedError: if it is anything else.
    """
    if type(value) is not bytes:
        raise StoreDamagedError("the ledger has an entry that embstore never writes")
    return value
