"""Checking a store: every row against its checksum and the ledger, the ledger against itself."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from embstore.backends.base import Progressed, VerifyReport, unheard
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.location import VECTORS
from embstore.backends.disk.repair import shelf_of
from embstore.backends.disk.shelf import Shelf
from embstore.backends.disk.vectors import generation_of, read_header
from embstore.backends.rows import Digests
from embstore.errors import StoreDamagedError, StoreError

_CHUNK = 8192


def first_fault(ledger: Ledger) -> StoreError | None:
    """What keeps a ledger from being believed, if anything does."""
    try:
        ledger.snapshot(lambda: _look_for_faults(ledger))
    except StoreError as fault:
        return fault
    return None


def _look_for_faults(ledger: Ledger) -> None:
    if problems := ledger.check():
        raise StoreDamagedError(problems[0], path=str(ledger.path))
    ledger.identities()
    for namespace_id in ledger.namespace_ids():
        ledger.usage.looked_up(namespace_id)
        ledger.usage.days(namespace_id)
        shelf_of(ledger.path.parent, ledger, namespace_id)[0].file.close()


def verify(
    directory: Path, ledger: Ledger | None, progressed: Progressed = unheard
) -> VerifyReport:
    """Compare every row with its checksum and with the ledger, and the ledger with itself."""
    if ledger is None:
        return VerifyReport(0, 0, (f"the ledger {directory / FILE} cannot be used",))
    if fault := first_fault(ledger):
        return VerifyReport(0, 0, (str(fault),))
    rows, corrupt, problems = 0, 0, []
    current = set()
    for namespace_id in ledger.namespace_ids():
        shelf, batches = ledger.snapshot(partial(_shelf_and_batches, ledger, namespace_id))
        current.add(shelf.file.path.name)
        try:
            if read_header(shelf.file.path) != shelf.header:
                problems.append(f"{shelf.file.path}: the header belongs to another file")
        except (StoreError, OSError) as error:
            problems.append(str(error))
        bad = 0
        for first, digests in batches:
            expected = np.frombuffer(digests, "<u8").reshape(-1, 2)
            live = expected.any(axis=1)
            rows += int(live.sum())
            bad += int(live.sum()) - _count_sound(shelf, first, expected)
            progressed(int(live.sum()))
        if bad:
            problems.append(f"{shelf.file.path}: {bad:,} damaged rows")
        corrupt += bad
        shelf.file.close()
    problems += [
        f"{path}: belongs to no namespace; compacting removes it"
        for path in sorted((directory / VECTORS).iterdir())
        if generation_of(path) is not None and path.name not in current
    ]
    return VerifyReport(rows, corrupt, tuple(problems))


def _shelf_and_batches(
    ledger: Ledger, namespace_id: bytes
) -> tuple[Shelf, list[tuple[int, bytes]]]:
    shelf, head = shelf_of(ledger.path.parent, ledger, namespace_id)
    return shelf, ledger.batches(namespace_id, head.generation)


def _count_sound(shelf: Shelf, first: int, expected: Digests) -> int:
    count = 0
    try:
        rows = shelf.file.rows(first + len(expected))[first:]
    except StoreError:
        return 0
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        same = (part["digest"] == expected[start : start + len(part)]).all(axis=1)
        # Of a deletion that was cut off: its digests and checksums go first, before the ledger's.
        live = expected[start : start + len(part)].any(axis=1)
        erased = live & ~part["digest"].any(axis=1) & (part["checksum"] == 0)
        erased &= part["vector"].any(axis=1)
        count += int((shelf.file.format.valid(part.copy()) & same | erased).sum())
    return count
