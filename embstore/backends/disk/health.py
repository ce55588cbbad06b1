"""How a store on disk does, seen from outside: nothing is written, made, locked or waited for."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from embstore.backends.disk import repair
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.location import VECTORS
from embstore.backends.disk.vectors import SUFFIX, generation_of
from embstore.backends.disk.verify import verify
from embstore.errors import StoreError, StoreRefusedError

LOCK = "lock"
_TIMEOUT = 2.0
_MOUNTS = Path("/proc/self/mountinfo")
_LOCKS = Path("/proc/locks")
_WRITE_LOCK = 120
"""The byte of cache.db-shm that SQLite locks for the one who writes."""


SHARED: dict[str, str] = {
    "nfs": "a network file system",
    "nfs4": "a network file system",
    "cifs": "a Windows share",
    "smb3": "a Windows share",
    "smbfs": "a Windows share",
    "afs": "a network file system",
    "9p": "a folder shared with a virtual machine or WSL",
    "virtiofs": "a folder shared with a virtual machine",
    "vboxsf": "a folder shared with a virtual machine",
    "fuse.vmhgfs-fuse": "a folder shared with a virtual machine",
    "prl_fs": "a folder shared with a virtual machine",
    "ceph": "a cluster file system",
    "fuse.ceph": "a cluster file system",
    "glusterfs": "a cluster file system",
    "fuse.glusterfs": "a cluster file system",
    "lustre": "a cluster file system",
    "gpfs": "a cluster file system",
    "beegfs": "a cluster file system",
    "ocfs2": "a cluster file system",
    "gfs2": "a cluster file system",
    "fuse.sshfs": "another machine's folder",
    "fuse.s3fs": "an object store",
    "fuse.gcsfuse": "an object store",
    "fuse.rclone": "an object store",
    "fuse.goofys": "an object store",
    "fuse.blobfuse2": "an object store",
}
"""File systems on which processes of several machines can meet, by the kernel's name for them."""

PASSING = {
    "tmpfs": "memory, gone after a restart",
    "ramfs": "memory, gone after a restart",
    "overlay": "a container's own layer, gone with the container",
}
"""File systems that do not last."""


@dataclass(frozen=True)
class Mount:
    """The file system that a path lies on.

    Attributes:
        kind: its type as the kernel names it, "ext4" for one.
        point: where it is mounted.
    """

    kind: str
    point: str


@dataclass(frozen=True)
class Leftovers:
    """Files in a store that it does not use.

    Attributes:
        aside: what a rebuild moved aside, and what an interrupted one left behind.
        strays: vector files of no namespace, which compacting removes.
    """

    aside: tuple[Path, ...]
    strays: tuple[Path, ...]


@dataclass(frozen=True)
class Examined:
    """What was found inside a store.

    Attributes:
        rows: rows looked at; None if nothing could be.
        corrupt: rows that are damaged.
        problems: one sentence for each thing that is wrong.
        used: names of the vector files in use; None if the ledger does not say.
    """

    rows: int | None
    corrupt: int = 0
    problems: tuple[str, ...] = ()
    used: frozenset[str] | None = None


def existing(path: Path) -> Path:
    """``path``, or the nearest of the folders above it that is there."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path


def mount_of(path: Path, table: str | None = None) -> Mount | None:
    """The file system under ``path``; None where the system does not tell.

    Args:
        path: need not exist.
        table: what the kernel says of its mounts; read from it by default.
    """
    try:
        table = _MOUNTS.read_text(errors="surrogateescape") if table is None else table
    except OSError:
        return None
    real = Path(os.path.realpath(path))
    found: Mount | None = None
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        fields, words = before.split(" "), after.split(" ")
        if len(fields) < 5 or not words[0]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), fields[4])
        # The last of equals: it is mounted over the others.
        if real.is_relative_to(point) and (found is None or len(point) >= len(found.point)):
            found = Mount(words[0], point)
    return found


def files(directory: Path) -> list[Path]:
    """The store's own files and folders that are there, the folder itself first."""
    names = [FILE, f"{FILE}-wal", f"{FILE}-shm", LOCK, VECTORS]
    found = [directory, *(directory / name for name in names)]
    vectors = directory / VECTORS
    if vectors.is_dir() and not vectors.is_symlink():
        with contextlib.suppress(PermissionError):  # which is for the caller to see of the folder
            found += sorted(path for path in vectors.iterdir() if generation_of(path) is not None)
    return [path for path in found if os.path.lexists(path)]


