"""Rows on a server, against what its client takes for the same bytes, unchecked."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import redis

from benchmarks.corpus import BATCH, DIM, NAMESPACE, vectors
from benchmarks.race import Race
from embstore.backends.redis.backend import RedisBackend

ROWS = 10_000
SINGLES = 1_000
PROGRAM = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = pytest.mark.skipif(PROGRAM is None, reason="no redis-server on the PATH")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    """A server of this run."""
    from tests.redis.server import RedisServer

    place = folder / "redis"
    place.mkdir()
    server = RedisServer(place)
    yield server.url
    server.kill()


@pytest.fixture
def filled(url: str) -> Iterator[tuple[RedisBackend, list[bytes], list[bytes], Any]]:
    """A store of 10,000 x 384; digests, the keys of their rows, and the client that it has."""
    backend = RedisBackend(url)
    digests = [np.random.default_rng(number).bytes(16) for number in range(ROWS)]
    for start in range(0, ROWS, BATCH):
        part = digests[start : start + BATCH]
        backend.put_many(NAMESPACE, part, vectors(start, len(part)))
    server = backend._server
    known = server.known(NAMESPACE)
    assert known is not None
    keys = [server.layout.rows(known[1].generation) + digest for digest in digests]
    client = redis.Redis.from_url(url)
    yield backend, digests, keys, client
    client.connection_pool.disconnect()
    backend.clear(NAMESPACE)
    backend.close()


def test_read_batch(race: Race, filled: tuple[RedisBackend, list[bytes], list[bytes], Any]) -> None:
    """Many rows, beside one MGET of the same keys, and beside the best that MGETs can do."""
    backend, digests, keys, client = filled
    step = 336

    def in_parts() -> list[Any]:
        with client.pipeline(transaction=False) as pipeline:
            for at in range(0, ROWS, step):
                pipeline.mget(keys[at : at + step])
            return cast("list[Any]", pipeline.execute())

    result = race(
        {
            "raw MGET": lambda: client.mget(keys),
            "raw MGETs of 512 KB": in_parts,
            "embstore": lambda: backend.get_many(NAMESPACE, digests),
        },
        items=ROWS,
        unit="row",
        rounds=31,
    )
    assert backend.get_many(NAMESPACE, digests)[1].all()
    name = f"server, 10,000 x {DIM}"
    result.report(f"{name}, read", against="raw MGET", ratio=1.3)
    result.report(f"{name}, read, MGETs alike", against="raw MGETs of 512 KB")


def test_read_one(race: Race, filled: tuple[RedisBackend, list[bytes], list[bytes], Any]) -> None:
    """One row a call, beside GET."""
    backend, digests, keys, client = filled

    def raw() -> None:
        for key in keys[:SINGLES]:
            client.get(key)

    def ours() -> None:
        for digest in digests[:SINGLES]:
            backend.get_many(NAMESPACE, [digest])

    result = race({"raw GET": raw, "embstore": ours}, items=SINGLES, unit="row", rounds=15)
    result.report("server, one row", against="raw GET")


def test_write(race: Race, filled: tuple[RedisBackend, list[bytes], list[bytes], Any]) -> None:
    """New rows in batches of 256, beside SET NX of the same bytes in pipelines."""
    backend, _, keys, client = filled
    rows = client.mget(keys)
    given = vectors(0, ROWS)
    made = iter(range(1_000))

    def raw() -> None:
        for start in range(0, ROWS, BATCH):
            with client.pipeline(transaction=False) as pipeline:
                for key, row in zip(
                    keys[start : start + BATCH], rows[start : start + BATCH], strict=True
                ):
                    pipeline.set(b"raw:" + key, row, nx=True)
                pipeline.execute()

    def ours() -> None:
        new = np.random.default_rng(10**6 + next(made)).bytes(16 * ROWS)
        for start in range(0, ROWS, BATCH):
            end = min(ROWS, start + BATCH)
            digests = [new[16 * at : 16 * at + 16] for at in range(start, end)]
            assert backend.put_many(NAMESPACE, digests, given[start:end], 1.0).all()

    def forget() -> Iterator[tuple[()]]:
        while True:
            for start in range(0, ROWS, BATCH):
                client.unlink(*(b"raw:" + key for key in keys[start : start + BATCH]))
            yield ()

    sides = {"raw SET NX": raw, "embstore": ours}
    result = race(sides, items=ROWS, unit="row", rounds=9, inputs=forget())
    result.report(f"server, 10,000 x {DIM}, written by {BATCH}", against="raw SET NX")
