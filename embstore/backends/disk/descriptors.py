"""Files held open, as many as a process should: descriptors are few."""

from __future__ import annotations

import resource
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Generic, TypeVar

T = TypeVar("T")

_ALLOWED = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
_MOST = 128 if _ALLOWED == resource.RLIM_INFINITY else max(8, min(128, _ALLOWED // 8))
"""Files that are open to read, and as many to write. One that is mapped takes two descriptors, and
a process may have as few as 256 of them."""


class OpenFiles(Generic[T]):
    """Lets go of the file that was opened first when there are too many; who needs it again opens
    it again.

    Args:
        lock: whoever uses a file holds it.
        let_go: closes one.
    """

    def __init__(self, lock: AbstractContextManager[object], let_go: Callable[[T], None]) -> None:
        self._lock = lock
        self._let_go = let_go
        self._files: deque[weakref.ref[T]] = deque()

    def add(self, file: T) -> None:
        """Called when a file was opened."""
        with self._lock:
            self._files.append(weakref.ref(file))
            while len(self._files) > _MOST:
                first = self._files.popleft()()
                if first is not None and first is not file:
                    self._let_go(first)