def aside(directory: Path) -> list[Path]:
    """What rebuilding moved aside or left behind."""
    found = []
    for folder, patterns in (
        (directory, (f"{FILE}.damaged*", ".rebuild-*")),
        (directory / VECTORS, (f"*{SUFFIX}.damaged",)),
    ):
        try:
            names = sorted(os.listdir(folder))
        except OSError:
            continue
        found += [
            folder / name
            for name in names
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
        ]
    return found


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; 0 if it is gone."""
    try:
        found = path.lstat()
    except OSError:
        return 0
    return repair.size(path) if stat.S_ISDIR(found.st_mode) else found.st_size


def writer(directory: Path, table: str | None = None) -> int | None:
    """The process that holds the ledger's write lock now; None if nobody does, or nobody tells."""
    return _holder(_shared(directory), "POSIX", table)


def rebuilder(directory: Path, table: str | None = None) -> int | None:
    """The process that makes or rebuilds the ledger now; None if nobody does, or nobody tells."""
    return _holder(directory / LOCK, "FLOCK", table)


def _holder(path: Path, kind: str, table: str | None) -> int | None:
    # Asked of the kernel and not of the file: to close it would drop the locks that SQLite holds
    # on it in this process.
    try:
        found = path.stat()
        table = _LOCKS.read_text() if table is None else table
    except OSError:
        return None
    device = found.st_dev
    where = f"{os.major(device):02x}:{os.minor(device):02x}:{found.st_ino}"
    for line in table.splitlines():
        words = line.split()
        if len(words) < 8 or words[1] != kind or words[3] != "WRITE" or words[5] != where:
            continue
        last = _WRITE_LOCK if words[7] == "EOF" else int(words[7])
        if kind == "FLOCK" or int(words[6]) <= _WRITE_LOCK <= last:
            return int(words[4])
    return None


def is_pending(directory: Path) -> bool:
    """Whether there is a log that nobody works on: of a process that died, or in a copy. To read it
    SQLite would make a file beside it."""
    return size_of(directory / f"{FILE}-wal") > 0 and not _shared(directory).exists()


def _shared(directory: Path) -> Path:
    return directory / f"{FILE}-shm"


def examine(directory: Path) -> Examined:
    """Read everything there is and compare it with its checksums.

    The caller has seen that all :func:`files` are regular ones and that no log :func:`is_pending`.
    SQLite's log and its shared memory are used if they are there, and not made if they are not.

    Raises:
        StoreRefusedError: if a newer embstore made the store, or it is something else.
    """
    if not (directory / FILE).exists():
        return Examined(None, problems=(f"there is no ledger {directory / FILE}",))
    try:
        ledger = Ledger(directory, _TIMEOUT, "ro")
    except StoreRefusedError:
        raise
    except StoreError as error:
        return Examined(None, problems=(str(error),))
    try:
        report = verify(directory, ledger)
        used = repair.current_files(ledger)
    except StoreRefusedError:
        raise
    except StoreError as error:
        return Examined(None, problems=(str(error),))
    finally:
        ledger.close()
    return Examined(report.rows, report.corrupt, report.problems, frozenset(used))


def leftovers(directory: Path, examined: Examined) -> Leftovers:
    """What of a store's files it does not use."""
    strays: list[Path] = []
    if examined.used is not None:
        strays = [
            path
            for path in files(directory)
            if generation_of(path) is not None and path.name not in examined.used
        ]
    return Leftovers(tuple(aside(directory)), tuple(strays))
