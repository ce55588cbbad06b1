"""Several processes and machines on one server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreWarning
from embstore.backends.redis.backend import RedisBackend
from embstore.backends.redis.patience import Patience
from embstore.cli.app import app
from embstore.faults import Rest
from embstore.moving import bake, export_store, import_store, merge
from embstore.testing.values import A, make_digests, true_vectors
from tests.redis.server import RedisServer

MODEL = Namespace("letters")
TEXTS = [f"text {number}" for number in range(400)]
ME, YOU = b"m" * 16, b"y" * 16


def letters(texts: list[str]) -> np.ndarray:
    return np.array([[len(text), text.count("1"), 1.0] for text in texts], np.float32)


def slow_letters(texts: list[str]) -> np.ndarray:
    time.sleep(0.002 * len(texts))
    return letters(texts)


def work(how: dict[str, Any], barrier: Any, results: Any) -> None:
    """One worker of several that are given the same texts."""
    with EmbeddingStore(**how, on_error="raise") as store:
        encoder = CachedEncoder(slow_letters, store, model_name="letters")
        barrier.wait()
        right = (encoder.encode(TEXTS, batch_size=16) == letters(TEXTS)).all()
        results.put(bool(right))


def together(*hows: dict[str, Any]) -> None:
    """Let workers that are opened so encode the same texts at one time."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(len(hows)), context.Queue()
    workers = [context.Process(target=work, args=(how, barrier, results)) for how in hows]
    for worker in workers:
        worker.start()
    assert all(results.get(timeout=100) for _ in workers)
    for worker in workers:
        worker.join()


def test_processes_compute_each_text_once(url: str) -> None:
    together({"location": url}, {"location": url}, {"location": url})
    with EmbeddingStore(url) as store:
        [info] = store.namespaces()
        assert (info.entries, info.computed) == (400, 400)
        assert info.hits + info.misses == 1200
        assert info.encode_seconds > 0.8


def test_machines_compute_each_text_once(url: str, tmp_path: Path) -> None:
    together(
        {"location": str(tmp_path / "a"), "upstream": url},
        {"location": str(tmp_path / "b"), "upstream": url},
        {"location": url},
    )
    with EmbeddingStore(url) as store:
        [info] = store.namespaces()
        assert (info.entries, info.computed) == (400, 400)
    for name in ("a", "b"):
        with EmbeddingStore(tmp_path / name) as alone:
            assert (alone.get_many(MODEL, TEXTS)[0] == letters(TEXTS)).all()


def test_a_lease_is_renewed_and_a_late_owner_changes_nothing(url: str) -> None:
    first, second = (RedisBackend(url, lease=2.0) for _ in range(2))
    digests = make_digests(10)
    first.claim(A, digests, ME, 10)
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        assert second.claimed(A, digests).all()
        time.sleep(0.05)
    # As of a process that was stopped for longer than its lease.
    held, first._claims._held = first._claims._held, {}
    while second.claimed(A, digests).any():
        time.sleep(0.05)
    assert second.claim(A, digests, YOU, 10).mine.all()
    first._claims._held = held
    first._claims.renew()
    first.put_many(A, digests[:5], true_vectors(A, digests[:5]), 1.0, ME)
    assert second.claimed(A, digests).all(), "theirs, and not the late one's to end"
    assert first.claim(A, digests, ME, 10).others == 1
    second.close()
    assert not first.claimed(A, digests).any()
    first.close()


def hold(url: str, done: Any) -> None:
    RedisBackend(url, lease=1.0).claim(A, make_digests(5), YOU, 5)
    done.set()
    signal.pause()


def test_what_a_killed_process_claimed_is_taken_over(url: str) -> None:
    context = multiprocessing.get_context("spawn")
    done = context.Event()
    process = context.Process(target=hold, args=(url, done))
    process.start()
    assert done.wait(60)
    backend = RedisBackend(url)
    assert backend.claim(A, make_digests(5), ME, 5).theirs.all()
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    end = time.monotonic() + 20
    while not (claimed := backend.claim(A, make_digests(5), ME, 5)).mine.all():
        assert time.monotonic() < end
        time.sleep(0.05)
    assert claimed.others == 0
    backend.close()


def test_a_forked_child_has_its_own_connections_and_no_claims(url: str) -> None:
    backend = RedisBackend(url)
    digests = make_digests(50)
    backend.put_many(A, digests, true_vectors(A, digests))
    backend.claim(A, make_digests(5, 100), ME, 5)
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            status = 1
            try:
                for _ in range(50):
                    vectors, found = backend.get_many(A, digests)
                    assert found.all()
                    assert (vectors == true_vectors(A, digests)).all()
                more = make_digests(10, 1000 + 10 * number)
                backend.put_many(A, more, true_vectors(A, more))
                backend.close()
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    for _ in range(50):
        assert backend.get_many(A, digests)[1].all()
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert backend.claimed(A, make_digests(5, 100)).all(), "closing in a child ended them"
    assert backend.get_many(A, make_digests(40, 1000))[1].all()
    backend.close()


STORES: list[EmbeddingStore] = []


def look_up(_: int) -> int:
    return int(STORES[0].get_many(MODEL, TEXTS[:10])[1].sum())


