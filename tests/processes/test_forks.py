"""Encoders that are inherited over a fork, whatever other threads were doing at that moment."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, cached
from tests.helpers import MODEL, check, put, run_python, texts_of, vectors_of
from tests.processes.workers import Noting

KNOWN = texts_of(20)


def fork(work: Callable[[], object]) -> int:
    """A child that does ``work``, and that ends in any case."""
    pid = os.fork()
    if not pid:
        # Not faulthandler's timer: to set it, a child would wait for the thread of its parent's.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(30)
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # what was inherited is the parent's to clean up
    return pid


def join(*children: int) -> None:
    """Wait for children, which must all have ended well."""
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert codes == [0] * len(children)


class Slow(Noting):
    """A model that takes as long as it is told to over the text "slow", in the process it is of."""

    def __init__(self, file: Path) -> None:
        super().__init__(file)
        self._process = os.getpid()
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def __call__(self, texts: list[str]) -> np.ndarray:
        if "slow" in texts and os.getpid() == self._process:
            self.begun.set()
            assert self.may_end.wait(60)
        return super().__call__(texts)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[Slow]:
    """The model under the encoder, which notes what it computes."""
    model = Slow(tmp_path / "computed")
    yield model
    model.may_end.set()


@pytest.fixture
def encoder(model: Slow, store: EmbeddingStore) -> CachedEncoder:
    """An encoder that has worked already."""
    encoder = CachedEncoder(model, store, model_name="function")
    encode(encoder, KNOWN)
    return encoder


def encode(encoder: CachedEncoder, texts: list[str]) -> None:
    """Embed texts, which must give what they always give."""
    assert encoder.encode(texts).tobytes() == vectors_of(MODEL, texts).tobytes()


async def aencode(encoder: CachedEncoder, texts: list[str]) -> None:
    """The same from an event loop."""
    assert (await encoder.aencode(texts)).tobytes() == vectors_of(MODEL, texts).tobytes()


def test_from_another_thread_and_by_a_child_of_a_child(encoder: CachedEncoder, model: Slow) -> None:
    of_child, of_grandchild, after = ["child"], ["grandchild"], ["after"]

    def grandchild() -> None:
        encode(encoder, [*KNOWN, *of_child, *of_grandchild])
        asyncio.run(aencode(encoder, [*KNOWN, "grandchild, too"]))

    def child() -> None:
        encode(encoder, [*KNOWN, *of_child])
        thread = threading.Thread(target=lambda: join(fork(grandchild)))
        thread.start()
        thread.join()
        encode(encoder, [*KNOWN, *of_child, *of_grandchild])

    children: list[int] = []
    thread = threading.Thread(target=lambda: children.append(fork(child)))
    thread.start()
    thread.join()
    join(*children)
    encode(encoder, [*KNOWN, *of_child, *of_grandchild, "grandchild, too", *after])
    texts = [*KNOWN, *of_child, *of_grandchild, "grandchild, too", *after]
    assert dict(model.computed()) == dict.fromkeys(texts, 1)


def test_in_the_middle_of_the_model(encoder: CachedEncoder, model: Slow) -> None:
    """Children compute what they need; what the parent is busy with they may compute, too."""
    shared, mine = texts_of(10, 100), texts_of(10, 200)
    thread = threading.Thread(target=lambda: encode(encoder, ["slow", *shared]))
    thread.start()
    assert model.begun.wait(60)
    join(fork(lambda: encode(encoder, [*KNOWN, *mine])))
    encode(encoder, mine)
    child = fork(lambda: encode(encoder, ["slow", *shared, *mine]))
    model.may_end.set()
    thread.join()
    join(child)
    computed = model.computed()
    assert {computed[text] for text in [*KNOWN, *mine]} == {1}
    assert {computed[text] for text in ["slow", *shared]} <= {1, 2}
    encode(encoder, ["slow", *shared, *mine, *KNOWN])
    assert model.computed() == computed


def test_in_a_running_event_loop(
    encoder: CachedEncoder, model: Slow, store: EmbeddingStore
) -> None:
    """With a look-up made and a batch begun, whose results a child never sees."""

    @cached(store, model_name="function of its own")
    async def embed(texts: list[str]) -> Any:
        return await asyncio.to_thread(model, texts)

    async def in_child() -> None:
        await asyncio.gather(*(aencode(encoder, [text, *KNOWN]) for text in ("a", "b", "c")))
        got = await embed(["d", "e"])
        assert got.tobytes() == vectors_of(MODEL, ["d", "e"]).tobytes()

    def child() -> None:
        asyncio.run(in_child())
        encode(encoder, ["f", "g"])
        asyncio.run(in_child())

    async def parent() -> None:
        await aencode(encoder, ["first", *KNOWN])
        await embed(["second"])
        under_way = [
            asyncio.create_task(aencode(encoder, ["slow", "h"])),
            asyncio.create_task(aencode(encoder, ["i"])),
        ]
        await asyncio.to_thread(model.begun.wait, 60)
        join(fork(child))
        model.may_end.set()
        await asyncio.gather(*under_way)
        await in_child()
        await aencode(encoder, ["f", "g", "h", "slow"])

    asyncio.run(parent())
    texts = ["first", "second", "slow", *"abcdefghi", *KNOWN]
    assert dict(model.computed()) == dict.fromkeys(texts, 1)


@pytest.mark.parametrize("kind", ["function", "model"])
def test_while_threads_encode(
    kind: str, encoder: CachedEncoder, static: Any, store: EmbeddingStore
) -> None:
    if kind == "model":
        encoder = CachedEncoder(static, store)
        encoder.encode(KNOWN)
    known = encoder.encode(KNOWN).tobytes()
    stop = threading.Event()
    faults: list[BaseException] = []
    rounds = [0] * 3

    def work(name: str) -> list[str]:
        texts = [f"{name}: {text}" for text in texts_of(6)]
        encoder.encode(texts)
        assert encoder.encode(KNOWN).tobytes() == known
        return texts

    def in_thread(number: int) -> None:
        try:
            while not stop.is_set():
                work(f"thread {number}, {rounds[number]}")
                asyncio.run(encoder.aencode([f"{number}, {rounds[number]}"]))
                rounds[number] += 1
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=in_thread, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(10):
            join(fork(lambda number=number: work(f"child {number}")))  # type: ignore[misc]
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not faults
    assert min(rounds) > 0
    namespace = encoder.namespace()
    for number in range(10):
        vectors, found = store.get_many(namespace, [f"child {number}: text {n}" for n in range(6)])
        assert found.all()
        assert np.isfinite(vectors).all()
    assert store.verify().ok


@pytest.mark.parametrize("closes", [True, False], ids=["closes", "exits"])
def test_a_child_outlives_its_parents_store(tmp_path: Path, closes: bool) -> None:
    """Whoever is last to have the ledger open tidies it away, its write-ahead log included. That
    must never be done under a child that goes on writing, as a daemon does whose parent exits."""
    location = tmp_path / "store"
    go_on, tell_child = os.pipe()
    told, say = os.pipe()

    def child(store: EmbeddingStore) -> None:
        for number in (1, 2, 3):
            put(store, MODEL, texts_of(10, 100 * number))
            os.write(say, b"%d" % number)
            assert os.read(go_on, 1) == b"."
        assert all(check(store, MODEL, ["by another 1", "by another 2", *texts_of(10)]))

    def parent() -> None:
        store = EmbeddingStore(location, on_error="raise", memory_limit=0)
        put(store, MODEL, texts_of(10))
        fork(lambda: child(store))
        assert os.read(told, 1) == b"1"
        if closes:
            store.close()

    join(fork(parent))
    os.close(say)
    for number in (1, 2):
        run_python(GO_ON, location, number)
        os.write(tell_child, b".")
        assert os.read(told, 1) == b"%d" % (number + 1)
    os.write(tell_child, b".")
    assert os.read(told, 1) == b"", "it has ended"
    for end in (go_on, tell_child, told):
        os.close(end)
    with EmbeddingStore(location, on_error="raise") as store:
        for number in range(4):
            assert all(check(store, MODEL, texts_of(10, 100 * number)))
        assert all(check(store, MODEL, ["by another 1", "by another 2"]))
        assert store.verify().ok


GO_ON = """
import sys
from embstore import EmbeddingStore
from tests.helpers import *
with EmbeddingStore(sys.argv[1], on_error="raise") as store:
    for number in range(1 + int(sys.argv[2])):
        assert all(check(store, MODEL, texts_of(10, 100 * number))), number
    put(store, MODEL, [f"by another {sys.argv[2]}"])
"""
