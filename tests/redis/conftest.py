"""Servers and stores on them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

NUMBERS = itertools.count()


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One for all tests that harm none."""
    if PROGRAM is None:
        pytest.skip(WHY_NOT)
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def url(shared_server: RedisServer) -> str:
    """A store of the test's own, on a server of all."""
    return f"{shared_server.url}?prefix=test-{next(NUMBERS)}"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RedisServer]]:
    """Starts servers of the test's own, with options; they end with it."""
    if PROGRAM is None:
        pytest.skip(WHY_NOT)
    started: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        folder = tmp_path / f"redis-{len(started)}"
        folder.mkdir()
        started.append(RedisServer(folder, *options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def server(start: Callable[..., RedisServer]) -> RedisServer:
    """A server of the test's own."""
    return start()
