"""Keeping a store under a size: the rows used longest ago go.

"Used" is counted, not timed: a clock set back must not make the newest rows look old. Each process
notes in memory which rows it read or wrote; with its next commit, or when it closes, they all get
the next number of the store's own count. Rows that nobody noted go first, in the order in which
they were written.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from embstore.backends.disk import repair
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.location import VECTORS
from embstore.errors import StoreError

ROOM = 0.9
"""What of the limit may be left after an eviction: it copies a namespace, so it should last."""

_LEDGER = 1.03
"""Bytes of a store to bytes of its rows. The ledger's own files are not measured: what they take
for a while (write-ahead log, free pages) says nothing of what is stored."""


def needs_room(directory: Path, limit: int, incoming: int) -> bool:
    """Whether ``incoming`` more bytes would bring a store over ``limit`` bytes.

    Raises:
        StoreError: if they would not even fit an empty store.
    """
    if incoming > limit:
        raise StoreError(
            f"{incoming:,} bytes of vectors do not fit a store of at most {limit:,}",
            path=str(directory),
        )
    return int(repair.size(directory / VECTORS) * _LEDGER) + incoming > limit


def evict(
    directory: Path, ledger: Ledger, limit: int, namespace_id: bytes | None
) -> tuple[int, list[Path]]:
    """Drop rows until the store, or one namespace's rows, take less than ``limit`` bytes.

    Args:
        directory: the store.
        ledger: its ledger, in a transaction.
        limit: bytes to stay under.
        namespace_id: drop rows of this namespace only, and count only these; None for all.

    Returns:
        Number of rows dropped, and the files to unlink once that is committed.
    """
    ids = ledger.namespace_ids() if namespace_id is None else [namespace_id]
    used: list[npt.NDArray[np.uint32]] = []
    sizes: list[npt.NDArray[np.int64]] = []
    for each in ids:
        head = ledger.head(each)
        entry = ledger.entry(each)
        rows = 0 if head is None or entry is None else head.rows
        generation = 0 if head is None else head.generation
        used.append(ledger.uses(each, generation, rows))
        stride = repair.stride(ledger, each) if rows else 0
        sizes.append(np.full(rows, stride, np.int64))
    all_sizes = np.concatenate(sizes) if sizes else np.empty(0, np.int64)
    # The newest first, until they fill the room there is.
    order = np.argsort(np.concatenate(used) if used else np.empty(0, np.uint32), kind="stable")
    room = max(0, int(limit * ROOM / _LEDGER))
    filled = np.cumsum(all_sizes[order[::-1]])
    kept = np.zeros(len(order), np.bool_)
    kept[order[::-1][filled <= room]] = True
    start, dropped, old = 0, 0, []
    for each, part in zip(ids, used, strict=True):
        mine = kept[start : start + len(part)]
        start += len(part)
        if not mine.all():
            count, file = repair.keep_only(directory, ledger, each, mine)
            dropped += count
            old.append(file)
    return dropped, old
