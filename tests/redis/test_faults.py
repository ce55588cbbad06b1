"""A server that goes away, restarts, is full, is slow, or forgets: each ends in a recomputation and
one warning, and no vector is wrong."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreWarning
from embstore.backends.redis.backend import RedisBackend
from embstore.errors import StoreError
from embstore.faults import Rest
from embstore.testing.values import A, B, assert_same, make_digests, true_vectors
from tests.redis.server import RedisServer, free_port

TEXTS = [f"text {number}" for number in range(200)]
MODEL = Namespace("letters")


class Letters:
    """A model that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked.update(texts)
        return np.array([[len(text), text.count("1"), 1.0] for text in texts], np.float32)


EXPECTED = Letters()(TEXTS)


def job(store: EmbeddingStore) -> tuple[CachedEncoder, Letters]:
    model = Letters()
    return CachedEncoder(model, store, model_name="letters"), model


def not_resting(store: EmbeddingStore) -> None:
    """As if time had passed."""
    store._rest = Rest()
    store._tiers._reading = Rest()
    store._tiers._writing = Rest()
    store.claims.rest = Rest()


def encodes(encoder: CachedEncoder) -> None:
    assert (encoder.encode(TEXTS) == EXPECTED).all()


def no_memory(url: str) -> EmbeddingStore:
    return EmbeddingStore(url, memory_limit=0)


def test_it_goes_away_and_comes_back(server: RedisServer) -> None:
    store = no_memory(server.url)
    encoder, model = job(store)
    encodes(encoder)
    server.kill()
    with pytest.warns(StoreWarning, match="cannot use redis://127.0.0.1") as warned:
        encodes(encoder)
    encodes(encoder)
    assert len(warned) == 1
    assert set(model.asked.values()) == {3}
    server.start()
    not_resting(store)
    encodes(encoder)  # it has forgotten all
    encodes(encoder)
    assert set(model.asked.values()) == {4}
    assert store.stats().write_errors >= 1
    again, other = job(no_memory(server.url))
    encodes(again)
    assert not other.asked, "under the seed that the first process went on with"


def test_it_is_not_there_yet(start: Callable[..., RedisServer]) -> None:
    server = start()
    server.kill()
    with pytest.warns(StoreWarning, match="Connection refused") as warned:
        store = no_memory(server.url)
    encoder, model = job(store)
    encodes(encoder)
    encodes(encoder)
    assert len(warned) == 1
    assert set(model.asked.values()) == {2}
    server.start()
    not_resting(store)
    encodes(encoder)
    encodes(encoder)
    assert set(model.asked.values()) == {3}


def test_errors_are_raised_if_that_is_wanted(server: RedisServer) -> None:
    store = EmbeddingStore(server.url, on_error="raise")
    server.kill()
    with pytest.raises(StoreError, match="ConnectionError"):
        store.get_many(MODEL, TEXTS)
    with pytest.raises(StoreError, match="ConnectionError"):
        EmbeddingStore(server.url, on_error="raise")


def test_a_connection_that_was_cut_is_made_again(server: RedisServer) -> None:
    """As after a restart of a server that keeps its data, or by a firewall."""
    store = EmbeddingStore(server.url, memory_limit=0, on_error="raise")
    encoder, model = job(store)
    encodes(encoder)
    for _ in range(3):
        server.client().client_kill_filter(_type="normal", skipme=True)
        encodes(encoder)
    assert set(model.asked.values()) == {1}


def test_it_hangs(server: RedisServer) -> None:
    store = EmbeddingStore(server.url, memory_limit=0, timeout=0.3)
    encoder, model = job(store)
    encodes(encoder)
    with server.hanging():
        start = time.monotonic()
        with pytest.warns(StoreWarning, match="Timeout") as warned:
            encodes(encoder)
        # One attempt to read, and what follows rests: a wide bound, as machines are noisy.
        assert time.monotonic() - start < 5
        assert len(warned) == 1
    not_resting(store)
    encodes(encoder)
    assert set(model.asked.values()) == {2}


def test_it_forgets_in_mid_job(server: RedisServer) -> None:
    store = no_memory(server.url)
    encoder, model = job(store)
    encodes(encoder)
    seed = store.backend.seed
    server.client().flushall()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encodes(encoder)
        encodes(encoder)
    assert set(model.asked.values()) == {2}
    with no_memory(server.url) as other:
        assert other.backend.seed == seed
        assert other.get_many(MODEL, TEXTS)[1].all()


def test_it_forgets_and_another_begins_it_anew(server: RedisServer) -> None:
    """Digests of two seeds would not find each other: nothing is written under the wrong one."""
    store = no_memory(server.url)
    encoder, model = job(store)
    encodes(encoder)
    server.client().flushall()
    other = no_memory(server.url)
    with pytest.warns(StoreWarning, match="begun anew with another seed: open it again"):
        encodes(encoder)
    job(other)[0].encode(TEXTS)
    encodes(encoder)
    assert set(model.asked.values()) == {3}
    assert other.namespaces()[0].entries == len(TEXTS)
    assert (other.get_many(MODEL, TEXTS)[0] == EXPECTED).all()


