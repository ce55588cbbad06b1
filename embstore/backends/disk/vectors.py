"""The vector file: a header, then rows of one stride, appended and never changed.

    offset  size
         0     8  magic "embstore"
         8     4  format version
        12     4  length of the JSON that follows
        16     n  JSON: seed, generation, namespace, dtype, dim, stride
      16+n     8  checksum, xxh3_64 of all before it
                  zeros up to the next multiple of 4096: the first row starts there

Only a committed row number (see ledger.py) says how many rows there are: bytes past it were left by
a writer that died, and are overwritten by the next one. The header serves to rebuild the ledger.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import re
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from xxhash import xxh3_64_intdigest

from embstore.backends.disk.descriptors import OpenFiles
from embstore.backends.disk.location import file_mode
from embstore.backends.rows import Array, RowFormat, Rows
from embstore.errors import EmbstoreError, StoreDamagedError, StoreError, StoreRefusedError
from embstore.keys import DIGEST_SIZE, Namespace, canonical_json
from embstore.locks import INDEX, LEDGER

MAGIC = b"embstore"
FORMAT = 1
PAGE = 4096
SUFFIX = ".vec"

_PREFIX = struct.Struct("<8sII")
_CHECKSUM = struct.Struct("<Q")


@dataclass(frozen=True)
class Header:
    """What a vector file says of itself."""

    seed: int
    generation: int
    namespace: Namespace
    dtype: str
    dim: int

    def row_format(self) -> RowFormat:
        """The layout of the file's rows."""
        return RowFormat(self.namespace.id, self.seed, self.dtype, self.dim)

    def to_bytes(self) -> bytes:
        """The header as it is written, padded to whole pages."""
        document = canonical_json(
            {
                "seed": self.seed,
                "generation": self.generation,
                "namespace": self.namespace.to_dict(),
                "dtype": self.dtype,
                "dim": self.dim,
                "stride": self.row_format().stride,
            }
        )
        body = _PREFIX.pack(MAGIC, FORMAT, len(document)) + document
        body += _CHECKSUM.pack(xxh3_64_intdigest(body))
        return body.ljust(-(-len(body) // PAGE) * PAGE, b"\0")

    @property
    def size(self) -> int:
        """Bytes before the first row."""
        return len(self.to_bytes())

    @property
    def file_name(self) -> str:
        """Digits only: nothing of a model's or a user's name goes into a path."""
        return f"{self.namespace.id.hex()}.{self.generation}{SUFFIX}"


def generation_of(path: Path) -> int | None:
    """The generation in a vector file's name; None if it is no such name."""
    match = re.fullmatch(r"[0-9a-f]{32}\.(\d{1,18})\.vec", path.name)
    return int(match[1]) if match else None


def read_header(path: Path) -> Header:
    """The header of a vector file.

    Raises:
        StoreRefusedError: if a newer embstore wrote it.
        StoreDamagedError: if it is not a sound header.
        OSError: if the file cannot be read.
    """
    with open(open_regular(path), "rb") as file:
        start = file.read(_PREFIX.size)
        if len(start) < _PREFIX.size or not start.startswith(MAGIC):
            raise StoreDamagedError(f"{path} is not a vector file", path=str(path))
        _, version, length = _PREFIX.unpack(start)
        if length > os.fstat(file.fileno()).st_size:
            raise StoreDamagedError(f"the header of {path} is damaged", path=str(path))
        body = start + file.read(length)
        checksum = file.read(_CHECKSUM.size)
    if checksum != _CHECKSUM.pack(xxh3_64_intdigest(body)):
        raise StoreDamagedError(f"the header of {path} is damaged", path=str(path))
    refuse_newer(version, path)
    try:
        fields = json.loads(body[_PREFIX.size :])
        for name, most in (("seed", 2**63), ("generation", 2**63), ("dim", 2**24 + 1)):
            if type(fields[name]) is not int or not 0 <= fields[name] < most:
                raise ValueError(f"{name} {fields[name]!r:.80}")
        header = Header(
            seed=fields["seed"],
            generation=fields["generation"],
            namespace=Namespace.from_dict(fields["namespace"]),
            dtype=fields["dtype"],
            dim=fields["dim"],
        )
        header.row_format()
        return header
    except (KeyError, TypeError, ValueError, EmbstoreError) as error:
        raise StoreDamagedError(f"the header of {path}: {error}", path=str(path)) from error


def open_regular(path: Path, access: int = os.O_RDONLY) -> int:
    """A descriptor of a file that is no link, and nothing that could be waited for.

    Raises:
        OSError: if it cannot be opened, or is no regular file.
    """
    fd = os.open(path, access | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return fd


def refuse_newer(version: int, path: Path) -> None:
    """Raise StoreRefusedError if ``version`` is a format that this embstore does not know."""
    if version > FORMAT:
        raise StoreRefusedError(
            f"{path} has format {version}, made by a newer embstore (this one reads {FORMAT}): "
            "upgrade embstore, or choose another location",
            path=str(path),
        )


class VectorFile:
    """The rows of one namespace and generation.

    Attributes:
        mapped: the rows as of the last call of :meth:`rows`.
        changes: how often others were found to have changed the file. What was checked before may
            be different now: writers append, but a tool that copies files does not.

    Reads go through a memory map; it never reaches past the file's real end, so a file that was cut
    short gives fewer rows and not a bus error.
    """

    def __init__(self, directory: Path, header: Header) -> None:
        self._read_fd = self._write_fd = -1
        self.path = directory / header.file_name
        self.header = header
        self.format = header.row_format()
        self._start = header.size
        self._nothing = np.empty(0, self.format.dtype)
        self._view(self._nothing, memoryview(b""))
        self.changes = 0
        self._compared_at = -1
        """When the header was last compared, by that count."""
        self._seen: tuple[int, int, int] | None = None
        """Inode, size and time of change."""

    def _look(self, now: os.stat_result) -> None:
        # The time of change that nobody can set back. Numbers of inodes are used again.
        seen = now.st_ino, now.st_size, now.st_ctime_ns
        if seen != self._seen:
            before, self._seen = self._seen, seen
            # One that only grew was written by another process: rows never change.
            self.changes += before is None or seen[0] != before[0] or seen[1] <= before[1]

    def _open_again(self) -> bool:
        """Take the file that is in this one's place now, if it is the same (a restored copy)."""
        try:
            if read_header(self.path) != self.header:
                return False
            fd = open_regular(self.path)
        except (StoreError, OSError):
            return False
        self.close()
        self._read_fd, self._seen = fd, None
        _READ.add(self)
        return True

    def fault(self, rows: int) -> str | None:
        """What is wrong with a file that ought to have so many rows, and is to be written.

        Raises:
            OSError: if that cannot be found out.
        """
        try:
            there = os.lstat(self.path)
            now = os.fstat(self._writable())
        except FileNotFoundError:
            return "was deleted"
        self._look(now)
        if (there.st_ino, there.st_dev) != (now.st_ino, now.st_dev):
            if not self._open_again():
                return "was replaced"
            now = os.fstat(self._writable())
        if now.st_size < self._start + rows * self.format.stride:
            return "was cut short"
        if self._compared_at != self.changes:
            try:
                if read_header(self.path) != self.header:
                    return "has another file's header"
            except StoreDamagedError:
                return "has a damaged header"
            self._compared_at = self.changes
        return None

    def create(self) -> None:
        """Make the file with its header, replacing what a writer left there that never committed.

        Raises:
            OSError: if it cannot be written.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        self._write_fd = os.open(self.path, flags, 0o600)
        _WRITTEN.add(self)
        try:
            os.fchmod(self._write_fd, file_mode(self.path.parent.parent))
            pwrite(self._write_fd, self.header.to_bytes(), 0)
        except OSError:
            self.close()
            raise

    def rows(self, count: int) -> Array:
        """The first ``count`` rows, or as many as the file has, as a read-only view.

        The view is of the file: a row that is deleted later changes under it.

        Raises:
            StoreError: if the file cannot be opened.
        """
        with INDEX:  # so that nobody lets go of the file meanwhile (see descriptors.py)
            return self._rows(count)

    def _rows(self, count: int) -> Array:
        try:
            if self._read_fd < 0:
                self._read_fd = open_regular(self.path)
                _READ.add(self)
            now = os.fstat(self._read_fd)
            if not now.st_nlink and self._open_again():
                now = os.fstat(self._read_fd)
        except FileNotFoundError:
            return self.mapped[:0]  # cleared or compacted away before it was first read
        except OSError as error:
            raise StoreError(f"cannot read {self.path}: {error}", path=str(self.path)) from error
        self._look(now)
        # A file without a name was cleared or compacted away: nothing in it counts any more.
        present = max(0, now.st_size - self._start) // self.format.stride if now.st_nlink else 0
        if len(self.mapped) > present or len(self.mapped) < min(count, present):
            self._map(present)
        return self.mapped[:count]

    def holds(self, row: int, digest: bytes) -> bool:
        """Whether a row that is :attr:`mapped` has this digest."""
        start = self._start + row * self.format.stride + 8
        return self._bytes[start : start + DIGEST_SIZE] == digest

    def vector(self, row: int) -> Array:
        """The vector of a row that is :attr:`mapped`, (1, dim), a copy."""
        return self._vectors[row : row + 1].copy()

    def count_rows(self) -> int:
        """How many rows there may be, by the file's length without the hole at its end, if any."""
        end = self._start
        with INDEX, contextlib.suppress(OSError):  # ENXIO: no data from here on
            self._rows(0)
            while self._read_fd >= 0:
                end = os.lseek(self._read_fd, end, os.SEEK_DATA)
                end = os.lseek(self._read_fd, end, os.SEEK_HOLE)
        return -(-(end - self._start) // self.format.stride)

    @property
    def is_gone(self) -> bool:
        """Whether the file was cleared or compacted away since it was first read."""
        if self._read_fd < 0:  # let go of: each name is used once
            return not os.path.lexists(self.path)
        return os.fstat(self._read_fd).st_nlink == 0

    def mapped_rows(self) -> Array:
        """The rows that are :attr:`mapped`, as far as the file still has them, be it without a
        name."""
        if self._read_fd < 0:
            return self.mapped[:0]
        size = os.fstat(self._read_fd).st_size
        return self.mapped[: max(0, size - self._start) // self.format.stride]

    def _map(self, present: int) -> None:
        # Of the whole file: it grows by small commits, and each map costs its page faults again.
        if not present:
            self._view(self._nothing, memoryview(b""))
            return
        length = self._start + present * self.format.stride
        try:
            view = mmap.mmap(self._read_fd, length, access=mmap.ACCESS_READ)
        except (OSError, ValueError) as error:  # ValueError: it was cut short just now
            raise StoreError(f"cannot map {self.path}: {error}", path=str(self.path)) from error
        rows = np.frombuffer(view, self.format.dtype, present, self._start)
        self._view(rows, memoryview(view))

    def _view(self, rows: Array, raw: memoryview) -> None:
        self.mapped, self._vectors, self._bytes = rows, rows["vector"], raw

    def write(self, first: int, rows: Array) -> None:
        """Write ``rows`` from row number ``first`` on. They count once the ledger says so. Whether
        others changed the file, :meth:`fault` was asked just before.

        Raises:
            OSError: if they cannot all be written.
        """
        fd = self._writable()
        pwrite(fd, rows.view(np.uint8).data, self._start + first * self.format.stride)
        now = os.fstat(fd)
        self._seen = now.st_ino, now.st_size, now.st_ctime_ns

    def erase(self, rows: Rows) -> None:
        """Make the numbered rows invalid for every reader at once, by zeroing checksum and digest.

        The vectors stay as they are: a reader that has just compared the digest must still get the
        vector that belongs to it.
        """
        for row in rows.tolist():
            pwrite(self._writable(), bytes(24), self._start + row * self.format.stride)

    def sync(self) -> None:
        """Wait until the disk has everything."""
        os.fsync(self._writable())

    def _writable(self) -> int:
        if self._write_fd < 0:
            self._write_fd = open_regular(self.path, os.O_RDWR)
            _WRITTEN.add(self)
        return self._write_fd

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the descriptors. Views handed out stay readable."""
        self.stop_reading()
        self.stop_writing()

    def stop_reading(self) -> None:
        """Let go of the descriptor and the map, for now."""
        fd, self._read_fd = self._read_fd, -1
        if fd >= 0:
            self._view(self._nothing, memoryview(b""))
            os.close(fd)

    def stop_writing(self) -> None:
        """Let go of the descriptor that is written to, for now."""
        fd, self._write_fd = self._write_fd, -1
        if fd >= 0:
            os.close(fd)


_READ: OpenFiles[VectorFile] = OpenFiles(INDEX, VectorFile.stop_reading)
_WRITTEN: OpenFiles[VectorFile] = OpenFiles(LEDGER, VectorFile.stop_writing)


def pwrite(fd: int, data: bytes | memoryview, offset: int) -> None:
    """Write all of ``data``.

    Raises:
        OSError: if it cannot all be written.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
