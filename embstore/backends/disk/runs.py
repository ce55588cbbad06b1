"""Sorted runs of digests in files beside the vectors: what a new process need not sort.

    <id>.<gen>.<first>-<stop>.run    a run (index.py) of the rows from ``first`` to before ``stop``

    offset  size
         0     8  magic "embs run"
         8     4  format version
        12     4  bytes of a row number and of a start, 4 or 8
        16    48  namespace id 16 B, generation, first, stop, entries, 8 B each
        64    16  digest of row stop - 1
        80     8  checksum of the three arrays
        88     8  checksum of all before it
      4096        high halves · row numbers · starts of the buckets, each padded to a page

Little-endian. All that a run says is believed after the row was read, so a file may be missing,
stale or garbage: it costs a sort, or a text that is computed again. Whoever commits writes runs,
now and then; whoever only reads writes none. A file is made under another name and renamed, and
never changed. Neighbours that are no larger than a new run, or small, are merged into it.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_64, xxh3_64_intdigest

from embstore.backends.disk.index import Column, Run, bucket_bits, bucket_starts
from embstore.backends.disk.location import file_mode
from embstore.backends.disk.vectors import PAGE, SUFFIX, Header, open_regular, pwrite

BYTES_A_ROW = 16
"""What a row takes of a run at most: half a digest, a row number, its share of the starts."""

KEPT_ROWS = 2**16
"""Rows in the smallest run that is kept: what a new process has to sort at most. With 2**18, one
that looked 1,000 texts of a million up took 306 ms and not 273."""

_EAGER = 4
"""Times its own rows that a neighbour of a new run may have to be merged into it, while it has less
than :data:`_SMALL`. A million rows lie in two runs then and not four, each of which costs a batch
of 256 that is written 25 µs; and each digest was copied four times and not three."""

_SMALL = 2**22
"""Rows that are merged in less than 0.2 s."""

_CHECKED_BYTES = 64 * 2**20
"""Size of a file up to which its checksum is compared when it is opened: 10 ms. A larger one is
checked when it is merged."""

_PART = 2**20
"""Entries that are merged at once: what merging takes of memory does not grow with the store."""

_MAGIC = b"embs run"
_FORMAT = 1
_FIELDS = struct.Struct("<8sII16sQQQQ16sQ")
_CHECKSUM = struct.Struct("<Q")
_NAME = re.compile(r"([0-9a-f]{32}\.\d{1,18})(?:\.(\d{1,18})-(\d{1,18}))?\.run")


class KeptRun(Run):
    """A run in a file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path, header: Header, first: int, stop: int) -> None:
        """Raises ValueError, OSError: if it is no sound file of these rows."""
        self.path = path
        fd = open_regular(path)
        try:
            self._map = mmap.mmap(fd, 0, access=mmap.ACCESS_READ)  # which keeps a descriptor itself
        finally:
            os.close(fd)
        page = self._map[: _FIELDS.size + _CHECKSUM.size]
        if len(page) < _FIELDS.size + _CHECKSUM.size:
            raise ValueError("is cut short")
        fields, checksum = page[: _FIELDS.size], page[_FIELDS.size :]
        if checksum != _CHECKSUM.pack(xxh3_64_intdigest(fields)):
            raise ValueError("has a damaged header")
        magic, version, width, name, generation, *ends, entries, last, self._sum = _FIELDS.unpack(
            fields
        )
        expected = (_MAGIC, _FORMAT, header.namespace.id, header.generation, [first, stop])
        if (magic, version, name, generation, ends) != expected or width not in (4, 8):
            raise ValueError("belongs to other rows")
        self.last_digest: bytes = last
        layout = _Layout(entries, width)
        self._size = layout.size
        if len(self._map) < self._size or not self.is_whole():
            raise ValueError("is cut short")
        super().__init__(first, stop, *layout.arrays(self._map))
        if self._size <= _CHECKED_BYTES and not self.is_sound():
            raise ValueError("is damaged")

    def is_whole(self) -> bool:
        """Whether the file is as long as it was: what is mapped must not be cut short."""
        return self._map.size() >= self._size

    def is_sound(self) -> bool:
        """Whether the checksum of all it says is right."""
        sums = [xxh3_64(each.data) for each in (self.high, self.rows, self.starts)]
        return bool(_one_sum(sums) == self._sum)


