"""A server that goes away, restarts, is full, is slow, or forgets: each ends in a recomputation and
one warning, and no vector is wrong."""

from __future__ import annotations

import signal
import socketserver
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreWarning
from embstore.backends.redis.backend import RedisBackend
from embstore.backends.redis.patience import Patience
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
    if isinstance(store._backend, RedisBackend):
        store._backend._server.patience = Patience()
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


def test_it_is_asked_less_and_less(server: RedisServer) -> None:
    backend = RedisBackend(server.url)
    patience = backend._server.patience
    server.kill()
    pauses = []
    for _ in range(8):
        patience._until = 0.0
        with pytest.raises(StoreError, match="ConnectionError"):
            backend.get_many(A, make_digests(1))
        pauses.append(patience._pause)
        said = patience.why_not
        with pytest.raises(StoreError) as caught:  # without being asked
            backend.claimed(A, make_digests(1))
        assert str(caught.value) == said
    assert pauses[:4] == [1, 2, 4, 8]
    assert pauses[-1] == 60
    server.start()
    patience._until = 0.0
    assert not backend.get_many(A, make_digests(1))[1].any()
    assert not patience.why_not


@pytest.mark.parametrize("seconds", [0.0, 0.001, 60.0])
def test_any_timeout(url: str, seconds: float) -> None:
    with EmbeddingStore(url, timeout=seconds, on_error="raise") as store:
        encodes(job(store)[0])


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
    with pytest.warns(StoreWarning, match="begun anew by others, with another seed"):
        encodes(encoder)
    job(other)[0].encode(TEXTS)
    encodes(encoder)  # opened again, with the seed of the others
    assert set(model.asked.values()) == {2}
    assert store.backend.seed == other.backend.seed
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
    store.compact()
    assert 0 < store.namespaces()[0].entries <= found.sum()


