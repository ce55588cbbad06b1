"""The store's directory: made private, checked before use, locked while it is being made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from embstore.errors import StoreError, StoreRefusedError

VECTORS = "vectors"
_LOCK = "lock"


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
            adopt = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
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


@contextlib.contextmanager
def exclusive(directory: Path, timeout: float) -> Iterator[None]:
    """Keep other processes from making or rebuilding the ledger meanwhile.

    The lock ends with the process that holds it, however that ends.

    Raises:
        StoreError: if another process holds it for longer than ``timeout`` seconds.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(directory / _LOCK, flags, 0o600)
    try:
        os.fchmod(lock, 0o600)
        deadline = time.monotonic() + timeout
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise StoreError(
                        f"{directory} is being rebuilt by another process", path=str(directory)
                    ) from None
                time.sleep(0.01)
        yield
    finally:
        # Not by closing it alone: a child forked meanwhile has it open too.
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)
