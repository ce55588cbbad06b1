"""Hooks: what they are told, that they break nothing, and that they cost nothing when absent."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import pickle
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import (
    CachedEncoder,
    CacheMissError,
    EmbeddingStore,
    OnlineBatching,
    StoreError,
    StoreWarning,
    cached,
    hooks,
)
from embstore.hooks import Hook, Operation
from tests.helpers import MODEL, put, texts_of


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


class Recorder(Hook):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Operation, int]] = []
        self.faults: list[tuple[str, Exception]] = []

    def began(self, operation: Operation) -> None:
        self.told.append(("began", operation, threading.get_ident()))

    def ended(self, operation: Operation) -> None:
        self.told.append(("ended", operation, threading.get_ident()))

    def failed(self, location: str, error: Exception) -> None:
        self.faults.append((location, error))

    @property
    def course(self) -> list[str]:
        return [f"{what} {operation.name}" for what, operation, _ in self.told]

    def ended_ones(self, name: str) -> list[Operation]:
        return [one for what, one, _ in self.told if what == "ended" and one.name == name]


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    recorder = Recorder()
    hooks.add(recorder)
    yield recorder
    hooks.remove(recorder)
    assert hooks.active == ()


def encoder_of(store: EmbeddingStore, **arguments: Any) -> CachedEncoder:
    return CachedEncoder(embed, store, model_name="m", **arguments)


def test_a_call_and_its_steps_in_order(store: EmbeddingStore, recorder: Recorder) -> None:
    encoder = encoder_of(store, coalesce=False)
    encoder.encode(["a", "bb", "a", "a"])
    assert recorder.course == [
        *("began encode", "began lookup", "ended lookup", "began compute", "ended compute"),
        *("began commit", "ended commit", "ended encode"),
    ]
    encode, lookup, compute, commit = (
        recorder.ended_ones(name)[0] for name in ("encode", "lookup", "compute", "commit")
    )
    assert (lookup.texts, lookup.memory_hits, lookup.disk_hits) == (4, 0, 0)
    assert (lookup.repeats, lookup.misses) == (2, 2)
    assert (encode.texts, compute.texts, commit.texts, commit.stored) == (4, 2, 2, 2)
    for one in (encode, lookup, compute, commit):
        assert (one.location, one.model_name, one.error) == (store.location, "m", None)
        assert one.namespace == encoder.namespace()
        assert 0 < one.seconds <= encode.seconds


def test_which_tier_answered(
    store: EmbeddingStore, reopened: Callable[..., EmbeddingStore], recorder: Recorder
) -> None:
    put(store, MODEL, texts_of(100))
    other = reopened()
    for texts in (["text 1"], ["text 1"], [*texts_of(3), "none", "none"], texts_of(100)):
        other.get_many(MODEL, texts)
    figures = [
        (one.texts, one.memory_hits, one.disk_hits, one.repeats, one.misses)
        for one in recorder.ended_ones("lookup")
    ]
    # A hundred texts are more than memory is asked for.
    assert figures == [(1, 0, 1, 0, 0), (1, 1, 0, 0, 0), (5, 1, 2, 1, 1), (100, 0, 100, 0, 0)]
    stats = other.stats()
    assert stats.memory_hits == sum(one.memory_hits for one in recorder.ended_ones("lookup"))
    assert stats.disk_hits == sum(one.disk_hits for one in recorder.ended_ones("lookup"))
    assert stats.misses == sum(one.misses for one in recorder.ended_ones("lookup"))


def test_what_is_stored_already_is_not_new(store: EmbeddingStore, recorder: Recorder) -> None:
    put(store, MODEL, texts_of(3))
    put(store, MODEL, texts_of(5))
    assert [(one.texts, one.stored) for one in recorder.ended_ones("commit")] == [(3, 3), (5, 2)]


def test_a_decorated_function(store: EmbeddingStore, recorder: Recorder) -> None:
    function = cached(store, model_name="m", batch_size=2)(embed)
    function(["a", "b", "c"])
    assert [one.texts for one in recorder.ended_ones("compute")] == [2, 1]
    assert sum(one.stored for one in recorder.ended_ones("commit")) == 3
    assert [one.model_name for one in recorder.ended_ones("encode")] == ["m"]


def test_an_async_function(store: EmbeddingStore, recorder: Recorder) -> None:
    @cached(store, model_name="m")
    async def function(texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0)
        return embed(texts)

    asyncio.run(function(["a", "b", "a"]))
    assert [one.texts for one in recorder.ended_ones("encode")] == [3]
    assert [one.texts for one in recorder.ended_ones("compute")] == [2]
    assert [one.stored for one in recorder.ended_ones("commit")] == [2]


@pytest.mark.parametrize("max_batch", [2, 64], ids=["alone", "together"])
def test_aencode(store: EmbeddingStore, recorder: Recorder, max_batch: int) -> None:
    encoder = encoder_of(store, online=OnlineBatching(max_batch=max_batch))
    asyncio.run(encoder.aencode(["a", "b", "c", "a"]))
    assert recorder.course[0] == "began encode"
    assert recorder.course[-1] == "ended encode"
    assert recorder.ended_ones("encode")[0].model_name == "m"
    assert [one.misses for one in recorder.ended_ones("lookup")] == [3]
    assert sum(one.texts for one in recorder.ended_ones("compute")) == 3


def test_an_operation_ends_where_it_began(tmp_path: Path, recorder: Recorder) -> None:
    store = EmbeddingStore(tmp_path)
    encoder = encoder_of(store)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: encoder.encode(texts_of(20, number)), range(40)))
    begun = {id(one): thread for what, one, thread in recorder.told if what == "began"}
    ended = {id(one): thread for what, one, thread in recorder.told if what == "ended"}
    assert begun == ended
    assert len(recorder.told) == 2 * len(begun)


def test_a_model_that_fails(store: EmbeddingStore, recorder: Recorder) -> None:
    def fail(texts: list[str]) -> Any:
        raise ValueError(f"cannot embed {texts}")

    with pytest.raises(ValueError, match="cannot embed"):
        CachedEncoder(fail, store, model_name="m").encode("a secret")
    assert [one.error for one in recorder.ended_ones("compute")] == [ValueError]
    assert [one.error for one in recorder.ended_ones("encode")] == [ValueError]
    assert [one.error for one in recorder.ended_ones("lookup")] == [None]
    with pytest.raises(CacheMissError):
        encoder_of(store, on_miss="raise").encode("none")
    assert recorder.ended_ones("encode")[-1].error is CacheMissError


def test_what_an_error_holds_is_let_go(store: EmbeddingStore, recorder: Recorder) -> None:
    class Large:
        pass

    held: list[weakref.ref[Large]] = []

    def fail(texts: list[str]) -> Any:
        large = Large()
        held.append(weakref.ref(large))
        raise ValueError

    gc.collect()
    gc.disable()
    try:
        with pytest.raises(ValueError, match=r"^$") as caught:
            CachedEncoder(fail, store, model_name="m").encode("a")
        del caught
        assert held[0]() is None
    finally:
        gc.enable()


def test_a_store_that_fails(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = EmbeddingStore(tmp_path)
    assert store._backend is not None

    def full(*_: object) -> Any:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._backend, "put_many", full)
    with pytest.warns(StoreWarning, match="No space"):
        put(store, MODEL, ["a"])
    ((location, error),) = recorder.faults
    assert location == store.location
    assert isinstance(error, OSError)
    assert [one.error for one in recorder.ended_ones("commit")] == [OSError]


def test_a_fault_that_is_raised_is_told_too(tmp_path: Path, recorder: Recorder) -> None:
    store = EmbeddingStore(tmp_path, on_error="raise")
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get_many(MODEL, ["a"])
    assert [type(error) for _, error in recorder.faults] == [StoreError]
    assert [one.error for one in recorder.ended_ones("lookup")] == [StoreError]


@pytest.mark.parametrize("method", ["began", "ended", "failed"])
def test_a_hook_that_raises_is_left_out_and_breaks_nothing(
    tmp_path: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    told = []

    def no_permission(*_: object) -> Any:
        raise OSError(13, "Permission denied")

    class Broken(Hook):
        pass

    def fail(*_: object) -> None:
        told.append(method)
        raise ZeroDivisionError("a bug")

    setattr(Broken, method, fail)
    broken = Broken()
    hooks.add(broken)
    try:
        store = EmbeddingStore(tmp_path)
        assert store._backend is not None
        monkeypatch.setattr(store._backend, "get_many", no_permission)
        with pytest.warns() as caught:
            vectors = encoder_of(store).encode(["a", "bb"])
        warnings = [str(each.message) for each in caught if each.category is RuntimeWarning]
        assert len(warnings) == len(told) == 1
        assert "a bug" in warnings[0]
        assert warnings[0].endswith("it is told nothing more")
        assert vectors.tolist() == [[1, 1], [2, 1]]
        assert hooks.active == (recorder,)
        encoder_of(store).encode(["a", "bb"])
        assert len(told) == 1
    finally:
        hooks.remove(broken)
    # The other hook missed nothing.
    assert recorder.course.count("began encode") == recorder.course.count("ended encode") == 2


def test_a_hook_that_raised_may_be_added_again() -> None:
    class Broken(Hook):
        def failed(self, location: str, error: Exception) -> None:
            raise error

    broken = Broken()
    for _ in range(2):
        hooks.add(broken)
        with pytest.warns(RuntimeWarning, match="no luck"):
            hooks.failed("here", StoreError("no luck"))
        assert hooks.active == ()


def test_a_hook_that_is_removed_hears_the_end_of_what_it_saw_begin(store: EmbeddingStore) -> None:
    recorder = Recorder()
    hooks.add(recorder)

    def remove(texts: list[str]) -> list[list[float]]:
        hooks.remove(recorder)
        return embed(texts)

    CachedEncoder(remove, store, model_name="m").encode("a")
    assert recorder.course[-2:] == ["ended compute", "ended encode"]
    assert "began commit" not in recorder.course


def test_adding_twice_is_adding_once_and_removing_what_is_not_there_is_nothing(
    recorder: Recorder,
) -> None:
    hooks.add(recorder)
    assert hooks.active == (recorder,)
    hooks.remove(Recorder())
    assert hooks.active == (recorder,)


@pytest.mark.parametrize("wrong", [Recorder, print, None], ids=["a class", "a function", "None"])
def test_what_is_no_hook_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"derived from embstore\.hooks\.Hook"):
        hooks.add(wrong)


def test_a_store_is_pickled_without_them(store: EmbeddingStore, recorder: Recorder) -> None:
    recorder.lock = threading.Lock()  # type: ignore[attr-defined]  # nothing that could be pickled
    with pickle.loads(pickle.dumps(store)) as other:
        other.get_many(MODEL, ["a"])
    assert recorder.ended_ones("lookup")[0].location == store.location


def _look_up(location: str, told: Any) -> None:
    class Tells(Hook):
        def ended(self, operation: Operation) -> None:
            told.put((operation.name, operation.texts, len(hooks.active)))

    hooks.add(Tells())
    EmbeddingStore(location).get_many(MODEL, ["a", "b"])


@pytest.mark.parametrize("method, others", [("fork", 1), ("spawn", 0)])
def test_a_forked_child_has_its_parents_hooks_and_a_spawned_one_has_none(
    store: EmbeddingStore, recorder: Recorder, method: str, others: int
) -> None:
    context = multiprocessing.get_context(method)
    told = context.Queue()
    child = context.Process(target=_look_up, args=(store.location, told))
    child.start()
    assert told.get(timeout=60) == ("lookup", 2, others + 1)
    child.join()
    assert child.exitcode == 0
    assert recorder.told == []


def test_without_hooks_nothing_is_made_and_nothing_timed(
    store: EmbeddingStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(*_: object) -> None:
        raise AssertionError("an operation was made for nobody")

    monkeypatch.setattr(Operation, "__init__", made)
    encoder, function = encoder_of(store), cached(store, model_name="f")(embed)
    texts = ["a", "b", *texts_of(100)]
    for _ in range(2):
        assert np.array_equal(encoder.encode(texts), function(texts))
        asyncio.run(encoder.aencode(texts[:3]))
    put(store, MODEL, ["a"])
    assert store.stats().hits > 0


def test_an_operation_in_words() -> None:
    operation = Operation("lookup", "/here", MODEL, 1234)
    operation.memory_hits, operation.misses, operation.seconds = 1000, 234, 0.0021
    assert str(operation) == (
        "lookup of 1,234 texts for 'a/model': 1,000 from memory, 234 missing, in 0.002100 s"
    )
    operation = Operation("encode", "/here", None, 1)
    operation.error = ValueError
    assert str(operation) == "encode of 1 text for '': raised ValueError, in 0.000000 s"
