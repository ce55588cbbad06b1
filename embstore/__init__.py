"""A persistent, disk-backed cache for embeddings."""

import logging

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

# Or else what is warned of anyway would be printed twice where nobody has set up logging. (That
# logging is imported before locks.py matters too: at a fork, embstore's locks are taken first, as
# they may be held where something is logged.)
logging.getLogger(__name__).addHandler(logging.NullHandler())