class _Layout:
    """Where the arrays of a file stand: offset, dtype, length."""

    def __init__(self, entries: int, width: int) -> None:
        numbers = np.dtype(f"<u{width}")
        self.parts: list[tuple[int, np.dtype[Any], int]] = []
        self.size = PAGE
        for dtype, count in (
            (np.dtype("<u8"), entries + 1),
            (numbers, entries + 1),
            (numbers, 2 ** bucket_bits(entries)),
        ):
            self.parts.append((self.size, dtype, count))
            self.size += -(-count * dtype.itemsize // PAGE) * PAGE

    def arrays(self, buffer: Any) -> list[Column]:
        return [np.frombuffer(buffer, dtype, count, at) for at, dtype, count in self.parts]


def _one_sum(sums: Sequence[xxh3_64]) -> int:
    return xxh3_64_intdigest(b"".join(each.digest() for each in sums))


def _path(vectors: Path, header: Header, first: int, stop: int) -> Path:
    return vectors / f"{Path(header.file_name).stem}.{first}-{stop}.run"


def kept_runs(vectors: Path, header: Header, rows: int) -> list[KeptRun]:
    """The runs in files of the first of ``rows`` rows, one behind the other.

    Args:
        vectors: the folder of the vector files.
        header: the namespace and generation.
        rows: how many rows are committed.
    """
    found: list[KeptRun] = []
    if rows < KEPT_ROWS:
        return found
    with contextlib.suppress(OSError):
        ends = [(first, stop) for _, first, stop in _named(vectors, header)]
        # The longest of those that begin where the last one ended.
        for first, stop in sorted(ends, key=lambda each: (each[0], -each[1])):
            if first == (found[-1].stop if found else 0) and first < stop <= rows:
                with contextlib.suppress(OSError, ValueError):
                    found.append(KeptRun(_path(vectors, header, first, stop), header, first, stop))
    return found


def keep(
    vectors: Path, header: Header, kept: Sequence[KeptRun], new: Sequence[Run], last: bytes
) -> bool:
    """Write runs into a file, merged with those kept before that are no larger, or small.

    Args:
        vectors: the folder of the vector files.
        header: the namespace and generation.
        kept: the runs in files so far, from row 0 on.
        new: the runs behind them.
        last: digest of the last row.

    Returns:
        Whether there is a new file; not if another process is at it.

    Raises:
        OSError: if it cannot be written.
    """
    runs, rest = list(new), list(kept)
    while rest and _are_merged(rest[-1].stop - rest[-1].first, new[-1].stop - runs[0].first):
        if not rest[-1].is_whole() or not rest[-1].is_sound():
            rest[-1].path.unlink(missing_ok=True)
            return False  # next time, without it
        runs.insert(0, rest.pop())
    making = vectors / f"{Path(header.file_name).stem}.run"
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    fd = os.open(making, flags, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        if not os.path.samestat(os.fstat(fd), os.lstat(making)):
            return False  # the lock was had of a file that was renamed meanwhile
        try:
            os.fchmod(fd, file_mode(vectors.parent))
            _write(fd, header, runs, last)
            made = _path(vectors, header, runs[0].first, runs[-1].stop)
            os.rename(making, made)
        except BaseException:
            with contextlib.suppress(OSError):
                making.unlink()  # on a full disk, of all things
            raise
    finally:
        os.close(fd)
    if not (vectors / header.file_name).exists():  # cleared meanwhile: nobody would remove it
        made.unlink(missing_ok=True)
        return False
    # Those merged, and what others made of the same rows at the same time, or left when they died.
    for path, first, stop in _named(vectors, header):
        inside = runs[0].first <= first and stop <= runs[-1].stop
        if inside and (first, stop) != (runs[0].first, runs[-1].stop):
            path.unlink(missing_ok=True)
    return True


def _are_merged(old: int, new: int) -> bool:
    """Whether a run of so many rows is merged into a new one behind it."""
    return old <= max(new, min(_EAGER * new, _SMALL))


def _named(vectors: Path, header: Header) -> list[tuple[Path, int, int]]:
    """The runs there are by their names, with the rows these say."""
    paths = vectors.glob(f"{Path(header.file_name).stem}.*-*.run")
    named = [(path, _NAME.fullmatch(path.name)) for path in paths]
    return [(path, int(name[2]), int(name[3])) for path, name in named if name]


def _write(fd: int, header: Header, runs: Sequence[Run], last: bytes) -> None:
    entries, stop = sum(run.entries for run in runs), runs[-1].stop
    width = 4 if max(entries, stop) < 2**32 else 8
    layout = _Layout(entries, width)
    ends = [at for at, _, _ in layout.parts]
    sums = [xxh3_64() for _ in layout.parts]

    def append(which: int, numbers: Column) -> None:
        data = np.ascontiguousarray(numbers, layout.parts[which][1])
        sums[which].update(data.data)
        pwrite(fd, data.view(np.uint8).data, ends[which])
        ends[which] += data.nbytes

    os.ftruncate(fd, 0)
    os.ftruncate(fd, layout.size)
    bits = bucket_bits(entries)
    parts = 2 ** min(bits, (entries // _PART).bit_length())
    written, buckets = 0, 2**bits // parts
    for part in range(parts):
        ours = [run.part(part, parts) for run in runs]
        high = np.concatenate([each[0] for each in ours])
        order = np.argsort(high, kind="stable")
        append(0, high[order])
        append(1, np.concatenate([each[1] for each in ours])[order])
        append(2, written + bucket_starts(high[order], bits, part * buckets, buckets))
        written += len(high)
    append(0, np.array([2**64 - 1], np.uint64))
    append(1, np.zeros(1, np.uint64))
    ends_of_rows = (runs[0].first, stop, entries, last, _one_sum(sums))
    names = (_MAGIC, _FORMAT, width, header.namespace.id, header.generation)
    fields = _FIELDS.pack(*names, *ends_of_rows)
    pwrite(fd, fields + _CHECKSUM.pack(xxh3_64_intdigest(fields)), 0)


def unlink(file: Path) -> None:
    """Unlink a vector file, and the runs of its rows."""
    file.unlink(missing_ok=True)
    for path in file.parent.glob(f"{file.stem}.*run"):
        path.unlink(missing_ok=True)


def vector_file_of(path: Path) -> str | None:
    """The name of the vector file that a run belongs to; None if it is no run's name."""
    name = _NAME.fullmatch(path.name)
    return f"{name[1]}{SUFFIX}" if name else None
