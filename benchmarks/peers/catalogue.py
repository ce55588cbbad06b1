"""The peers, by name: where each is, what it needs, and what it cannot do."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.peers.base import Peer

_CACHES = "benchmarks.peers.caches"


@dataclass(frozen=True)
class Entry:
    """One peer.

    Attributes:
        name: as the tables show it, and ``--only`` takes it.
        path: module and class below ``caches``.
        package: what to install; "" if nothing.
        persistent: whether it outlives the process; if not, no other process sees it either.
        note: how it is used, for below the tables.
    """

    name: str
    path: str
    package: str = ""
    persistent: bool = True
    note: str = ""

    @property
    def reference(self) -> tuple[str, str]:
        """Module and class."""
        module, _, name = self.path.partition(":")
        return f"{_CACHES}.{module}", name

    def open(self, folder: Path, dim: int) -> Peer:
        """The cache in a folder, made if there is none."""
        module, name = self.reference
        peer: Peer = getattr(importlib.import_module(module), name)(folder, dim)
        return peer

    def missing(self) -> str:
        """Why it cannot be used; "" if it can."""
        if self.package and self.version() is None:
            return f"not installed: pip install {self.package}"
        return ""

    def version(self) -> str | None:
        """That of its package, if it is installed."""
        try:
            return version(self.package)
        except (PackageNotFoundError, ValueError):
            return None


EMBSTORE = Entry("embstore", "with_embstore:Embstore")
DISK_TIER = Entry("embstore", "with_embstore:DiskTier")

PEERS = [
    Entry(
        "lru_cache",
        "in_memory:LruCache",
        persistent=False,
        note="functools.lru_cache of one text, np.stack",
    ),
    Entry("notebook-dict", "in_memory:NotebookDict", persistent=False, note="MD5, a dict"),
    Entry(
        "notebook-lru",
        "in_memory:NotebookLru",
        persistent=False,
        note="MD5, lru_cache of one text, with room for all instead of 1,024",
    ),
    Entry(
        "mteb",
        "with_mteb:MtebNumpyCache",
        "mteb",
        note="NumpyCache without its wrapper; the index is saved once, in the end: a crash before "
        "loses all; two writers overwrite each other, so several processes may only read",
    ),
    Entry("lmdb", "with_lmdb:Lmdb", "lmdb", note="sync=False, one transaction a call"),
    Entry(
        "diskcache", "with_diskcache:DiskCache", "diskcache", note="no culling, transact() per call"
    ),
    Entry(
        "sqlitedict",
        "with_sqlitedict:Sqlitedict",
        "sqlitedict",
        note="raw bytes instead of pickles, WAL, one commit a batch",
    ),
    Entry(
        "langchain",
        "with_langchain:LangChain",
        "langchain-classic",
        note="CacheBackedEmbeddings on LocalFileStore; writes do not look first what is stored",
    ),
    Entry("joblib", "with_joblib:JoblibMemory", "joblib", note="Memory.cache of one text"),
]
