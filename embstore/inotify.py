"""Linux's word that files were left alone: inotify(7), asked without waiting.

What a process does to a file is told before its system call returns, so whoever asks afterwards
hears of it, from the same thread or from any other process of this machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import select
import signal
import stat
import sys
from collections.abc import Iterable
from typing import Any

_TOLD = 0x2 | 0x4 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
"""MODIFY, ATTRIB, OPEN, MOVED_FROM, MOVED_TO, CREATE, DELETE, DELETE_SELF, MOVE_SELF: opening too,
as what is written through a memory map is not told."""

_LOCAL = {0xEF53, 0x58465342, 0x9123683E, 0xF2F52010, 0x01021994}
"""ext2 to ext4, XFS, Btrfs, F2FS, tmpfs: file systems that no other machine changes."""


@functools.cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


class Silence:
    """Nobody has opened, changed, moved or deleted any of some files and folders since.

    Args:
        paths: of files and folders; of symbolic links, what they lead to.

    Raises:
        OSError: if that cannot be told: on other systems than Linux, on network file systems, where
            somebody writes one of them or they are another user's, or where inotify's limits
            (``fs.inotify``) are reached.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._fd = -1
        if sys.platform != "linux":
            raise OSError("inotify is Linux's")
        try:
            with contextlib.ExitStack() as opened:
                self._listen(paths, opened)
        except BaseException:
            self._close()
            raise
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)

    def _listen(self, paths: Iterable[str], opened: contextlib.ExitStack) -> None:
        # Opened before it is listened, so as not to hear this.
        each = {}
        for path in paths:
            each[path] = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, each[path])
        self._fd = _checked(_libc().inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        for fd in each.values():
            _refuse_remote(fd)
            name = f"/proc/self/fd/{fd}".encode()
            _checked(_libc().inotify_add_watch(self._fd, name, _TOLD))
        for path, fd in each.items():
            if not os.path.samestat(os.stat(path), os.fstat(fd)):
                raise OSError("was replaced before it was listened")
            _refuse_written(fd)

    @property
    def lasts(self) -> bool:
        """Whether that is so still: half a microsecond. Once broken it is for good, in a forked
        child too: nothing is ever read."""
        return not self._poll.poll(0)

    def __del__(self) -> None:
        self._close()

    def _close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _refuse_remote(fd: int) -> None:
    # The type comes first in all of Linux's struct statfs, which has 120 bytes or less.
    room = (ctypes.c_long * 64)()
    _checked(_libc().fstatfs(fd, room))
    if room[0] & 0xFFFFFFFF not in _LOCAL:
        raise OSError("is on a file system that other machines may change")


def _refuse_written(fd: int) -> None:
    """Raise OSError if somebody has a file open to write it: then no lease is given."""
    import fcntl

    if stat.S_ISREG(os.fstat(fd).st_mode):
        # Whoever opens it just now has us told by this signal, which is ignored where nobody
        # wants it; by SIGIO, as is usual, the process would end.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