def test_it_is_full(start: Callable[..., RedisServer]) -> None:
    server = start("--maxmemory", "3mb", "--maxmemory-policy", "noeviction")
    store = no_memory(server.url)
    model = Letters()
    encoder = CachedEncoder(
        lambda texts: np.tile(model(texts), (1, 300)), store, model_name="letters"
    )
    many = [f"text {number}" for number in range(3000)]
    expected = np.tile(Letters()(many), (1, 300))
    with pytest.warns(StoreWarning, match="maxmemory") as warned:
        assert (encoder.encode(many) == expected).all()
    assert len(warned) == 1
    assert store.stats().write_errors >= 1
    not_resting(store)
    before = len(model.asked)
    assert (encoder.encode(many) == expected).all()
    assert model.asked.total() < 2 * before, "what was stored is still read"


def test_it_evicts(start: Callable[..., RedisServer]) -> None:
    server = start("--maxmemory", "5mb", "--maxmemory-policy", "allkeys-lru")
    store = EmbeddingStore(server.url, memory_limit=0, on_error="raise")
    digests = make_digests(5000)
    for at in range(0, 5000, 250):
        part = digests[at : at + 250]
        store.backend.put_many(A, part, true_vectors(A, part, 384))
        vectors, found = store.backend.get_many(A, digests[: at + 250])
        there = [digests[place] for place in np.flatnonzero(found).tolist()]
        assert_same(vectors[found], true_vectors(A, there, 384))
    found = store.backend.get_many(A, digests)[1]
    assert 0 < found.sum() < 5000
    left = int(found.sum())
    assert store.namespaces()[0].entries > left
    store.compact()
    assert store.namespaces()[0].entries <= left


def test_damaged_rows_are_misses(server: RedisServer) -> None:
    backend = RedisBackend(f"{server.url}?prefix=app")
    digests = make_digests(50)
    backend.put_many(A, digests, true_vectors(A, digests))
    backend.put_many(B, digests, true_vectors(B, digests))
    client = server.client()

    def key(number: int, generation: int = 1) -> bytes:
        return b"app:r:%d:" % generation + digests[number]

    row = client.get(key(0))
    client.set(key(0), row[:30] + bytes([row[30] ^ 1]) + row[31:])
    client.set(key(1), row)  # another's
    client.set(key(2), client.get(key(2, generation=2)))  # the same text's, of another namespace
    client.set(key(3), row[:-8])
    client.set(key(4), b"")
    client.delete(key(5))
    client.lpush(key(5), b"a list")
    client.delete(key(6))
    vectors, found = backend.get_many(A, digests)
    assert np.flatnonzero(~found).tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert_same(vectors[7:], true_vectors(A, digests[7:]))
    assert not vectors[:7].any()
    assert backend.corrupt == 5
    report = backend.verify()
    assert (report.rows, report.corrupt) == (48 + 50, 5)
    assert not report.ok
    assert backend.compact().rows == 43 + 50
    assert backend.verify().ok
    for number in range(5):
        assert not client.exists(key(number))
    stored = backend.put_many(A, digests, true_vectors(A, digests))
    assert np.flatnonzero(stored).tolist() == [0, 1, 2, 3, 4, 6], "a list is in the way of one"
    backend.close()


@pytest.mark.parametrize("value", [b"", b"[]", b"{}", b'{"namespace": {}}', b"\xff"])
def test_a_damaged_registry_is_a_fault(server: RedisServer, value: bytes) -> None:
    encoder, model = job(no_memory(server.url))
    encodes(encoder)
    server.client().hset("embstore:namespaces", MODEL.id, value)
    with pytest.warns(StoreWarning, match="an entry that is none"):
        encodes(encoder)
    assert set(model.asked.values()) == {2}


def test_what_others_keep_there_is_refused(server: RedisServer) -> None:
    server.client().set("embstore:store", "theirs")
    with pytest.raises(StoreError, match="choose another prefix"):
        EmbeddingStore(server.url)
    server.client().set("embstore:store", '{"format": 99, "seed": 5}')
    with pytest.raises(StoreError, match="upgrade embstore"):
        EmbeddingStore(server.url)
    server.client().delete("embstore:store")
    server.client().lpush("embstore:store", "a list")
    with pytest.warns(StoreWarning, match="WRONGTYPE"):
        EmbeddingStore(server.url)


def test_nobody_listens() -> None:
    with pytest.warns(StoreWarning, match="Connection refused"):
        store = EmbeddingStore(f"redis://127.0.0.1:{free_port()}")
    encodes(job(store)[0])
    with pytest.raises(StoreError, match="not open"):
        store.namespaces()
