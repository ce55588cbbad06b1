"""The backend on a server does what every backend must do; so does a disk in front of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from embstore.backends.base import Backend
from embstore.backends.behind import StoreBehind
from embstore.backends.disk import DiskBackend
from embstore.backends.redis.backend import RedisBackend
from embstore.backends.tiered import TieredBackend
from embstore.errors import StoreError
from embstore.faults import Faults
from embstore.testing import BackendConformance
from embstore.testing.values import A, make_digests, true_vectors
from tests.redis.server import RedisServer


class TestRedisBackend(BackendConformance):
    resolution = 2.1
    lease = 1.0

    @pytest.fixture
    def place(self, url: str) -> str:
        return url

    def open(self, place: str) -> Backend:
        return RedisBackend(place, lease=self.lease)


class TestDiskInFrontOfRedis(BackendConformance):
    lease = 1.0

    @pytest.fixture
    def place(self, url: str, tmp_path: Path) -> tuple[Path, str]:
        return tmp_path / "near", url

    def open(self, place: tuple[Path, str]) -> Backend:
        near, url = place
        behind = StoreBehind(lambda: RedisBackend(url, lease=self.lease), Faults(url, "raise"))
        return TieredBackend(DiskBackend(near, seed=behind.opened().seed), behind)

    def test_pruning_keeps_what_was_stored_last(self, backend: Backend) -> None:
        """tests/backends/test_tiered_conformance.py has it: a matter of the disk alone."""


def test_what_was_used_when_is_not_known_to_all_servers(server: RedisServer) -> None:
    backend = RedisBackend(server.url)
    backend.put_many(A, make_digests(3), true_vectors(A, make_digests(3)))
    server.client().config_set("maxmemory-policy", "allkeys-lfu")
    with pytest.raises(StoreError, match="noeviction, or one with lru"):
        backend.prune(older_than=0.0)
    backend.close()
