"""The processes at work on a store, and how a dead one is told from a living one.

As long as a worker lives it holds a lock on a file of its own below ``workers/``. The kernel lets
go of that lock when the process ends, however it ends: no clock is compared, nothing has to be
renewed in time, and a worker that is slow keeps what it has claimed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import weakref
from pathlib import Path

from embstore.backends.disk import location

WORKERS = "workers"
NAME_SIZE = 16
"""Bytes that name a worker."""

_NAME = re.compile(r"[0-9a-f]{32}")
_FLAGS = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class Workers:
    """The processes that have claims on a store, this one among them.

    Args:
        directory: the store.
    """

    def __init__(self, directory: Path) -> None:
        self._folder = directory / WORKERS
        self._dead: set[bytes] = set()
        self._name = b""
        self._lock: int = -1
        _OPEN.add(self)

    @property
    def name(self) -> bytes:
        """The name of this process among the workers; "" before :meth:`join`."""
        return self._name

    def join(self) -> bytes:
        """The name of this process, with its lock held from now on. Under ``locks.LEDGER``.

        Raises:
            OSError: if the lock's file cannot be made.
            StoreRefusedError: if the folder is a symbolic link, or another user's.
        """
        if self._lock >= 0:
            return self._name
        with contextlib.suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
            self._folder.chmod(0o700)
        location.check(self._folder)
        self._remove_dead()
        while self._lock < 0:
            name = secrets.token_bytes(NAME_SIZE)
            path = self._folder / name.hex()
            lock = os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.fchmod(lock, 0o600)
                fcntl.flock(lock, fcntl.LOCK_EX)
                # Between the two calls it looked like a dead worker's, and may be gone.
                if os.fstat(lock).st_nlink:
                    self._name, self._lock, lock = name, lock, -1
            finally:
                if lock >= 0:
                    os.close(lock)
        return self._name

    def is_alive(self, name: bytes) -> bool:
        """Whether a worker lives."""
        if name == self._name:
            return True
        if name not in self._dead and not self._holds_lock(self._folder / name.hex()):
            self._dead.add(name)
        return name not in self._dead

    def count_alive(self) -> int | None:
        """How many processes are alive that have, or had, claims; None where this one may not
        look. Writes nothing."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return 0
        except OSError:
            return None
        if not os.access(self._folder, os.W_OK):
            return None
        return sum(
            bool(_NAME.fullmatch(one)) and self._holds_lock(self._folder / one) for one in names
        )

    @staticmethod
    def _holds_lock(path: Path) -> bool:
        try:
            lock = os.open(path, _FLAGS)
        except FileNotFoundError:
            return False
        except OSError:
            return True  # who cannot tell had better wait
        try:
            # Shared, so that two who ask at once do not take each other for the worker.
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(lock)
        return False

    def _remove_dead(self) -> None:
        for path in self._folder.iterdir():
            if _NAME.fullmatch(path.name) and not self._holds_lock(path):
                path.unlink(missing_ok=True)

    def leave(self) -> None:
        """Let go of the lock."""
        lock, self._lock = self._lock, -1
        if lock >= 0:
            with contextlib.suppress(OSError):
                (self._folder / self._name.hex()).unlink(missing_ok=True)
            os.close(lock)

    def __del__(self) -> None:
        if self.__dict__.get("_lock", -1) >= 0:
            os.close(self._lock)


_OPEN: weakref.WeakSet[Workers] = weakref.WeakSet()


def _become_another() -> None:
    # What a child inherits would keep its parent's lock after the parent's end.
    for workers in list(_OPEN):
        if workers._lock >= 0:
            os.close(workers._lock)
        workers._lock, workers._name = -1, b""


os.register_at_fork(after_in_child=_become_another)
