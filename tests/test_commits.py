"""Commits beside computing: in order, one at a time, all there when a call returns."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, EmbstoreError, StoreError, cached
from embstore.backends.disk.vectors import VectorFile

TEXTS = [f"text number {number}" for number in range(64)]
CHUNK = 8


def embed(texts: list[str]) -> np.ndarray:
    """A pure function of the text, on a device that takes 2 ms for a chunk."""
    time.sleep(0.002)
    return np.array([[len(text), sum(map(ord, text))] for text in texts], np.float32)


def encoder_of(function: Callable[..., Any], store: EmbeddingStore) -> Callable[..., np.ndarray]:
    return cached(store, model_name="m", batch_size=CHUNK)(function)


class Watched:
    """A store whose commits are seen: by which thread, of how many, and whether alone."""

    def __init__(self, store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.threads: list[int] = []
        self.digests: list[bytes] = []
        self.under_way = self.most = 0
        real = store.keep

        def keep(namespace: Any, digests: list[bytes], *others: Any) -> bool:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            self.threads.append(threading.get_ident())
            self.digests += digests
            time.sleep(0.003)
            kept = real(namespace, digests, *others)
            self.under_way -= 1
            return kept

        monkeypatch.setattr(store, "keep", keep)


@pytest.mark.parametrize("coalesce", [True, False])
def test_in_order_one_at_a_time_and_all_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coalesce: bool
) -> None:
    store = EmbeddingStore(tmp_path, on_error="raise")
    watched = Watched(store, monkeypatch)
    function = cached(store, model_name="m", batch_size=CHUNK, coalesce=coalesce)(embed)
    vectors = function(TEXTS)
    assert watched.digests == store.digests(TEXTS)
    assert watched.most == 1
    assert len(set(watched.threads) - {threading.get_ident()}) == 1
    found = encoder_of(embed, EmbeddingStore(tmp_path, read_only=True))
    assert found(TEXTS).tobytes() == vectors.tobytes() == embed(TEXTS).tobytes()


def test_a_slow_model_commits_before_the_next_chunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embstore.commits._SLOW", 0.001)
    store = EmbeddingStore(tmp_path)
    watched = Watched(store, monkeypatch)
    encoder_of(embed, store)(TEXTS)
    assert set(watched.threads) == {threading.get_ident()}


def test_a_busy_processor_is_left_to_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embstore.machine.cores", lambda: 1)
    # As if nobody else had the processor, which on a loaded machine is not so.
    monkeypatch.setattr("time.process_time", time.perf_counter)

    def busy(texts: list[str]) -> np.ndarray:
        until = time.process_time() + 0.002
        while time.process_time() < until:
            pass
        return np.ones((len(texts), 2), np.float32)

    store = EmbeddingStore(tmp_path)
    watched = Watched(store, monkeypatch)
    encoder_of(busy, store)(TEXTS)
    assert set(watched.threads) == {threading.get_ident()}


def test_a_function_that_gives_each_chunk_in_the_same_array(tmp_path: Path) -> None:
    array = np.zeros((CHUNK, 2), np.float32)

    def reusing(texts: list[str]) -> np.ndarray:
        array[: len(texts)] = embed(texts)
        return array[: len(texts)]

    store = EmbeddingStore(tmp_path)
    vectors = encoder_of(reusing, store)(TEXTS)
    found, _ = store.get_many(store.namespaces()[0].namespace, TEXTS)
    assert vectors.tobytes() == found.tobytes() == embed(TEXTS).tobytes()


def test_what_was_computed_before_an_error_is_kept_and_free_for_others(tmp_path: Path) -> None:
    calls = []

    def failing(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        if len(calls) == 6:
            raise RuntimeError("out of memory")
        return embed(texts)

    store = EmbeddingStore(tmp_path)
    with pytest.raises(RuntimeError, match="out of memory"):
        encoder_of(failing, store)(TEXTS)
    assert store.stats().entries == 5 * CHUNK
    again: list[str] = []
    encoder_of(lambda texts: (again.extend(texts), embed(texts))[1], EmbeddingStore(tmp_path))(
        TEXTS
    )
    assert again == TEXTS[5 * CHUNK :]


def fail(*_: Any) -> None:
    raise OSError(errno.EIO, "as a broken disk")


def test_a_commit_that_fails_raises_if_that_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddingStore(tmp_path, on_error="raise")
    monkeypatch.setattr(VectorFile, "write", fail)
    with pytest.raises((StoreError, OSError), match="broken disk"):
        encoder_of(embed, store)(TEXTS)


def test_a_commit_that_fails_costs_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddingStore(tmp_path)
    monkeypatch.setattr(VectorFile, "write", fail)
    with pytest.warns(match="broken disk") as warned:
        assert encoder_of(embed, store)(TEXTS).tobytes() == embed(TEXTS).tobytes()
    assert len(warned) == 1
    assert store.stats().write_errors >= 1


def test_vectors_of_another_length_are_refused(tmp_path: Path) -> None:
    calls = []

    def changing(texts: list[str]) -> np.ndarray:
        calls.append(texts)
        return np.ones((len(texts), len(calls)), np.float32)

    with pytest.raises(EmbstoreError, match="numbers"):
        encoder_of(changing, EmbeddingStore(tmp_path))(TEXTS)


def test_workers_with_fast_models_compute_each_text_once(tmp_path: Path) -> None:
    computed: list[str] = []

    def counting(texts: list[str]) -> np.ndarray:
        computed.extend(texts)
        return embed(texts)

    stores = [EmbeddingStore(tmp_path) for _ in range(4)]
    texts = [f"shared {number}" for number in range(600)]

    def work(store: EmbeddingStore) -> None:
        encoder = CachedEncoder(counting, store, model_name="m")
        encoder.encode(texts, batch_size=CHUNK)

    threads = [threading.Thread(target=work, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(computed) == sorted(texts)
