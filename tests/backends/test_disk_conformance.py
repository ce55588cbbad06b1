"""The disk backend does what every backend must do."""

from __future__ import annotations

from pathlib import Path

from embstore.backends.base import Backend
from embstore.backends.disk import DiskBackend
from embstore.testing import BackendConformance


class TestDiskBackend(BackendConformance):
    def open(self, place: Path) -> Backend:
        return DiskBackend(place)
