"""The store's directory: made private, checked before use, locked while it is being made."""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from embstore.errors import StoreError, StoreRefusedError

T = TypeVar("T")

VECTORS = "vectors"
_LEDGER = "cache.db"
_LOCK = "lock"


def is_there(directory: Path) -> bool:
    """Whether a directory holds a store, or what a ledger can be rebuilt from."""
    try:
        return (directory / _LEDGER).exists() or (directory / VECTORS).is_dir()
    except (OSError, ValueError):
        return False


def prepare(directory: Path) -> None:
    """Make the store's directories where there are none, for this user alone, and check them.

    Raises:
        StoreRefusedError: if a directory is a symbolic link, another user's, or not a directory.
        OSError: if they cannot be made.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    for path in (directory, directory / VECTORS):
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            check(path)
            adopt = path.is_dir() and not any(path.iterdir())
        else:
            adopt = True
        check(path)
        if adopt:
            path.chmod(0o700)


def check(path: Path, *, foreign: bool = False) -> None:
    """Refuse a path of the store that is a symbolic link or, unless ``foreign``, another user's.

    Raises:
        StoreRefusedError: if it is.
        OSError: if it cannot be looked at.
    """
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        why = "is a symbolic link"
    elif not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        why = "is neither a directory nor a file"
    elif found.st_uid != os.geteuid() and not foreign:
        why = f"belongs to another user (uid {found.st_uid})"
    else:
        return
    raise StoreRefusedError(
        f"{path} {why}: choose another location"
        + ("" if foreign else ", or open it with read_only=True if you trust its owner"),
        path=str(path),
    )


def file_mode(directory: Path) -> int:
    """The mode of a store's new files: 0600, or what the owner gave the ledger, so that those to
    whom a store was opened for reading can read what comes later too."""
    try:
        return 0o600 | (os.stat(directory / _LEDGER).st_mode & 0o044)
    except OSError:
        return 0o600


def exclusively(directory: Path, timeout: float, work: Callable[[], T]) -> T:
    """Do ``work`` while other processes are kept from making or rebuilding the ledger.

    The lock ends with the process that holds it, however that ends. Called under ``locks.LEDGER``,
    so that no fork can share it.

    Raises:
        StoreError: if another process holds it for longer than ``timeout`` seconds.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with open(os.open(directory / _LOCK, flags, 0o600), "rb+", buffering=0) as lock:
        os.fchmod(lock.fileno(), 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{directory} is being rebuilt by another process", path=str(directory)
                    ) from None
                time.sleep(0.01)
            else:
                return work()
