"""sqlitedict: a dict on SQLite, whose queries all go through one thread."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from sqlitedict import SqliteDict
from xxhash import xxh3_128_hexdigest

if TYPE_CHECKING:
    from benchmarks.peers.base import Array


def _as_it_is(value: bytes) -> bytes:
    """Instead of pickle, which is the default."""
    return value


class Sqlitedict:
    """Digests in hexadecimal (keys are text) and raw bytes.

    The write-ahead log lets readers and a writer go on beside each other. Without ``outer_stack``
    no stack is kept for each query.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._dim = dim
        self._dict = SqliteDict(
            str(folder / "vectors.sqlite"),
            encode=_as_it_is,
            decode=_as_it_is,
            journal_mode="WAL",
            outer_stack=False,
        )

    def put(self, texts: list[str], vectors: Array) -> None:
        """Sets, and one commit."""
        for text, vector in zip(texts, vectors, strict=True):
            self._dict[xxh3_128_hexdigest(text.encode())] = vector.tobytes()
        self._dict.commit()

    def get(self, texts: list[str]) -> Array:
        """Gets, joined into one array; each waits for the thread, as there is no get of many."""
        found = [self._dict[xxh3_128_hexdigest(text.encode())] for text in texts]
        return np.frombuffer(bytearray().join(found), np.float32).reshape(-1, self._dim)

    def close(self) -> None:
        """Close the connection, and end its thread."""
        self._dict.close()
