"""A persistent, disk-backed cache for embeddings."""

from embstore.backends.base import CompactReport, NamespaceInfo, VerifyReport
from embstore.decorator import cached
from embstore.encoder import CachedEncoder
from embstore.errors import (
    CacheMissError,
    EmbstoreError,
    ModelOutputError,
    NamespaceError,
    StoreDamagedError,
    StoreError,
    StoreRefusedError,
    StoreWarning,
)
from embstore.keys import Namespace
from embstore.online import OnlineBatching
from embstore.stats import Stats
from embstore.store import EmbeddingStore

__all__ = [
    "CacheMissError",
    "CachedEncoder",
    "CompactReport",
    "EmbeddingStore",
    "EmbstoreError",
    "ModelOutputError",
    "Namespace",
    "NamespaceError",
    "NamespaceInfo",
    "OnlineBatching",
    "Stats",
    "StoreDamagedError",
    "StoreError",
    "StoreRefusedError",
    "StoreWarning",
    "VerifyReport",
    "cached",
]

__version__ = "0.1.0"
