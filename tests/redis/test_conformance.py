"""The backend on a server does what every backend must do; so does a disk in front of it."""

from __future__ import annotations

import pytest

from embstore.backends.base import Backend
from embstore.backends.redis.backend import RedisBackend
from embstore.testing import BackendConformance


class TestRedisBackend(BackendConformance):
    resolution = 2.1
    lease = 1.0

    @pytest.fixture
    def place(self, url: str) -> str:
        return url

    def open(self, place: str) -> Backend:
        return RedisBackend(place, lease=self.lease)