# One that lands in a destructor is only told of.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_leaves_no_answer_to_another_question(url: str) -> None:
    """Ctrl-C at any moment, in a notebook that goes on."""
    backend = RedisBackend(url)
    digests, random = make_digests(500), np.random.default_rng(0)
    expected = true_vectors(A, digests, 64)
    backend.put_many(A, digests, expected)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    interrupted = 0
    try:
        for number in range(400):
            new = make_digests(10, 1000 + 10 * number)
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.002 * random.random())
                backend.get_many(A, digests)
                backend.claim(A, new, b"o" * 16, 10)
                backend.put_many(A, new, true_vectors(A, new, 64), 1.0, b"o" * 16)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            vectors, found = backend.get_many(A, digests)
            assert found.all()
            assert_same(vectors, expected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted
    assert backend.verify().ok
    backend.close()


def test_it_drops_the_registry_and_not_the_rows(server: RedisServer) -> None:
    """As a server may that is full: the registry is a key like others."""
    first, second = RedisBackend(server.url), RedisBackend(server.url)
    digests = make_digests(50)
    first.put_many(A, digests, true_vectors(A, digests))
    assert second.get_many(A, digests)[1].all()
    server.client().delete("embstore:store")
    assert second.get_many(A, digests)[1].all()
    more = make_digests(10, 100)
    second.put_many(A, more, true_vectors(A, more))
    for each in (first, second, RedisBackend(server.url)):
        vectors, found = each.get_many(A, [*digests, *more])
        assert found.all()
        assert_same(vectors, true_vectors(A, [*digests, *more]))
    # With nobody left who knows, the new store is whole, and what is left of the old one in no way.
    server.client().delete("embstore:store")
    new = RedisBackend(server.url)
    assert new.seed != first.seed
    assert not new.get_many(A, digests)[1].any()
    assert new.put_many(A, digests, true_vectors(A, digests)).all()
    assert new.get_many(A, digests)[1].all()
    new.compact()
    assert len([*server.client().scan_iter("embstore:r:*")]) == 50


def test_a_cleared_namespace_is_not_taken_for_a_lost_one(server: RedisServer) -> None:
    first, second = RedisBackend(server.url), RedisBackend(server.url)
    digests = make_digests(5)
    first.put_many(A, digests, true_vectors(A, digests))
    assert second.get_many(A, digests)[1].all()
    [row, *_] = server.client().scan_iter("embstore:r:*")
    first.clear(A)
    server.client().set(row, "as of a writer that came too late")
    assert not second.get_many(A, digests)[1].any()
    assert second.put_many(A, digests, true_vectors(A, digests)).all()
    assert first.get_many(A, digests)[1].all()
    assert first.compact().rows == 5
    assert not server.client().exists(row)


def test_a_damaged_row_is_stored_anew(server: RedisServer) -> None:
    store = no_memory(server.url)
    encoder, model = job(store)
    encodes(encoder)
    client = server.client()
    [one, other, *_] = client.scan_iter("embstore:r:*")
    client.set(one, client.get(other))
    encodes(encoder)
    encodes(encoder)
    assert sorted(model.asked.values())[-2:] == [1, 2]
    assert store.stats().corrupt == 1
    assert store.verify().ok
    assert store.namespaces()[0].entries == len(TEXTS)


def test_damaged_rows_are_misses(server: RedisServer) -> None:
    backend = RedisBackend(f"{server.url}?prefix=app")
    digests = make_digests(50)
    backend.put_many(A, digests, true_vectors(A, digests))
    backend.put_many(B, digests, true_vectors(B, digests))
    client = server.client()

    def key(number: int, space: Namespace = A) -> bytes:
        known = backend._server.known(space)
        assert known is not None
        return b"app:r:%b:" % known[1].generation.encode() + digests[number]

    row = client.get(key(0))
    client.set(key(0), row[:30] + bytes([row[30] ^ 1]) + row[31:])
    client.set(key(1), row)  # another's
    client.set(key(2), client.get(key(2, B)))  # the same text's, of another namespace
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


@pytest.mark.parametrize(
    "value", [b"", b"[]", b"{}", b'{"namespace": {}}', b"\xff", b"[" * 100_000]
)
def test_a_damaged_registry_is_a_fault(server: RedisServer, value: bytes) -> None:
    encoder, model = job(no_memory(server.url))
    encodes(encoder)
    server.client().hset("embstore:store", MODEL.id, value)
    store = encoder.store
    with pytest.warns(StoreWarning, match="an entry that is none") as warned:
        encodes(encoder)
    assert len(warned) == 1
    assert set(model.asked.values()) == {2}
    assert store.namespaces() == []
    assert "an entry that is none" in str(store.verify().problems)
    store.compact()
    assert store.verify().ok
    not_resting(store)
    encodes(encoder)
    assert store.namespaces()[0].entries == len(TEXTS)


def test_what_others_keep_there_is_refused(server: RedisServer) -> None:
    server.client().set("embstore:store", "theirs")
    with pytest.raises(StoreError, match="choose another prefix"):
        EmbeddingStore(server.url)
    server.client().delete("embstore:store")
    server.client().hset("embstore:store", "made", '{"format": 99, "seed": 5}')
    with pytest.raises(StoreError, match="upgrade embstore"):
        EmbeddingStore(server.url)
    server.client().hset("embstore:store", "made", "[" * 100_000)
    with pytest.raises(StoreError, match="choose another prefix"):
        EmbeddingStore(server.url)


def test_something_else_listens() -> None:
    """As of a wrong port: its answers are no answers."""
    with socketserver.TCPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.warns(StoreWarning, match="cannot use redis://"):
            store = EmbeddingStore(f"redis://127.0.0.1:{other.server_address[1]}")
        encodes(job(store)[0])
        other.shutdown()


class Other(socketserver.BaseRequestHandler):
    """What speaks HTTP."""

    def handle(self) -> None:
        self.request.recv(4096)
        self.request.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


@pytest.mark.parametrize("host", ["a..b", "x" * 300])
def test_a_host_that_cannot_be(host: str) -> None:
    with pytest.warns(StoreWarning, match="cannot use redis://"):
        EmbeddingStore(f"redis://{host}")


def test_nobody_listens() -> None:
    with pytest.warns(StoreWarning, match="Connection refused"):
        store = EmbeddingStore(f"redis://127.0.0.1:{free_port()}")
    encodes(job(store)[0])
    with pytest.raises(StoreError, match="not open"):
        store.namespaces()
