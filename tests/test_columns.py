"""Columns of pandas, polars and Arrow in the place of lists of texts."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from datasets import Dataset

from embstore import CachedEncoder, EmbeddingStore, Namespace, cached
from tests.helpers import run_python

TEXTS = ["a cat", "two dogs", "a cat", "", "Größe"]
LENGTHS = [[5.0], [8.0], [5.0], [0.0], [5.0]]


def shuffled() -> pd.Series:
    """The texts in the order of rows, with an index that has no 0 and is in no order."""
    return pd.Series(TEXTS, index=[7, 3, 9, 1, 4])


COLUMNS: dict[str, Callable[[], Any]] = {
    "pandas": lambda: pd.DataFrame({"text": TEXTS})["text"],
    "pandas, another index": shuffled,
    "pandas, index of texts": lambda: pd.Series(TEXTS, index=list("edcba")),
    "pandas, repeated index": lambda: pd.Series(TEXTS, index=[1] * 5),
    "pandas, filtered": lambda: pd.Series([*TEXTS, "x"]).pipe(lambda s: s[s != "x"]),
    "pandas object": lambda: pd.Series(TEXTS, dtype=object),
    "pandas string in Arrow": lambda: pd.Series(TEXTS, dtype="string[pyarrow]"),
    "pandas string in Python": lambda: pd.Series(TEXTS, dtype="string[python]"),
    "pandas Arrow dtype": lambda: pd.Series(TEXTS, dtype=pd.ArrowDtype(pa.large_string())),
    "pandas categories": lambda: pd.Series(TEXTS, dtype="category"),
    "pandas index": lambda: pd.Index(TEXTS),
    "pandas array": lambda: pd.Series(TEXTS).array,
    "pandas categories, array": lambda: pd.Categorical(TEXTS),
    "polars": lambda: pl.DataFrame({"text": TEXTS})["text"],
    "polars categories": lambda: pl.Series(TEXTS, dtype=pl.Categorical),
    "polars enum": lambda: pl.Series(TEXTS, dtype=pl.Enum(sorted(set(TEXTS)))),
    "Arrow": lambda: pa.array(TEXTS),
    "Arrow, large": lambda: pa.array(TEXTS, pa.large_string()),
    "Arrow view": lambda: pa.array(TEXTS, pa.string_view()),
    "Arrow chunks": lambda: pa.chunked_array([TEXTS[:2], [], TEXTS[2:]]),
    "Arrow dictionary": lambda: pa.array(TEXTS).dictionary_encode(),
    "Arrow slice": lambda: pa.array(["x", *TEXTS, "y"])[1:-1],
    "datasets": lambda: Dataset.from_dict({"text": TEXTS})["text"],
}
MISSING: dict[str, Any] = {
    "pandas": pd.Series(["a", "b", None, None], index=[9, 8, 7, 6]),
    "pandas object": pd.Series(["a", "b", np.nan], dtype=object),
    "pandas string": pd.Series(["a", "b", pd.NA], dtype="string"),
    "pandas categories": pd.Series(["a", "b", None], dtype="category"),
    "polars": pl.Series(["a", "b", None]),
    "Arrow": pa.array(["a", "b", None]),
    "Arrow dictionary": pa.array(["a", "b", None]).dictionary_encode(),
}
FRAMES: dict[str, Any] = {
    "pandas": pd.DataFrame({"text": TEXTS}),
    "polars": pl.DataFrame({"text": TEXTS}),
    "Arrow": pa.table({"text": TEXTS}),
    "Arrow batch": pa.record_batch({"text": TEXTS}),
    "datasets": Dataset.from_dict({"text": TEXTS}),
}


class Lengths:
    """A function that counts the texts it is called with."""

    def __init__(self) -> None:
        self.computed = 0

    def __call__(self, texts: list[str]) -> list[list[float]]:
        assert type(texts) is list
        assert set(map(type, texts)) == {str}
        self.computed += len(texts)
        return [[float(len(text))] for text in texts]


@pytest.fixture
def lengths() -> Lengths:
    return Lengths()


@pytest.fixture
def encoder(lengths: Lengths, store: EmbeddingStore) -> CachedEncoder:
    return CachedEncoder(lengths, store, model_name="lengths")


@pytest.mark.parametrize("name", COLUMNS)
class TestAColumn:
    def test_is_encoded_row_by_row(
        self, encoder: CachedEncoder, lengths: Lengths, name: str
    ) -> None:
        column = COLUMNS[name]()
        before = pickle.dumps(column)
        vectors = encoder.encode(column)
        assert type(vectors) is np.ndarray
        assert vectors.dtype == np.float32
        assert vectors.tolist() == LENGTHS
        assert encoder.encode(TEXTS).tolist() == LENGTHS
        assert encoder.encode_query(column).tolist() == LENGTHS
        assert asyncio.run(encoder.aencode(column)).tolist() == LENGTHS
        assert lengths.computed == 2 * 4
        assert pickle.dumps(column) == before

    def test_is_what_functions_and_the_store_take(
        self, store: EmbeddingStore, lengths: Lengths, name: str
    ) -> None:
        column = COLUMNS[name]()
        embed = cached(store, model_name="lengths")(lengths)
        assert embed(column).tolist() == LENGTHS
        vectors, found = store.get_many(Namespace("lengths"), column)
        assert found.all()
        assert vectors.tolist() == LENGTHS
        other = Namespace("other")
        store.put_many(other, column, np.array(LENGTHS))
        assert store.get_many(other, TEXTS)[0].tolist() == LENGTHS
        assert store.delete_many(other, column) == 4

    def test_is_what_async_functions_take(self, store: EmbeddingStore, name: str) -> None:
        @cached(store, model_name="lengths")
        async def embed(texts: list[str]) -> list[list[float]]:
            return [[float(len(text))] for text in texts]

        assert asyncio.run(embed(COLUMNS[name]())).tolist() == LENGTHS


@pytest.mark.parametrize("name", MISSING)
def test_a_missing_value_is_told_by_its_row_before_anything_is_computed(
    store: EmbeddingStore, encoder: CachedEncoder, lengths: Lengths, name: str
) -> None:
    calls: list[Callable[[Any], Any]] = [
        *(encoder.encode, encoder.encode_document),
        lambda column: asyncio.run(encoder.aencode(column)),
        cached(store, model_name="lengths")(lengths),
        lambda column: store.get_many(Namespace("lengths"), column),
    ]
    for call in calls:
        with pytest.raises(TypeError, match=r"at position 2, a missing value: drop"):
            call(MISSING[name])
    assert lengths.computed == 0
    assert store.stats().total == 0


@pytest.mark.parametrize("texts", [["a", None], ["a", float("nan")], ("a", pd.NA)])
def test_the_store_tells_it_of_lists_too(store: EmbeddingStore, texts: Any) -> None:
    with pytest.raises(TypeError, match=r"at position 1, a missing value") as raised:
        store.get_many(Namespace("any"), texts)
    assert raised.value.__context__ is None


@pytest.mark.parametrize("column", [pd.Series([3, 4]), pl.Series([3.5]), pa.array([b"a"])])
def test_a_column_of_something_else_is_refused(encoder: CachedEncoder, column: Any) -> None:
    with pytest.raises(TypeError, match=r"texts must be str, not (int|float|bytes): .* position 0"):
        encoder.encode(column)


@pytest.mark.parametrize("name", FRAMES)
def test_a_frame_is_refused(store: EmbeddingStore, encoder: CachedEncoder, name: str) -> None:
    for call in (encoder.encode, lambda frame: store.get_many(Namespace("any"), frame)):
        with pytest.raises(TypeError, match=r'give the one with the texts, as in frame\["text"\]'):
            call(FRAMES[name])


def test_no_rows(encoder: CachedEncoder) -> None:
    for empty in (pd.Series([], dtype="str"), pl.Series([], dtype=pl.String), pa.array([])):
        assert encoder.encode(empty).shape == encoder.encode([]).shape


def test_the_real_model_gives_a_column_what_it_gives_a_list(
    minilm: Any, store: EmbeddingStore, texts: list[str]
) -> None:
    encoder = CachedEncoder(minilm, store)
    column = pd.Series(texts[:6], index=range(6, 0, -1))
    expected = minilm.encode(texts[:6])
    assert np.abs(encoder.encode(column) - expected).max() < 1e-6
    tokens = encoder.encode(column, output_value="token_embeddings")  # never cached
    assert [len(each) for each in tokens] == [
        len(each) for each in minilm.encode(texts[:6], output_value="token_embeddings")
    ]
    assert encoder.encode(column, convert_to_tensor=True).shape == (6, 384)
    assert encoder.stats().misses == 6


def test_no_library_is_imported_for_it() -> None:
    libraries = ("pandas", "polars", "pyarrow", "datasets")
    loaded = run_python(
        "import sys, tempfile, embstore\n"
        "encoder = embstore.CachedEncoder(lambda texts: [[1.0]] * len(texts),"
        " embstore.EmbeddingStore(tempfile.mkdtemp()), model_name='ones')\n"
        "encoder.encode(['a']); encoder.store.get_many(encoder.namespace(), {'a': 1}.keys())\n"
        f"print([name for name in {libraries} if name in sys.modules])"
    )
    assert loaded.strip() == "[]"
