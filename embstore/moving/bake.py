"""A store to ship with an application: compact, open to every reader, and never written again."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from embstore.backends.base import Backend, NamespaceInfo, Progressed, unheard
from embstore.backends.disk import DiskBackend
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.location import VECTORS
from embstore.errors import StoreError, StoreRefusedError
from embstore.moving.merge import copy
from embstore.moving.places import Chosen, MoveReport, reading, select
from embstore.store import StoreLike

_TIMEOUT = 60.0


def bake(
    store: StoreLike,
    directory: str | os.PathLike[str],
    *,
    namespaces: Chosen = None,
    progressed: Progressed = unheard,
) -> MoveReport:
    """Copy a store to a directory that is only read from then on, such as one in an image.

    ``EmbeddingStore(directory, read_only=True)`` opens it for every user, also from a read-only
    file system. It has the vectors, what computing them took, and what is known of models, so that
    an encoder finds all without loading one. It has no log, locks or claims, nothing of who looked
    up what and when, and no space of deleted rows. Folders have mode 0755 and files 0644.

    Args:
        store: a store or its location; it may be read-only, and in use.
        directory: where the copy is made, whole or not at all: a path where nothing is, or an empty
            directory.
        namespaces: one :class:`~embstore.Namespace`, several, or all (None).
        progressed: called with a number of rows when so many more are copied.

    Raises:
        NamespaceError: if nothing is stored under a namespace asked for.
        OSError: if the directory cannot be made.
        StoreError: if the store cannot be read.
        StoreRefusedError: if something is at ``directory``.
    """
    target = Path(directory).expanduser().absolute()
    if os.path.lexists(target) and not _is_empty(target):
        raise StoreRefusedError(
            f"{target} is there already: remove it first, or choose another path", path=str(target)
        )
    with reading(store) as source:
        infos = select(source.namespaces(), namespaces, source.location)
        target.parent.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(".part", f".{target.name}.", target.parent))
        try:
            rows = _make(making, source, infos, progressed)
            _open_to_all(making)
            making.replace(target)
        except BaseException:
            shutil.rmtree(making, ignore_errors=True)
            raise
        _sync(target.parent)
        return MoveReport(len(infos), rows, rows, source.corrupt)


def _make(
    directory: Path, source: Backend, infos: list[NamespaceInfo], progressed: Progressed
) -> int:
    """Copy into a new store, and leave nothing but the ledger and the vectors."""
    baked = DiskBackend(directory, seed=source.seed)
    try:
        rows, _ = copy(source, infos, baked, progressed)
        for key, value in source.identities().items():
            baked.put_identity(key, value)
        baked.compact()  # of the ledger: the vectors are in order
    finally:
        baked.close()
    if (directory / f"{FILE}-wal").exists():
        raise StoreError(f"{directory} is open elsewhere: bake again", path=str(directory))
    for path in directory.iterdir():
        if path.name not in (FILE, VECTORS):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return rows


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _open_to_all(directory: Path) -> None:
    for path in [*directory.rglob("*"), directory]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        _sync(path)


def _sync(path: Path) -> None:
    """Wait until the disk has a file, or the names in a directory."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
