"""What is to be done at last in a process: one that ends by itself, or a worker of
multiprocessing's, which ends without what ``atexit`` was given."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Any

_WORK: list[Callable[[], object]] = []

_knows = False
"""Whether multiprocessing was told, in this process or in one it was forked from."""


def at_the_end(work: Callable[[], object]) -> None:
    """Have ``work`` done when this process ends, or one that was forked from it."""
    _WORK.append(work)
    atexit.register(work)


def heed_workers() -> None:
    """Tell multiprocessing, if this process uses it by now."""
    global _knows
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None and not _knows:
        _knows = True
        # Twice, as a worker that begins drops what it was told before.
        util.register_after_fork(_AT_END, _register)
        _register(_AT_END)


class _AtWorkersEnd:
    """What multiprocessing is to do when a worker begins."""


_AT_END = _AtWorkersEnd()


def _register(_: object) -> None:
    util: Any = sys.modules["multiprocessing.util"]
    util.Finalize(None, _do_all, exitpriority=0)


def _do_all() -> None:
    for work in _WORK:
        work()


os.register_at_fork(after_in_child=heed_workers)
