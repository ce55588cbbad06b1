"""Looking after a store: checking it, giving back space, rebuilding the ledger from the vectors."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from embstore.backends.base import CompactReport, Found, Progressed, unheard
from embstore.backends.disk import runs
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.ledger import Head, Ledger
from embstore.backends.disk.location import VECTORS, file_mode
from embstore.backends.disk.shelf import Shelf, learn_all
from embstore.backends.disk.vectors import SUFFIX, Header, generation_of, read_header
from embstore.backends.rows import RowFormat, Rows
from embstore.errors import StoreDamagedError, StoreError

_CHUNK = 8192
_ASIDE = ".damaged"
_BUILDING = ".rebuild-"


def headers(vectors: Path) -> list[Header]:
    """The sound headers of a folder of vector files, oldest generation first.

    Raises:
        StoreRefusedError: if a newer embstore wrote one of them.
    """
    return _all_headers(vectors, skip=(StoreDamagedError, OSError))


def _newest(found: list[Header]) -> list[Header]:
    return list({header.namespace.id: header for header in found}.values())


def _all_headers(vectors: Path, skip: tuple[type[Exception], ...]) -> list[Header]:
    found = []
    for path in vectors.glob(f"*{SUFFIX}"):
        try:
            header = read_header(path)
        except skip:
            continue
        if header.file_name == path.name:
            found.append(header)
    return sorted(found, key=lambda header: header.generation)


def size(directory: Path) -> int:
    """Bytes of all files below a directory."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # deleted by another process meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def shelf_of(directory: Path, ledger: Ledger, namespace_id: bytes) -> tuple[Shelf, Head]:
    """A shelf of its own for a namespace, as the ledger has it, and where that stands."""
    entry, head = ledger.entry(namespace_id), ledger.head(namespace_id)
    if entry is None or head is None:
        raise StoreDamagedError("the registry has a hole", path=str(directory))
    shelf = Shelf(directory / VECTORS, Header(ledger.seed, head.generation, *entry))
    learn_all(shelf, ledger.batches(namespace_id, head.generation))
    if shelf.known != head.rows:
        raise StoreDamagedError("batches are missing in the ledger", path=str(directory))
    return shelf, head


def compact(directory: Path, ledger: Ledger, progressed: Progressed = unheard) -> CompactReport:
    """Copy what is sound into the next generation of each namespace that has anything to drop.

    Each namespace is one transaction: others wait for it, and a crash leaves the old generation.
    """
    before, kept = size(directory), 0
    for namespace_id in ledger.namespace_ids():
        one = partial(_compact_one, directory, ledger, namespace_id, progressed)
        kept += ledger.transaction(one)
    ledger.vacuum()  # also writes the log into the ledger, for good
    ledger.transaction(lambda: _remove_strangers(directory, ledger))
    return CompactReport(kept, before, size(directory))


def _compact_one(
    directory: Path, ledger: Ledger, namespace_id: bytes, progressed: Progressed
) -> int:
    """Drop what is not sound; returns how many rows are left. In a transaction."""
    if ledger.head(namespace_id) is None:
        return 0  # cleared by another process meanwhile
    shelf, head = shelf_of(directory, ledger, namespace_id)
    if len(_sound(shelf)) < head.rows or not _has_header(shelf):
        head = _next_generation(directory, ledger, namespace_id, [shelf], progressed=progressed)
    else:
        progressed(head.rows)
    shelf.file.close()
    return head.rows


def _sound(shelf: Shelf) -> Rows:
    """The numbers of all rows that a look-up would give."""
    parts = [shelf.sound(start, start + _CHUNK) for start in range(0, shelf.known, _CHUNK)]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _has_header(shelf: Shelf) -> bool:
    try:
        return read_header(shelf.file.path) == shelf.header
    except (StoreError, OSError):
        return False


def renew(directory: Path, ledger: Ledger, namespace_id: bytes) -> tuple[int, Path]:
    """Copy what is sound of a namespace whose file is not what it was. In a transaction.

    Returns:
        How many rows are lost, and the file to unlink once that is committed.
    """
    shelf, head = shelf_of(directory, ledger, namespace_id)
    after = _next_generation(directory, ledger, namespace_id, [shelf])
    shelf.file.close()
    return head.rows - head.deleted - after.rows, shelf.file.path