def test_what_workers_of_a_pool_looked_up_is_counted(url: str) -> None:
    """They are forked, and end without atexit's functions."""
    with EmbeddingStore(url, memory_limit=0) as store:
        store.put_many(MODEL, TEXTS[:10], letters(TEXTS[:10]))
        store.get_many(MODEL, TEXTS[:10])
        STORES[:] = [store]
        pool = multiprocessing.get_context("fork").Pool(2)
        assert sum(pool.map(look_up, range(6))) == 60
        pool.close()
        pool.join()
        STORES.clear()
    with EmbeddingStore(url) as store:
        assert store.namespaces()[0].hits == 70


# --- a disk in front -----------------------------------------------------------------------------


def test_a_server_that_is_away_makes_it_only_slower(server: RedisServer, tmp_path: Path) -> None:
    asked: list[str] = []

    def model(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return letters(texts)

    def encoder(name: str) -> CachedEncoder:
        store = EmbeddingStore(tmp_path / name, upstream=server.url)
        return CachedEncoder(model, store, model_name="letters")

    here = encoder("a")
    here.encode(TEXTS[:100])
    server.kill()
    with pytest.warns(StoreWarning, match="cannot use redis://") as warned:
        here.encode(TEXTS[:200])
    here.encode(TEXTS[:300])
    assert len(warned) == 1
    assert len(asked) == 300
    server.start()
    upstream = here.store.backend._upstream  # type: ignore[attr-defined]
    upstream.rest = Rest()
    upstream.opened()._server.patience = Patience()
    here.encode(TEXTS)
    here.store.close()
    assert len(asked) == 400
    # What was computed meanwhile was passed on; only what the server itself had forgotten was not.
    there = encoder("b")
    assert (there.encode(TEXTS[100:]) == letters(TEXTS[100:])).all()
    assert len(asked) == 400
    assert there.stats().upstream_hits == 300
    there.store.close()


def test_a_new_disk_needs_the_seed(server: RedisServer, tmp_path: Path) -> None:
    server.kill()
    with pytest.warns(StoreWarning, match="cannot use"):
        store = EmbeddingStore(tmp_path / "a", upstream=server.url)
    encoder = CachedEncoder(letters, store, model_name="letters")
    assert (encoder.encode(TEXTS) == letters(TEXTS)).all()
    assert not (tmp_path / "a").exists()
    server.start()
    store._rest = Rest()
    encoder.encode(TEXTS)
    assert store.backend.seed == RedisBackend(server.url, read_only=True).seed
    assert store.namespaces()[0].entries == 400
    store.close()


def test_rows_are_those_of_a_disk(server: RedisServer, tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "a", upstream=server.url, on_error="raise") as store:
        store.put_many(MODEL, TEXTS, letters(TEXTS))
    [file] = (tmp_path / "a" / "vectors").glob("*.vec")
    client = server.client()
    rows = [client.get(key) for key in client.scan_iter("embstore:r:*")]
    assert len(rows) == 400
    assert {*rows} == {file.read_bytes()[at : at + 40] for at in range(4096, 4096 + 400 * 40, 40)}


# --- models, moving, the command line -------------------------------------------------------------


def test_a_real_model_by_its_path(
    url: str, model_path: str, run_python: Callable[..., str]
) -> None:
    encoder = CachedEncoder(model_path, url)
    vectors = encoder.encode(TEXTS[:20])
    encoder.store.close()
    script = """
import sys
from embstore import CachedEncoder
encoder = CachedEncoder(sys.argv[1], sys.argv[2])
vectors = encoder.encode([f"text {number}" for number in range(20)])
print(vectors.tobytes().hex()[:64], encoder.stats().misses, "torch" in sys.modules)
"""
    assert run_python(script, model_path, url).split() == [
        vectors.tobytes().hex()[:64],
        "0",
        "False",
    ]


def test_moving_to_and_from_a_server(url: str, tmp_path: Path) -> None:
    with EmbeddingStore(url, seed=77, on_error="raise") as store:
        store.put_many(MODEL, TEXTS, letters(TEXTS))
        store.put_identity(b"k" * 16, {"fingerprint": "f"})
    assert export_store(url, tmp_path / "file.npz").rows == 400
    assert import_store(tmp_path / "file.npz", f"{url}-other").stored == 400
    assert merge(tmp_path / "disk", url).stored == 400
    assert merge(f"{url}-other", tmp_path / "disk").stored == 0
    assert bake(url, tmp_path / "baked").rows == 400
    with pytest.raises(ValueError, match="cannot be a source"):
        merge(url, url)
    with EmbeddingStore(tmp_path / "baked", read_only=True, on_error="raise") as baked:
        assert (baked.get_many(MODEL, TEXTS)[0] == letters(TEXTS)).all()
        assert baked.get_identity(b"k" * 16) == {"fingerprint": "f"}


def test_the_command_line(url: str, tmp_path: Path) -> None:
    with EmbeddingStore(url, on_error="raise") as store:
        store.put_many(MODEL, TEXTS, letters(TEXTS))
    page = str(tmp_path / "page.html")
    for command in (
        *(["stats"], ["namespaces"], ["verify"], ["inspect"], ["doctor"], ["compact"]),
        *(["prune", "--older-than", "1d"], ["report", "--html", page], ["clear", "--yes"]),
    ):
        done = CliRunner().invoke(app, [*command, "--store", url])
        assert done.exit_code == 0, (command, done.output)
        assert url.partition("?")[0] in done.output, command
    with EmbeddingStore(url) as store:
        assert store.namespaces() == []
