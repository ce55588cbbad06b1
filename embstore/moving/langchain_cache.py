"""Vectors out of a LangChain cache: files that ``CacheBackedEmbeddings`` wrote to a
``LocalFileStore``, read without LangChain.

A file's name is the namespace that its user chose, and a hash of the text. A hash does not give the
text back, so the texts must be at hand: what of them has a file is moved.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from embstore.backends.base import Progressed, unheard
from embstore.backends.rows import Array
from embstore.keys import Namespace, version_fingerprint
from embstore.store import EmbeddingStore

KeyEncoder = Callable[[str], str]
"""From a text to the name of its file, behind the namespace."""

_NAMESPACE_UUID = uuid.UUID(int=1985)  # langchain_classic.embeddings.cache.NAMESPACE_UUID
_BATCH = 256


def _sha1(text: str) -> str:
    digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return str(uuid.uuid5(_NAMESPACE_UUID, digest))


KEY_ENCODERS: Mapping[str, KeyEncoder] = {
    "sha1": _sha1,
    "blake2b": lambda text: hashlib.blake2b(text.encode()).hexdigest(),
    "sha256": lambda text: hashlib.sha256(text.encode()).hexdigest(),
    "sha512": lambda text: hashlib.sha512(text.encode()).hexdigest(),
}
"""LangChain's own, its default first."""

_HASH = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{128}|[0-9a-f]{64}"
_KEY = re.compile(_HASH)
_NAME = re.compile(f"(.*?)({_HASH})", re.DOTALL)
_ALLOWED = re.compile(r"[a-zA-Z0-9_.\-/]+")
"""Names that LocalFileStore allows."""


@dataclass(frozen=True)
class MigrationReport:
    """What came of the texts: each was moved, or is one of the others.

    Attributes:
        texts: distinct texts that were looked for.
        moved: texts whose vector is in the store now, or was before.
        missing: texts that have no file.
        unreadable: files that hold no vector, by name: no list of finite numbers in JSON.
        wrong_dim: files whose vector is of another length than ``dim``, by name.
        dim: numbers in a vector; 0 if none was found.
        key_encoders: how many were moved, by key encoder.
    """

    texts: int
    moved: int
    missing: int
    unreadable: tuple[str, ...]
    wrong_dim: tuple[str, ...]
    dim: int
    key_encoders: Mapping[str, int]