def unlink_for_good(ledger: Ledger, files: Iterable[Path]) -> None:
    """Unlink files that a commit has replaced, once that cannot be lost any more. Where readers or
    writers are in the way for too long, they stay, and compacting removes them."""
    with contextlib.suppress(StoreError):
        ledger.sync()
        for file in files:
            runs.unlink(file)


def keep_only(
    directory: Path, ledger: Ledger, namespace_id: bytes, kept: Found
) -> tuple[int, Path]:
    """Drop the rows of a namespace but those ``kept``, (rows,) bool. In a transaction.

    Returns:
        How many there were to drop, and the file to unlink once that is committed.
    """
    shelf, head = shelf_of(directory, ledger, namespace_id)
    after = _next_generation(directory, ledger, namespace_id, [shelf], kept)
    shelf.file.close()
    return head.rows - head.deleted - after.rows, shelf.file.path


def stride(ledger: Ledger, namespace_id: bytes) -> int:
    """Bytes that a row of a namespace takes."""
    entry = ledger.entry(namespace_id)
    if entry is None:
        raise StoreDamagedError("the registry has a hole", path=str(ledger.path))
    return RowFormat(namespace_id, ledger.seed, *entry[1:]).stride


def _next_generation(
    directory: Path,
    ledger: Ledger,
    namespace_id: bytes,
    sources: Iterable[Shelf],
    kept: Found | None = None,
    progressed: Progressed = unheard,
) -> Head:
    """Write the sound rows of all sources, or those ``kept`` of the only one, into a new file, each
    text once. In a transaction."""
    entry, before = ledger.entry(namespace_id), ledger.head(namespace_id)
    if entry is None or before is None:
        raise StoreDamagedError("the registry has a hole", path=str(directory))
    head = before._replace(generation=ledger.next_generation(), rows=0, deleted=0)
    target = Shelf(directory / VECTORS, Header(ledger.seed, head.generation, *entry))
    try:
        target.file.create()
        return _fill(ledger, target, head, sources, kept, progressed)
    except BaseException:
        target.file.path.unlink(missing_ok=True)  # nothing of it is committed
        raise
    finally:
        target.file.close()


def _fill(
    ledger: Ledger,
    target: Shelf,
    head: Head,
    sources: Iterable[Shelf],
    kept: Found | None,
    progressed: Progressed,
) -> Head:
    namespace_id, times = target.header.namespace.id, [np.empty(0, np.uint32)]
    ledger.switch(namespace_id, head)
    for source in sources:
        then = ledger.usage.times(namespace_id, source.header.generation, source.known)
        for start in range(0, source.known, _CHUNK):
            numbers = source.sound(start, start + _CHUNK)
            if kept is not None:
                numbers = numbers[kept[numbers]]
            rows = source.file.rows(source.known)[numbers]
            digests = np.ascontiguousarray(rows["digest"])
            new = target.locate(digests) < 0
            if new.any():
                target.file.write(head.rows, rows[new])
                target.learn(head.rows, digests[new], sound=True)
                head = ledger.append(namespace_id, head, digests[new].tobytes()).head
                times.append(then[numbers[new]])
            progressed(len(numbers))
    ledger.usage.put_times(namespace_id, head.generation, np.concatenate(times))
    target.file.sync()  # before the old file goes
    return head


def current_files(ledger: Ledger) -> set[str]:
    """The names of the vector files that the namespaces use."""
    heads = {each: ledger.head(each) for each in ledger.namespace_ids()}
    return {f"{each.hex()}.{head.generation}{SUFFIX}" for each, head in heads.items() if head}


def _remove_strangers(directory: Path, ledger: Ledger) -> None:
    """Unlink vector files that no namespace uses. In a transaction: no file is in the making."""
    current = current_files(ledger)
    for path in (directory / VECTORS).iterdir():
        # Nothing but our own: a directory may be shared with a user's files.
        if (generation_of(path) is not None and path.name not in current) or (
            runs.vector_file_of(path) not in (None, *current)
        ):
            path.unlink(missing_ok=True)


