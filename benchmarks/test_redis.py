"""A store on a server, against what its client takes for the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.corpus import DIM, NAMESPACE
from benchmarks.race import Race
from embstore.backends.redis.backend import RedisBackend
from embstore.testing.values import make_digests
from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

ROWS = 10_000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """One with nothing else to do."""
    if PROGRAM is None:
        pytest.skip(WHY_NOT)
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


def test_reads(race: Race, server: RedisServer) -> None:
    """All rows in one call, against MGET of their keys by the client itself."""
    backend, digests = RedisBackend(server.url), make_digests(ROWS)
    vectors = np.random.default_rng(0).standard_normal((ROWS, DIM), np.float32)
    for start in range(0, ROWS, 256):
        backend.put_many(NAMESPACE, digests[start : start + 256], vectors[start : start + 256])
    client = server.client()
    by_digest = {key[-16:]: key for key in client.scan_iter("embstore:r:*", count=1000)}
    keys = [by_digest[digest] for digest in digests]
    assert (backend.get_many(NAMESPACE, digests)[0] == vectors).all()
    result = race(
        {
            "MGET": lambda: client.mget(keys),
            "embstore": lambda: backend.get_many(NAMESPACE, digests),
        },
        items=ROWS,
        rounds=25,
    )
    result.report("server, 10,000 texts a call", against="MGET", ratio=1.3)
    backend.close()


def test_writes(race: Race, server: RedisServer, tmp_path: Path) -> None:
    """Batches of 256, against a pipeline of SETs of the same bytes."""
    backend = RedisBackend(f"{server.url}?prefix=writes")
    client, batch = server.client(), 256
    vectors = np.random.default_rng(0).standard_normal((batch, DIM), np.float32)
    row = bytes(24 + 4 * DIM)

    def inputs() -> Iterator[tuple[list[bytes]]]:
        first = 0
        while True:
            yield (make_digests(batch, first),)
            first += batch

    def pipeline(digests: list[bytes]) -> None:
        with client.pipeline(transaction=False) as pipe:
            for digest in digests:
                pipe.set(b"raw:" + digest, row, nx=True)
            pipe.execute()

    result = race(
        {
            "SET": pipeline,
            "embstore": lambda digests: backend.put_many(NAMESPACE, digests, vectors, 0.1),
        },
        items=batch,
        rounds=60,
        inputs=inputs(),
    )
    result.report("server, writes, batches of 256", against="SET")
    backend.close()