def namespace_of(
    model_name: str,
    kind: Literal["document", "query"] = "document",
    *,
    version: str | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Namespace:
    """Where :class:`~embstore.integrations.langchain.CachedEmbeddings` with these arguments keeps
    documents, or queries.

    >>> namespace_of("text-embedding-3-small", settings={"dimensions": 256}).extra
    {'dimensions': 256, 'kind': 'document'}
    """
    return Namespace(
        model_name, version_fingerprint(version), extra={"kind": kind, **(settings or {})}
    )


def count_files(path: str | os.PathLike[str], prefix: str) -> int:
    """How many files of a cache stand under a LangChain namespace.

    Raises:
        OSError: if there is no such folder.
    """
    return sum(
        name.startswith(prefix) and _KEY.fullmatch(name, len(prefix)) is not None
        for name in _names(path)
    )


def prefixes(path: str | os.PathLike[str]) -> Counter[str]:
    """Which LangChain namespaces there seem to be in a cache, and how many files each has. (One
    that ends in 64 hexadecimal digits cannot be told from a longer hash.)

    Raises:
        OSError: if there is no such folder.
    """
    found = (_NAME.fullmatch(name) for name in _names(path))
    return Counter(match[1] for match in found if match is not None)


def _names(path: str | os.PathLike[str]) -> Iterator[str]:
    path = _folder(path)
    return (file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())


def _folder(path: str | os.PathLike[str]) -> Path:
    if not os.path.isdir(path):
        raise NotADirectoryError(errno.ENOTDIR, "no folder of a LocalFileStore", os.fspath(path))
    return Path(path)


def migrate(
    path: str | os.PathLike[str],
    texts: Iterable[str],
    store: EmbeddingStore,
    namespace: Namespace,
    *,
    prefix: str = "",
    key_encoder: KeyEncoder | None = None,
    progressed: Progressed = unheard,
) -> MigrationReport:
    """Move what a LangChain cache has of some texts. The cache is only read.

    Args:
        path: folder of the ``LocalFileStore``.
        texts: what was embedded: the chunks of documents, if those were split.
        store: where vectors go, as float32. A text that it has already keeps its vector.
        namespace: under which: see :func:`namespace_of`.
        prefix: the ``namespace`` that ``CacheBackedEmbeddings`` was given.
        key_encoder: the function that it was given; None tries all of LangChain's own.
        progressed: called with a number of texts when so many more are done.

    Raises:
        NamespaceError: if the store has vectors of integers, or of another precision, there.
        OSError: if there is no such folder.
        StoreError: if the store cannot be read, or is read-only.
        ValueError: if no cache can have files of that name.

    The length of a vector is that of those in the store; where there are none, that of most in the
    first batch that has any.
    """
    folder = _folder(path)
    encoders = KEY_ENCODERS if key_encoder is None else {"key_encoder": key_encoder}
    dim = next((info.dim for info in store.namespaces() if info.namespace == namespace), 0)
    distinct = list(dict.fromkeys(texts))
    moved: Counter[str] = Counter()
    unreadable: list[str] = []
    wrong_dim: list[str] = []
    for at in range(0, len(distinct), _BATCH):
        batch = distinct[at : at + _BATCH]
        entries = [entry for text in batch if (entry := _find(folder, prefix, encoders, text))]
        lengths = Counter(len(entry.vector) for entry in entries if len(entry.vector))
        if not dim and lengths:
            dim = lengths.most_common(1)[0][0]
        sound = [entry for entry in entries if len(entry.vector) == dim > 0]
        if sound:
            vectors = np.stack([entry.vector for entry in sound])
            store.put_many(namespace, [entry.text for entry in sound], vectors)
        moved.update(entry.encoder for entry in sound)
        unreadable += (entry.file for entry in entries if not len(entry.vector))
        wrong_dim += (entry.file for entry in entries if len(entry.vector) not in (0, dim))
        progressed(len(batch))
    return MigrationReport(
        texts=len(distinct),
        moved=moved.total(),
        missing=len(distinct) - moved.total() - len(unreadable) - len(wrong_dim),
        unreadable=tuple(unreadable),
        wrong_dim=tuple(wrong_dim),
        dim=dim,
        key_encoders=dict(moved),
    )


class _Entry(NamedTuple):
    """A file of the cache: whose it is, and what it holds. A vector of length 0 is none."""

    text: str
    encoder: str
    file: str
    vector: Array


def _find(path: Path, prefix: str, encoders: Mapping[str, KeyEncoder], text: str) -> _Entry | None:
    """What the cache has of a text: of several files, the first that can be read."""
    unreadable = None
    for encoder, encode in encoders.items():
        try:
            name = prefix + encode(text)
        except UnicodeEncodeError:
            return None  # half a surrogate pair, which LangChain cannot hash either
        file = _file(path, name)
        try:
            if file.is_file():  # and no fifo, which would be waited for
                return _Entry(text, encoder, name, _vector(file.read_bytes()))
        except (OSError, ValueError, OverflowError, RecursionError):
            unreadable = unreadable or _Entry(text, encoder, name, np.zeros(0, np.float32))
    return unreadable


def _file(path: Path, name: str) -> Path:
    # What LocalFileStore refuses was never written, and must not lead out of the folder.
    if not _ALLOWED.fullmatch(name) or name.startswith("/") or ".." in name.split("/"):
        raise ValueError(f"a LocalFileStore has no file {name!r}: check the namespace")
    return path / name


def _vector(raw: bytes) -> Array:
    """What ``CacheBackedEmbeddings`` wrote as JSON, as float32.

    Raises:
        OverflowError: if a number is beyond counting.
        RecursionError: if lists stand in lists too deeply.
        ValueError: if it is anything else than a list of finite numbers.
    """
    numbers = json.loads(raw)
    if type(numbers) is not list or not numbers or {*map(type, numbers)} - {int, float}:
        raise ValueError("no list of numbers")
    with np.errstate(over="ignore"):
        vector = np.array(numbers, np.float64).astype(np.float32)
    if not np.isfinite(vector).all():
        raise ValueError("not finite")
    return vector
