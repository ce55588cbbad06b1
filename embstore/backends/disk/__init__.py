"""The disk backend: a ledger of batches, a flat file per namespace, a sorted array to find rows."""

from embstore.backends.disk.backend import DiskBackend

__all__ = ["DiskBackend"]
