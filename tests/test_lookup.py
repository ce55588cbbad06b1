"""Lookup: what is missing, once each and in order; and the array put together from the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from embstore import CacheMissError, EmbeddingStore, ModelOutputError, Namespace
from embstore.lookup import Lookup, as_vectors

MODEL = Namespace("a/model")


def vectors(texts: list[str]) -> np.ndarray:
    """Three numbers that are a pure function of the text."""
    return np.array([[len(text), sum(map(ord, text)), ord(text[0])] for text in texts], np.float32)


@pytest.fixture
def look_up(store: EmbeddingStore) -> Callable[[list[str]], Lookup]:
    return lambda texts: Lookup.find(store, MODEL, texts)


class TestMissing:
    def test_each_once_in_order(self, look_up: Any, store: EmbeddingStore) -> None:
        store.put_many(MODEL, ["b", "d"], vectors(["b", "d"]))
        assert look_up(["c", "b", "a", "c", "d", "a", "b"]).missing == [0, 2]
        assert look_up(["d", "b"]).missing == []
        assert look_up([]).missing == []

    def test_error(self, look_up: Any, store: EmbeddingStore) -> None:
        store.put_many(MODEL, ["b"], vectors(["b"]))
        look_up(["b", "b"]).raise_if_missing()
        with pytest.raises(CacheMissError, match=r"2 of 5 .* a/model") as caught:
            look_up(["c", "b", "x" * 1000, "c", "b"]).raise_if_missing()
        assert caught.value.indices == (0, 2)
        assert caught.value.first == ("c", "x" * 1000)
        assert len(str(caught.value)) < 300


class TestComplete:
    def test_in_any_parts(self, look_up: Any, store: EmbeddingStore) -> None:
        store.put_many(MODEL, ["b"], vectors(["b"]))
        texts = ["c", "b", "a", "c", "d", "a", "b"]
        lookup = look_up(texts)
        for part in ([4, 0], [2]):
            lookup.complete(part, vectors([texts[place] for place in part]), 0.0)
        assert lookup.vectors().tobytes() == vectors(texts).tobytes()
        assert look_up(texts).vectors().tobytes() == vectors(texts).tobytes()
        assert store.stats().entries == 4

    def test_what_another_stored_meanwhile_stays(self, look_up: Any) -> None:
        slow, fast = look_up(["a", "b"]), look_up(["a"])
        fast.complete([0], vectors(["a"]), 0.0)
        slow.complete([0, 1], vectors(["a", "b"]) + 1, 0.0)
        # Two workers may compute one text; the store keeps the first, as every later hit shows.
        again = look_up(["a", "b"]).vectors()
        assert again[0].tobytes() == vectors(["a"])[0].tobytes()
        assert again[1].tobytes() == (vectors(["b"]) + 1)[0].tobytes()

    def test_counts_the_time(self, look_up: Any, store: EmbeddingStore) -> None:
        look_up(["a"]).complete([0], vectors(["a"]), 1.5)
        assert store.stats().encode_seconds == 1.5
        look_up(["a", "a"])
        assert store.stats().seconds_saved == 3.0

    def test_of_another_length(self, look_up: Any) -> None:
        look_up(["a"]).complete([0], vectors(["a"]), 0.0)
        lookup = look_up(["a", "b"])
        with pytest.raises(ModelOutputError, match="2 numbers"):
            lookup.complete([1], np.ones((1, 2), np.float32), 0.0)


class TestAsVectors:
    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int8", "uint8", "int32"])
    def test_arrays_stay_as_they_are(self, dtype: str) -> None:
        array = np.ones((2, 3), dtype)
        assert as_vectors(array, 2, "m") is array

    def test_lists_of_floats_are_float32(self) -> None:
        assert as_vectors([[0.1, 0.2]], 1, "m").dtype == np.float32
        assert as_vectors([np.ones(2), np.ones(2)], 2, "m").dtype == np.float32

    @pytest.mark.parametrize(
        "output",
        [None, 5, "text", [], [[]] * 3, [1.0, 2.0], [[1.0], [2.0, 3.0]], [["a"], ["b"]], {}],
    )
    def test_anything_else_is_refused(self, output: Any) -> None:
        with pytest.raises(ModelOutputError, match="a/model") as caught:
            as_vectors(output, 2, "a/model")
        assert caught.value.model_name == "a/model"
