"""What a user asks first when something is wrong: versions, file system, permissions, space,
health, and what to do. Nothing is written, and nothing is made."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import sqlite3
import stat
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from embstore.backends import resolve_location, without_password
from embstore.backends.disk import health
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.location import is_there
from embstore.backends.redis.health import look_at_server
from embstore.backends.redis.location import SCHEMES
from embstore.errors import EmbstoreError, StoreRefusedError
from embstore.stats import format_bytes

Status = Literal["ok", "warning", "error"]

_LIBRARIES = ("embstore", "numpy", "diskcache", "xxhash")
_MORE_LIBRARIES = ("sentence-transformers", "transformers", "torch", "redis")
_LONG_LOG = 64 * 2**20
_LITTLE_SPACE = 64 * 2**20
_FEW_INODES = 100


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: what it is.
        status: "ok", "warning" (it works, and may not for long) or "error".
        found: what is the case.
        advice: what to do, one sentence; "" if there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at.

    Attributes:
        location: the store that was meant.
        checks: in the order in which a fault of one may be the reason of a fault of the next.
    """

    location: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors; warnings may be."""
        return all(check.status != "error" for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**asdict(self), "ok": self.ok}


def diagnose(location: str | os.PathLike[str] | None = None) -> Diagnosis:
    """Look at an installation and at a store, and say what is wrong.

    Works on a store that does not exist, is damaged, locked, read-only or somebody else's: it
    raises nothing for that, writes nothing, makes no file, and waits for nobody.

    Args:
        location: as for :class:`~embstore.EmbeddingStore`.

    >>> import tempfile
    >>> diagnose(tempfile.mkdtemp() + "/none").ok
    True
    """
    checks = [_versions(), _sqlite(sqlite3.sqlite_version_info, sqlite3.threadsafety)]
    try:
        where = resolve_location(location)
        if where.partition("://")[0] in SCHEMES:
            checks += (Check(*each) for each in look_at_server(where))
            return Diagnosis(without_password(where), tuple(checks))
        if "://" in where:
            shown = without_password(where)
            raise StoreRefusedError(f"{shown} is no directory, and no backend serves it")
    except (EmbstoreError, ValueError) as error:
        bad = Check("store", "error", str(error), "Give a path, or a URL like disk:///path.")
        return Diagnosis(without_password(str(location)), (*checks, bad))
    directory = Path(where)
    for name, look in (
        ("store", _store),
        ("file system", _file_system),
        ("permissions", _permissions),
        ("free space", _space),
    ):
        checks.append(_careful(name, look, directory))
    if is_there(directory):
        checks.append(_careful("locks", _locks, directory))
        checks.append(_careful("log", _log, directory))
        checks += _inside(directory)
    return Diagnosis(where, tuple(checks))


def _careful(name: str, look: Callable[[Path], Check], directory: Path) -> Check:
    try:
        return look(directory)
    except (OSError, ValueError) as error:  # ValueError: no path can be written so
        return Check(name, "error", f"cannot be looked at: {error}", _own(directory))


def _own(directory: Path) -> str:
    return (
        f"Run this as the owner of {_quoted(directory)}, or choose another directory with "
        "EMBSTORE_HOME."
    )


def _quoted(*paths: Path) -> str:
    return " ".join(shlex.quote(str(path)) for path in paths)


# --- the installation ---------------------------------------------------------------------------


def _versions() -> Check:
    # By their metadata: importing torch would take seconds.
    found = [f"Python {platform.python_version()}"]
    missing = []
    for name in (*_LIBRARIES, *_MORE_LIBRARIES):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            if name in _MORE_LIBRARIES:
                missing.append(name)
    if missing:
        found.append(f"without {', '.join(missing)}")
    return Check("versions", "ok", ", ".join(found))


def _sqlite(version: tuple[int, ...], threadsafety: int) -> Check:
    found = f"SQLite {'.'.join(map(str, version))}, threads: {threadsafety}"
    if version < (3, 7, 0) or threadsafety == 0:
        return Check(
            "SQLite",
            "error",
            f"{found} (no write-ahead log, or not for threads)",
            "Install a Python that is linked to SQLite 3.51.3 or newer, built threadsafe.",
        )
    # https://sqlite.org/wal.html#walresetbug; mended in 3.51.3, 3.50.7 and 3.44.6.
    if version < (3, 51, 3) and not (
        (3, 50, 7) <= version < (3, 51) or (3, 44, 6) <= version < (3, 45)
    ):
        return Check(
            "SQLite",
            "warning",
            f"{found}: two processes that write at the same instant may, very rarely, damage the "
            "ledger (SQLite's WAL-reset bug); it would be rebuilt from the vector files",
            "Upgrade Python's SQLite to 3.51.3 or newer, unless your distribution mended this one.",
        )
    return Check("SQLite", "ok", found)


# --- the place ----------------------------------------------------------------------------------


def _store(directory: Path) -> Check:
    if not os.path.lexists(directory):
        return Check("store", "ok", f"none at {directory} yet: the first write makes it")
    if not directory.is_dir():
        return Check(
            "store",
            "error",
            f"{directory} is not a directory",
            "Choose another location with EMBSTORE_HOME or --store.",
        )
    if not any(directory.iterdir()):
        return Check("store", "ok", f"{directory} is empty: the first write makes a store in it")
    if not is_there(directory):
        return Check(
            "store",
            "warning",
            f"{directory} has files in it, and no store",
            f"Check whether {_quoted(directory)} is the path you mean.",
        )
    return Check("store", "ok", f"{directory}, {format_bytes(health.size_of(directory))}")


def _file_system(directory: Path) -> Check:
    mount = health.mount_of(directory)
    if mount is None:
        return Check("file system", "ok", "unknown: this system does not tell")
    found = f"{mount.kind} at {mount.point}"
    shared = health.SHARED.get(mount.kind)
    if shared is None and mount.kind.startswith("fuse."):
        shared = "perhaps not on this machine"
    if shared:
        return Check(
            "file system",
            "warning",
            f"{found}, {shared}: SQLite's log is not safe for processes of several machines",
            "Set EMBSTORE_HOME to a directory on a local disk, on each machine its own.",
        )
    if mount.kind in health.PASSING:
        return Check(
            "file system",
            "warning",
            f"{found}: {health.PASSING[mount.kind]}",
            "Set EMBSTORE_HOME to a directory on a disk or volume that lasts.",
        )
    return Check("file system", "ok", found)


def _permissions(directory: Path) -> Check:
    name, me = "permissions", os.geteuid()
    if not os.path.lexists(directory):
        parent = health.existing(directory)
        if not os.access(parent, os.W_OK | os.X_OK):
            return Check(name, "error", f"{parent} may not be written to", _own(parent))
        return Check(name, "ok", f"{parent} may be written to")
    open_to_all: list[Path] = []
    for path in health.files(directory):
        found = path.lstat()
        kind = stat.S_IFMT(found.st_mode)
        if kind not in (stat.S_IFREG, stat.S_IFDIR):
            what = "a symbolic link" if stat.S_ISLNK(kind) else "neither a file nor a directory"
            advice = f"Find out who made it, then remove it: rm {_quoted(path)}"
            return Check(name, "error", f"{path} is {what}: it is not used", advice)
        if found.st_uid != me:
            advice = f"Run this as its owner, or open it with read_only=True: ls -l {_quoted(path)}"
            return Check(name, "error", f"{path} belongs to uid {found.st_uid}, not {me}", advice)
        if found.st_mode & 0o077:
            open_to_all.append(path)
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        found_ = "mounted read-only: what is stored is read, nothing is added"
        return Check(name, "warning", found_, "Open it with EmbeddingStore(..., read_only=True).")
    blocked = [path for path in health.files(directory) if not os.access(path, os.W_OK)]
    if blocked:
        found_ = f"{blocked[0]} may not be written to: what is stored is read, nothing is added"
        return Check(
            name, "warning", found_, f"Let yourself write: chmod -R u+rwX {_quoted(directory)}"
        )
    above = directory.parent.stat().st_mode
    if above & 0o002 and not above & stat.S_ISVTX:
        found_ = f"anybody may rename what is in {directory.parent}"
        return Check(name, "warning", found_, f"Close it: chmod o-w {_quoted(directory.parent)}")
    if open_to_all:
        others = f" and {len(open_to_all) - 1} more" if len(open_to_all) > 1 else ""
        found_ = f"{open_to_all[0]}{others} may be opened by other users"
        return Check(name, "warning", found_, f"Close them: chmod -R go= {_quoted(directory)}")
    return Check(name, "ok", f"of uid {me}, closed to others")


def _space(directory: Path) -> Check:
    system = os.statvfs(health.existing(directory))
    free, taken = system.f_bavail * system.f_frsize, health.size_of(directory)
    found = f"{format_bytes(free)} free, the store takes {format_bytes(taken)}"
    where = health.mount_of(directory)
    disk = shlex.quote(where.point) if where else "the disk"
    make_room = (
        f"Make room on {disk}; then drop what was not used for long, if you like: "
        f"embstore prune --older-than 90d --store {_quoted(directory)}"
    )
    # Some file systems count no inodes and say 0 of 0.
    few = system.f_files and system.f_favail < _FEW_INODES
    if free < 2**20 or (system.f_files and not system.f_favail):
        return Check("free space", "error", f"{found}: nothing can be written", make_room)
    if few:
        return Check("free space", "warning", f"{found}, {system.f_favail} files more", make_room)
    if free < max(taken, _LITTLE_SPACE):
        reason = "compacting and rebuilding copy what is stored"
        return Check("free space", "warning", f"{found}: {reason}", make_room)
    return Check("free space", "ok", found)


# --- the store ----------------------------------------------------------------------------------


def _locks(directory: Path) -> Check:
    for who, doing in ((health.rebuilder, "rebuilds the ledger"), (health.writer, "writes")):
        process = who(directory)
        if process is None:
            continue
        # A commit takes milliseconds.
        time.sleep(0.3)
        if who(directory) == process:
            return Check(
                "locks",
                "warning",
                f"process {process} {doing}, and others wait for it",
                f"Wait for it, or look what it is: ps -fp {process}",
            )
    return Check("locks", "ok", "nobody holds one for long")


def _log(directory: Path) -> Check:
    size = health.size_of(directory / f"{FILE}-wal")
    found = f"{FILE}-wal has {format_bytes(size)}"
    if size < _LONG_LOG:
        return Check("log", "ok", found)
    return Check(
        "log",
        "warning",
        f"{found}: a reader that never ends keeps it from being taken over",
        f"Look who has it open and end that: fuser -v {_quoted(directory / FILE)}",
    )


def _inside(directory: Path) -> list[Check]:
    store = _quoted(directory)
    try:
        for path in health.files(directory):
            if not (path.is_dir() or path.is_file()) or path.is_symlink():
                raise OSError(f"{path} is not a regular file")
        if health.is_pending(directory):
            found = "not read: SQLite's log waits to be taken over into the ledger"
            advice = f"Let a process open the store once: embstore compact --store {store}"
            return [Check("health", "warning", found, advice)]
        examined = health.examine(directory)
    except StoreRefusedError as error:
        advice = "Upgrade embstore (pip install --upgrade embstore), or choose another --store."
        return [Check("health", "error", str(error), advice)]
    except Exception as error:  # whatever somebody has written into the files
        aside = directory.with_name(f"{directory.name}.old")
        advice = f"Move the store aside: mv {store} {_quoted(aside)}"
        return [Check("health", "error", f"cannot be read: {error}", advice)]
    left = health.leftovers(directory, examined)
    known = tuple(f"{path}: " for path in left.strays)
    problems = [problem for problem in examined.problems if not problem.startswith(known or "\0")]
    return [_health(store, examined, problems), _leftovers(store, left)]


def _health(store: str, examined: health.Examined, problems: list[str]) -> Check:
    if not problems:
        return Check("health", "ok", f"{examined.rows or 0:,} vectors, none damaged")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    found = f"{problems[0]}{more}"
    if examined.rows is None or not examined.corrupt:
        return Check("health", "error", found, f"Have it rebuilt: embstore compact --store {store}")
    advice = f"Drop the damaged rows, which are never returned: embstore compact --store {store}"
    return Check("health", "error", found, advice)


def _leftovers(store: str, left: health.Leftovers) -> Check:
    aside = sum(map(health.size_of, left.aside))
    if left.aside:
        found = f"{len(left.aside)} from a rebuild, {format_bytes(aside)}"
        folders = any(path.is_dir() for path in left.aside)
        delete = f"rm {'-r ' if folders else ''}{_quoted(*left.aside)}"
        return Check(
            "leftovers", "warning", found, f"Delete them if you need them no more: {delete}"
        )
    if left.strays:
        size = format_bytes(sum(map(health.size_of, left.strays)))
        found = f"{len(left.strays)} vector files of no namespace, {size}"
        return Check(
            "leftovers", "warning", found, f"Remove them: embstore compact --store {store}"
        )
    return Check("leftovers", "ok", "none")
