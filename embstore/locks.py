"""The process-wide locks, and what a fork does to them.

A thread that holds a lock while another thread forks leaves it locked for ever in the child, and
may leave what it guards half changed. So a fork first takes all three, in the one order in which
they may be nested, and both sides release them afterwards.
"""

from __future__ import annotations

import os
import threading

LEDGER = threading.RLock()
"""Around every SQLite call."""

INDEX = threading.RLock()
"""Around what a process knows of the rows on disk. Held for a lookup, never while SQLite waits."""

MEMORY = threading.RLock()
"""Around memory tiers."""

_IN_ORDER = (LEDGER, INDEX, MEMORY)


def _acquire() -> None:
    for lock in _IN_ORDER:
        lock.acquire()


def _release() -> None:
    for lock in reversed(_IN_ORDER):
        lock.release()


os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release)