def create(directory: Path, timeout: float, seed: int) -> Ledger:
    """Make a new ledger: whole, or not at all. Called under ``location.exclusively``."""
    building = _building(directory)
    try:
        Ledger.create(building, timeout, seed).close()
        for ending in ("-wal", "-shm"):
            # A log that lost its ledger: SQLite would replay it into the new one.
            (directory / f"{FILE}{ending}").unlink(missing_ok=True)
        (building / FILE).replace(directory / FILE)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return Ledger(directory, timeout)


def _building(directory: Path) -> Path:
    """A new folder to make a ledger in; what others left that were killed meanwhile goes."""
    for left in directory.glob(f"{_BUILDING}*"):
        if all(path.name.startswith(FILE) for path in left.iterdir()):
            shutil.rmtree(left, ignore_errors=True)
    return Path(tempfile.mkdtemp(prefix=_BUILDING, dir=directory))


def rebuild(directory: Path, timeout: float, seed: int) -> tuple[Ledger, int]:
    """Make a new ledger from the vector files; returns it with the number of vectors kept.

    Rows are copied to files of new generations: processes that still have the old ledger open may
    go on appending to the old files, and must not meet new writers there. The damaged ledger stays
    beside the new one as ``cache.db.damaged``. Called under ``location.exclusively``.

    Args:
        directory: the store.
        timeout: seconds to wait for a lock.
        seed: seed of the new ledger if no vector file tells it.

    Raises:
        OSError: if there is no space for the copies; what was there is left as it was.
    """
    vectors = directory / VECTORS
    old_files = [path for path in vectors.iterdir() if generation_of(path) is not None]
    # A file that cannot be read now may be readable later: not a reason to lose it.
    found = _all_headers(vectors, skip=(StoreDamagedError,))
    seed = found[-1].seed if found else seed
    generations = [generation_of(path) or 0 for path in old_files]
    building, mode = _building(directory), file_mode(directory)
    kept = 0
    try:
        ledger = Ledger.create(building, timeout, seed, max(generations, default=0))
        try:
            for newest in _newest(found):
                # The newest first: what it has is what was stored last.
                alike = [header for header in reversed(found) if _alike(header, newest)]
                sources = [whole(vectors, header) for header in alike]
                kept += _rebuild_one(directory, ledger, newest, sources)
        finally:
            ledger.close()
        (building / FILE).chmod(mode)  # of the damaged one, which others may have been let read
        aside = _unused(directory)
        # The ledger first: without its log it would look sound, and be old.
        for ending in ("", "-wal", "-shm"):
            part = directory / f"{FILE}{ending}"
            if part.exists():
                part.replace(aside.with_name(f"{aside.name}{ending}"))
        (building / FILE).replace(directory / FILE)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    read = {header.file_name for header in found}
    for path in old_files:
        if path.name in read:
            runs.unlink(path)
        else:
            # Nobody can say any more whose rows these are.
            path.rename(path.with_name(f"{path.name}{_ASIDE}"))
    return Ledger(directory, timeout), kept


def _rebuild_one(directory: Path, ledger: Ledger, newest: Header, sources: list[Shelf]) -> int:
    def work() -> int:
        ledger.register(newest.namespace, newest.dtype, newest.dim)
        return _next_generation(directory, ledger, newest.namespace.id, sources).rows

    return ledger.transaction(work)


def _unused(directory: Path) -> Path:
    """A name to move a damaged ledger to; the first one is ``cache.db.damaged``."""
    name, number = f"{FILE}{_ASIDE}", 0
    while (directory / name).exists():
        number += 1
        name = f"{FILE}{_ASIDE}.{number}"
    return directory / name


def _alike(header: Header, newest: Header) -> bool:
    return (header.namespace.id, header.seed, header.dtype, header.dim) == (
        newest.namespace.id,
        newest.seed,
        newest.dtype,
        newest.dim,
    )


def whole(vectors: Path, header: Header) -> Shelf:
    """The shelf of a vector file, as the file alone has it."""
    shelf = Shelf(vectors, header)
    shelf.learn(0, shelf.file.rows(shelf.file.count_rows())["digest"].copy())
    return shelf
