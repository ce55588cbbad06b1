"""The process-wide locks, and what a fork does to them.

A thread that holds a lock while another thread forks leaves it locked for ever in the child, and
may leave what it guards half changed. So a fork first takes those that are held for a moment only,
in the one order in which they may be nested, and both sides release them afterwards. The one that
is held while a model is loaded is made anew in the child: there, nobody is loading.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

LEDGER = threading.RLock()
"""Around every SQLite call."""

INDEX = threading.RLock()
"""Around what a process knows of the rows on disk. Held for a lookup, never while SQLite waits."""

MEMORY = threading.RLock()
"""Around memory tiers."""

COUNTERS = threading.RLock()
"""Around the figures of stats."""

LOADING = threading.RLock()
"""Around loading a model. To be used as ``locks.LOADING``."""

_IN_ORDER = (LEDGER, INDEX, MEMORY, COUNTERS)


BEFORE_FORK: list[Callable[[], None]] = []
"""Called before a fork with all locks held, so that nobody can undo what they do."""


def _acquire() -> None:
    for lock in _IN_ORDER:
        lock.acquire()
    for prepare in BEFORE_FORK:
        prepare()


def _release() -> None:
    for lock in reversed(_IN_ORDER):
        lock.release()


def _release_in_child() -> None:
    global LOADING
    LOADING = threading.RLock()
    _release()


os.register_at_fork(before=_acquire, after_in_parent=_release, after_in_child=_release_in_child)
