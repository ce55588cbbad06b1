"""@cached: a function, sync or async, whose vectors are kept."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embstore import CacheMissError, EmbeddingStore, ModelOutputError, NamespaceError, cached

TEXTS = ["the cat sat", "on the mat", "", "the cat sat", "\ud800"]
DISTINCT = ["the cat sat", "on the mat", "", "\ud800"]
DIM = 6


def embed(texts: list[str], scale: float = 1.0, **_: Any) -> np.ndarray:
    """Vectors that are a pure function of the text."""
    digests = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=DIM).digest()
        for text in texts
    ]
    numbers = np.frombuffer(b"".join(digests), np.uint8).reshape(-1, DIM).astype(np.float32)
    return (numbers - 127.5) * np.float32(scale)


Decorated = Callable[..., tuple[Callable[..., Any], list[Any]]]


@pytest.fixture(params=["sync", "async"])
def decorated(request: pytest.FixtureRequest, store: EmbeddingStore) -> Decorated:
    """Decorates a function, or a coroutine function over it; returns one to call, and its calls."""

    def decorated(
        function: Callable[..., Any] = embed, model_name: str = "blake", **options: Any
    ) -> tuple[Callable[..., Any], list[Any]]:
        calls: list[Any] = []

        if request.param == "sync":

            @cached(store, model_name=model_name, **options)
            def wrapped(texts: list[str], **arguments: Any) -> Any:
                calls.append(texts)
                return function(texts, **arguments)

            return wrapped, calls

        @cached(store, model_name=model_name, **options)
        async def waiting(texts: list[str], **arguments: Any) -> Any:
            calls.append(texts)
            await asyncio.sleep(0)
            return function(texts, **arguments)

        assert inspect.iscoroutinefunction(waiting)
        return lambda texts, **arguments: asyncio.run(waiting(texts, **arguments)), calls

    return decorated


class TestCalls:
    def test_only_what_is_not_stored(self, decorated: Decorated, store: EmbeddingStore) -> None:
        call, calls = decorated()
        for _ in range(2):
            assert call(TEXTS).tobytes() == embed(TEXTS).tobytes()
        assert calls == [DISTINCT]
        assert call(["new", *TEXTS, "newer"]).tobytes() == embed(["new", *TEXTS, "newer"]).tobytes()
        assert calls == [DISTINCT, ["new", "newer"]]
        stats = store.stats()
        assert (stats.misses, stats.hits) == (6, 11)

    def test_one_text_or_many(self, decorated: Decorated) -> None:
        call, calls = decorated()
        for _ in range(2):
            single = call("one")
            assert (single.shape, single.dtype) == ((DIM,), np.float32)
            assert single.tobytes() == embed(["one"]).tobytes()
        assert call(("one", "two")).shape == (2, DIM)
        assert call(text for text in ("one", "two")).shape == (2, DIM)
        assert call(np.array(["one", "two"])).shape == (2, DIM)
        assert calls == [["one"], ["two"]]

    def test_nothing(self, decorated: Decorated) -> None:
        call, calls = decorated()
        assert len(call([])) == 0
        call("one")
        assert call([]).shape == (0, DIM)
        assert calls == [["one"]]

    @pytest.mark.parametrize("texts", [[1], [None], ["a", b"b"], [["nested"]]])
    def test_only_texts(self, decorated: Decorated, texts: Any) -> None:
        call, calls = decorated()
        with pytest.raises(TypeError, match="str"):
            call(texts)
        assert calls == []

    def test_in_batches_each_kept(self, decorated: Decorated, store: EmbeddingStore) -> None:
        def breaks(texts: list[str]) -> np.ndarray:
            if "text 7" in texts:
                raise ConnectionError("the server is gone")
            return embed(texts)

        texts = [f"text {number}" for number in range(9)]
        call, calls = decorated(breaks, batch_size=3)
        with pytest.raises(ConnectionError, match="gone"):
            call(texts)
        assert calls == [texts[0:3], texts[3:6], texts[6:9]]
        assert store.stats().entries == 6
        call, calls = decorated(batch_size=3)
        assert call(texts).tobytes() == embed(texts).tobytes()
        assert calls == [texts[6:9]]

    def test_arrays_belong_to_the_caller(self, decorated: Decorated) -> None:
        call, _ = decorated()
        for _ in range(3):
            array, single = call(TEXTS), call("one")
            assert array.tobytes() == embed(TEXTS).tobytes()
            assert single.tobytes() == embed(["one"]).tobytes()
            array[:], single[:] = np.nan, np.nan

    def test_what_the_function_keeps_is_not_the_store(self, decorated: Decorated) -> None:
        buffer = np.zeros((1, DIM), np.float32)

        def reuses(texts: list[str]) -> np.ndarray:
            buffer[:] = embed(texts)
            return buffer

        call, _ = decorated(reuses)
        first = call("one")
        call("two")
        assert first.tobytes() == call("one").tobytes() == embed(["one"]).tobytes()


class TestKeys:
    def test_arguments_belong_to_it(self, decorated: Decorated) -> None:
        call, calls = decorated()
        for _ in range(2):
            for scale in (1, 1.0, 2, "default"):
                arguments = {} if scale == "default" else {"scale": scale}
                assert call(TEXTS, **arguments).tobytes() == embed(TEXTS, **arguments).tobytes()
            assert call(TEXTS, scale=2, b=[1], a={"x": None}).shape == (5, DIM)
            assert call(TEXTS, a={"x": None}, b=[1], scale=2).shape == (5, DIM)
        assert len(calls) == 5

    @pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("nan"), {(1, 2): 3}])
    def test_arguments_that_are_not_json_are_refused(
        self, decorated: Decorated, value: Any
    ) -> None:
        call, calls = decorated()
        with pytest.raises(NamespaceError, match="JSON"):
            call(TEXTS, option=value)
        assert calls == []

    def test_arguments_that_json_would_make_one(self, decorated: Decorated) -> None:
        # In JSON every key is a string. What differs for the function must differ here too, or
        # be refused.
        def by_key(texts: list[str], table: dict[Any, float]) -> np.ndarray:
            return embed(texts, scale=table.get(1, 5.0))

        call, _ = decorated(by_key)
        for table in ({1: 2.0}, {"1": 2.0}):
            try:
                got = call(TEXTS, table=table)
            except NamespaceError:
                continue
            assert got.tobytes() == by_key(TEXTS, table).tobytes()

    def test_names_and_versions(self, decorated: Decorated) -> None:
        options = [{}, {"version": "1"}, {"version": "2"}, {"version": ""}, {"model_name": "b"}]
        for _ in range(2):
            for factor, option in enumerate(options, 1):
                call, _ = decorated(lambda texts, f=factor: embed(texts, scale=f), **option)
                assert call(TEXTS).tobytes() == embed(TEXTS, scale=factor).tobytes()

    def test_only_from_the_store(self, decorated: Decorated) -> None:
        call, _ = decorated()
        call(TEXTS)
        only, calls = decorated(on_miss="raise")
        assert only(TEXTS).tobytes() == embed(TEXTS).tobytes()
        with pytest.raises(CacheMissError) as caught:
            only(["new", *TEXTS, "new"])
        error = caught.value
        assert (error.missing, error.total, error.first, error.indices) == (1, 7, ("new",), (0,))
        with pytest.raises(CacheMissError):
            only("new")
        assert calls == []


class TestOutputs:
    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(lambda texts: embed(texts)[:-1], id="too_few"),
            pytest.param(lambda texts: embed(["more", *texts]), id="too_many"),
            pytest.param(lambda texts: embed(texts).ravel(), id="flat"),
            pytest.param(lambda texts: [[0.5] * len(text) for text in texts], id="ragged"),
            pytest.param(lambda texts: None, id="nothing"),
            pytest.param(lambda texts: [["0.5"] for _ in texts], id="strings"),
        ],
    )
    def test_that_are_not_a_vector_for_each(
        self, decorated: Decorated, store: EmbeddingStore, bad: Any
    ) -> None:
        call, calls = decorated(bad)
        for _ in range(2):
            with pytest.raises(ModelOutputError, match="blake"):
                call(DISTINCT)
        assert len(calls) == 2
        assert store.stats().entries == 0

    def test_of_one_text_without_its_axis(self, decorated: Decorated) -> None:
        call, _ = decorated(lambda texts: embed(texts)[0])
        with pytest.raises(ModelOutputError):
            call("one")

    def test_of_another_length(self, decorated: Decorated) -> None:
        call, _ = decorated()
        call(TEXTS)
        longer, _ = decorated(lambda texts: np.ones((len(texts), DIM + 1), np.float32))
        for texts in (["new"], [*TEXTS, "new"]):
            with pytest.raises(ModelOutputError, match=r"7 (numbers|x float32)"):
                longer(texts)
        assert longer(TEXTS).tobytes() == embed(TEXTS).tobytes()

    def test_of_two_lengths_in_one_call(self, decorated: Decorated) -> None:
        call, _ = decorated(
            lambda texts: [[1.0] * (3 + ("b" in texts)) for _ in texts], batch_size=1
        )
        with pytest.raises(ModelOutputError):
            call(["a", "b"])
        assert call("a").tolist() == [1.0] * 3

    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
    def test_not_finite_are_returned_and_not_stored(
        self, decorated: Decorated, store: EmbeddingStore, number: float
    ) -> None:
        def partly(texts: list[str]) -> np.ndarray:
            vectors = embed(texts)
            vectors[[text == "bad" for text in texts], -1] = number
            return vectors

        call, calls = decorated(partly)
        for _ in range(2):
            got = call(["good", "bad", "bad"])
            np.testing.assert_array_equal(got, partly(["good", "bad", "bad"]))
        assert calls == [["good", "bad"], ["bad"]]
        assert store.stats().entries == 1

    def test_as_lists_arrays_and_tensors(self, decorated: Decorated) -> None:
        import torch

        kinds: list[Callable[[np.ndarray], Any]] = [
            np.ndarray.tolist,
            list,
            torch.from_numpy,
            lambda array: list(torch.from_numpy(array)),
            np.asfortranarray,
            lambda array: array[:, ::-1][:, ::-1],
        ]
        for number, kind in enumerate(kinds):
            call, _ = decorated(lambda texts, k=kind: k(embed(texts)), model_name=str(number))
            for _ in range(2):
                got = call(TEXTS)
                assert got.tobytes() == embed(TEXTS).tobytes()
                assert (got.dtype, got.flags.c_contiguous) == (np.float32, True)


def test_keeps_the_functions_name_and_doc(store: EmbeddingStore) -> None:
    @cached(store, model_name="documented")
    def documented(texts: list[str]) -> np.ndarray:
        """What it does."""
        return embed(texts)

    assert (documented.__name__, documented.__doc__) == ("documented", "What it does.")
    assert documented.__wrapped__(["a"]).tobytes() == embed(["a"]).tobytes()  # type: ignore[attr-defined]


def test_only_two_ways_to_miss(store: EmbeddingStore) -> None:
    with pytest.raises(ValueError, match="on_miss"):
        cached(store, model_name="m", on_miss="ignore")


def test_waiting_calls_do_not_block_each_other(store: EmbeddingStore) -> None:
    started, calls = [], []

    async def both() -> list[Any]:
        release = asyncio.Event()

        @cached(store, model_name="slow", batch_size=2)
        async def slow(texts: list[str]) -> np.ndarray:
            calls.append(texts)
            started.append(len(started))
            if len(started) == 2:
                release.set()
            await release.wait()  # neither goes on before both have begun
            return embed(texts)

        return list(await asyncio.gather(slow(["a", "b"]), slow(["c"])))

    first, second = asyncio.run(asyncio.wait_for(both(), 60))
    assert first.tobytes() == embed(["a", "b"]).tobytes()
    assert second.tobytes() == embed(["c"]).tobytes()
    assert sorted(calls) == [["a", "b"], ["c"]]
