"""scikit-learn's own checks, and its pipelines, searches and frames, with texts that are cached."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import sentence_transformers
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import check_estimator
from sklearn.utils.validation import validate_data

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.sklearn import EmbeddingTransformer

SEAS = [f"Penguin number {number} swims in the sea." for number in range(12)]
SHOPS = [f"Bakery number {number} sells rye bread." for number in range(12)]
TEXTS = [text for pair in zip(SEAS, SHOPS, strict=True) for text in pair]
LABELS = ["sea", "shop"] * 12


class Letters:
    """Embeds a text by four of its letters; counts what it is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked.update(texts)
        return counts(texts)


def counts(texts: list[str]) -> np.ndarray:
    return np.array([[text.count(letter) for letter in "aei1"] for text in texts], np.float32) + 1


@pytest.fixture
def letters() -> Letters:
    return Letters()


@pytest.fixture
def embed(letters: Letters, store: EmbeddingStore) -> EmbeddingTransformer:
    return EmbeddingTransformer(letters, store, model_name="letters")


# --- scikit-learn's checks ------------------------------------------------------------------------

NUMBERS = "feeds numbers, where only texts make sense; OfNumbers passes it"
ONE_DIMENSION = (
    "takes a column of numbers, as texts may be one-dimensional, and then works on it as if it had "
    "two dimensions; OfNumbers passes it"
)
EXPECTED_TO_FAIL = {
    **dict.fromkeys(
        [
            "check_fit_score_takes_y",
            "check_estimators_overwrite_params",
            "check_estimators_fit_returns_self",
            "check_readonly_memmap_input",
            "check_n_features_in_after_fitting",
            "check_positive_only_tag_during_fit",
            "check_estimators_dtypes",
            "check_complex_data",
            "check_dtype_object",
            "check_pipeline_consistency",
            "check_estimators_nan_inf",
            "check_estimators_pickle",
            "check_transformers_unfitted_stateless",
            "check_fit_idempotent",
            "check_fit_check_is_fitted",
            "check_n_features_in",
            "check_fit1d",
        ],
        NUMBERS,
    ),
    **dict.fromkeys(
        [
            "check_dont_overwrite_parameters",
            "check_estimator_sparse_array",
            "check_f_contiguous_array_estimator",
            "check_transformer_data_not_an_array",
            "check_transformer_general",
            "check_methods_sample_order_invariance",
            "check_methods_subset_invariance",
            "check_fit2d_1sample",
            "check_fit2d_1feature",
            "check_dict_unchanged",
            "check_fit2d_predict1d",
        ],
        ONE_DIMENSION,
    ),
}
NOT_RUN = {"check_array_api_input"}
"""Only with an environment variable that scikit-learn must find when it is imported."""


class OfNumbers(EmbeddingTransformer):
    """Makes a text of each row of numbers, so that checks that feed numbers mean something."""

    def fit(self, X: Any, y: Any = None) -> OfNumbers:  # noqa: N803
        super().fit(self.rows(validate_data(self, X)))
        return self

    def transform(self, X: Any) -> Any:  # noqa: N803
        return super().transform(self.rows(validate_data(self, X, reset=False)))

    @staticmethod
    def rows(array: np.ndarray) -> list[str]:
        return [" ".join(map(str, row)) for row in array]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = False
        return tags


def outcomes(estimator: Any, **how: Any) -> dict[str, set[str]]:
    """The names of scikit-learn's checks by how they ended."""
    ended: dict[str, set[str]] = {}
    for each in check_estimator(estimator, on_fail=None, on_skip=None, **how):
        ended.setdefault(each["status"], set()).add(each["check_name"])
    return ended


def test_check_estimator(embed: EmbeddingTransformer) -> None:
    ended = outcomes(embed, expected_failed_checks=EXPECTED_TO_FAIL)
    assert ended.keys() == {"passed", "xfail", "skipped"}
    assert ended["xfail"] == EXPECTED_TO_FAIL.keys(), "none is expected to fail that passes"
    assert ended["skipped"] == NOT_RUN
    assert len(ended["passed"]) > 10


def test_check_estimator_with_rows_as_texts(tmp_path: Path) -> None:
    ended = outcomes(OfNumbers(counts, tmp_path / "store", model_name="letters"))
    assert ended.keys() == {"passed", "skipped"}
    assert ended["skipped"] == NOT_RUN
    assert ended["passed"] >= EXPECTED_TO_FAIL.keys()


# --- what it takes --------------------------------------------------------------------------------


COLUMNS: dict[str, Callable[[list[str]], Any]] = {
    "list": list,
    "tuple": tuple,
    "list of rows": lambda texts: [[text] for text in texts],
    "array": np.array,
    "array of objects": lambda texts: np.array(texts, object),
    "array of StringDType": lambda texts: np.array(texts, np.dtypes.StringDType()),
    "array of one column": lambda texts: np.array(texts).reshape(-1, 1),
    "pandas": pd.Series,
    "pandas, nullable": lambda texts: pd.Series(texts, dtype="string"),
    "pandas, categories": lambda texts: pd.Series(texts, dtype="category"),
    "pandas frame": lambda texts: pd.DataFrame({"body": texts}),
    "polars": pl.Series,
    "polars frame": lambda texts: pl.DataFrame({"body": texts}),
    "Arrow": pa.array,
    "Arrow table": lambda texts: pa.table({"body": texts}),
}


@pytest.mark.parametrize("column", COLUMNS.values(), ids=COLUMNS)
def test_texts_in_whatever_they_come(
    embed: EmbeddingTransformer, letters: Letters, column: Callable[[list[str]], Any]
) -> None:
    texts = ["one", "three", "one", "a much longer one"]
    for vectors in (embed.transform(column(texts)), embed.fit_transform(column(texts))):
        assert vectors.dtype == np.float32
        assert np.array_equal(vectors, counts(texts))
    assert letters.asked == Counter(set(texts))


@pytest.mark.parametrize(
    "given, error, message",
    [
        ("a text", TypeError, "give \\[text\\]"),
        (["a", None], TypeError, "NoneType: None at position 1, a missing value: drop"),
        (["a", float("nan")], TypeError, "float: nan at position 1, a missing value: drop"),
        (pd.Series(["a", None]), TypeError, "at position 1, a missing value: drop"),
        (pd.Series(["a", None], dtype="string"), TypeError, "NAType: <NA> at position 1"),
        (pd.DataFrame({"body": [None, "a"]}), TypeError, "at position 0, a missing value"),
        ([1, 2], TypeError, "must be str, not int: 1 at position 0"),
        (np.ones((2, 1)), TypeError, "must be str, not float: 1.0 at position 0"),
        ([b"a"], TypeError, "must be str, not bytes"),
        (scipy.sparse.eye_array(2, 1), TypeError, "Sparse data was passed"),
        (np.array([["a", "b"]]), ValueError, "one column of texts, and X has 2: .*ColumnTransf"),
        (pd.DataFrame({"a": ["x"], "b": [1]}), ValueError, "and X has 2"),
        (np.array([[["a"]]]), ValueError, "dim 3"),
        ([], ValueError, "0 sample"),
    ],
)
@pytest.mark.parametrize("method", ["fit", "transform"])
def test_what_is_no_column_of_texts(
    embed: EmbeddingTransformer, method: str, given: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        getattr(embed, method)(given)


@pytest.mark.parametrize(
    "parameters, error, message",
    [
        ({"model": 5}, TypeError, "model is a SentenceTransformer, a name or path"),
        ({"model_name": None}, ValueError, "a function needs model_name="),
        ({"store": 5}, TypeError, "store is an EmbeddingStore or its location, not a int"),
        ({"task": "search"}, ValueError, 'task is "query", "document" or None'),
        ({"batch_size": 0}, ValueError, "batch_size must be a positive integer"),
        ({"truncate_dim": "2"}, TypeError, "slice indices must be integers"),
        ({"encoder_kwargs": {"revision": "main"}}, TypeError, "revision= goes with a model given"),
    ],
)
def test_wrong_parameters_are_refused_by_fit(
    embed: EmbeddingTransformer, parameters: dict[str, Any], error: type[Exception], message: str
) -> None:
    embed.set_params(**parameters)
    with pytest.raises(error, match=message):
        embed.fit(TEXTS)


def test_a_cached_encoder_comes_without_others(letters: Letters, store: EmbeddingStore) -> None:
    encoder = CachedEncoder(letters, store, model_name="letters")
    assert EmbeddingTransformer(encoder).fit_transform(TEXTS).shape == (24, 4)
    with pytest.raises(ValueError, match="has a store, a name and settings already"):
        EmbeddingTransformer(encoder, store).fit(TEXTS)


# --- what it gives --------------------------------------------------------------------------------


def test_vectors_are_those_of_the_encoder(minilm: Any, store: EmbeddingStore) -> None:
    encoder = CachedEncoder(minilm, store)
    how = {"prompt": "about: ", "normalize_embeddings": True, "truncate_dim": 100}
    for task, encode in (
        (None, encoder.encode),
        ("query", encoder.encode_query),
        ("document", encoder.encode_document),
    ):
        vectors = EmbeddingTransformer(minilm, store, task=task, **how).fit_transform(TEXTS[:3])
        assert vectors.shape == (3, 100)
        known = store.stats().misses
        assert np.array_equal(vectors, encode(TEXTS[:3], **how))
        assert store.stats().misses == known, "they have one namespace"


def test_names_of_columns(embed: EmbeddingTransformer) -> None:
    with pytest.raises(NotFittedError):
        embed.get_feature_names_out()
    names = ["embeddingtransformer0", "embeddingtransformer1", "embeddingtransformer2"]
    embed.set_params(truncate_dim=3).fit(TEXTS)
    assert embed.get_feature_names_out().tolist() == names
    assert pickle.loads(pickle.dumps(embed)).get_feature_names_out().tolist() == names


def test_frames_come_out_if_they_are_asked_for(embed: EmbeddingTransformer) -> None:
    column = pd.Series(TEXTS, index=range(100, 124))
    frame = embed.set_output(transform="pandas").fit_transform(column)
    assert frame.index.equals(column.index)
    assert frame.columns.tolist() == embed.get_feature_names_out().tolist()
    assert clone(embed).fit_transform(column).equals(frame), "a clone gives what it gives"
    assert isinstance(embed.set_output(transform="polars").transform(TEXTS), pl.DataFrame)


def test_one_column_of_a_frame(embed: EmbeddingTransformer) -> None:
    frame = pd.DataFrame({"body": TEXTS, "price": range(24)})
    prices = ("price", StandardScaler(), ["price"])
    of_series = ColumnTransformer([("text", embed, "body"), prices])
    of_frame = ColumnTransformer([("text", embed, ["body"]), prices])
    vectors = of_series.fit_transform(frame)
    assert vectors.shape == (24, 5)
    assert np.array_equal(vectors, of_frame.fit_transform(frame))
    assert of_series.get_feature_names_out()[3:].tolist() == [
        "text__embeddingtransformer3",
        "price__price",
    ]


def test_two_of_them_side_by_side(embed: EmbeddingTransformer) -> None:
    union = FeatureUnion([("all", embed), ("half", clone(embed).set_params(truncate_dim=2))])
    vectors = union.fit_transform(TEXTS)
    assert vectors.shape == (24, 6)
    assert np.array_equal(vectors[:, :2], vectors[:, 4:])


# --- parameters, clones, pickles ------------------------------------------------------------------


def test_clones_share_model_and_store(embed: EmbeddingTransformer, letters: Letters) -> None:
    embed.fit(TEXTS)
    copy = clone(embed)
    assert copy.model is letters
    assert copy.store is embed.store
    assert copy.get_params() == embed.get_params()
    with pytest.raises(NotFittedError):
        copy.get_feature_names_out()
    copy.set_params(truncate_dim=2)
    assert embed.truncate_dim is None


def test_other_parameters_are_another_model(
    embed: EmbeddingTransformer, letters: Letters, tmp_path: Path
) -> None:
    embed.fit(TEXTS)
    copy = clone(embed)
    copy.set_params(model=lambda texts: letters(texts)[:, :1] + 100, model_name="other")
    assert (copy.fit_transform(TEXTS) > 100).all()
    assert (embed.transform(TEXTS) < 100).all()
    copy.set_params(store=tmp_path / "another").fit_transform(TEXTS)
    assert EmbeddingStore(tmp_path / "another").stats().entries == 24


def test_parameters_are_known_without_loading_a_model(store: EmbeddingStore) -> None:
    encoder = CachedEncoder("no-such/model", store)
    pipeline = make_pipeline(EmbeddingTransformer(encoder), LogisticRegression())
    assert clone(pipeline)[0].model is encoder
    pipeline.set_params(embeddingtransformer__truncate_dim=3)
    assert pipeline.get_params()["embeddingtransformer__truncate_dim"] == 3
    assert "CachedEncoder" in repr(pipeline)


def test_clones_load_a_model_once(
    static: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    class Noted(sentence_transformers.SentenceTransformer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            loaded.append(args)
            super().__init__(*args, **kwargs)

    monkeypatch.setattr(sentence_transformers, "SentenceTransformer", Noted)
    static.save(str(tmp_path / "model"))
    embed = EmbeddingTransformer(tmp_path / "model", tmp_path / "store")
    pipeline = Pipeline([("embed", embed), ("classify", LogisticRegression())])
    GridSearchCV(pipeline, GRID, cv=2, error_score="raise").fit(TEXTS, LABELS)
    clone(pipeline).fit([*TEXTS, "a new text"], [*LABELS, "sea"])
    assert len(loaded) == 1
    other = clone(embed).set_params(store=tmp_path / "other")
    union = FeatureUnion([("one", embed), ("other", other)])
    for text in ("first", "second", "third"):
        union.fit_transform([text])
    assert len(loaded) == 2, "none takes the other's place"


def test_the_default_location_is_that_of_whoever_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "here"))
    embed = EmbeddingTransformer(counts, model_name="letters").fit(TEXTS)
    monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "there"))
    pickle.loads(pickle.dumps(embed)).transform(TEXTS)
    assert EmbeddingStore(tmp_path / "here").stats().entries == 1
    assert EmbeddingStore(tmp_path / "there").stats().entries == 24


def test_a_pipeline_that_is_read_again_needs_no_model(
    model_path: str, store: EmbeddingStore, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    embed = EmbeddingTransformer(model_path, store, normalize_embeddings=True)
    pipeline = make_pipeline(embed, LogisticRegression()).fit(TEXTS, LABELS)
    assert pipeline.predict(["A seal swims in the sea.", "The shop sells rolls."]).tolist() == [
        "sea",
        "shop",
    ]
    written = tmp_path / "pipeline.pickle"
    written.write_bytes(pickle.dumps(pipeline))
    assert written.stat().st_size < 10_000, "neither weights nor vectors"
    script = """
import pickle, sys
pipeline = pickle.load(open(sys.argv[1], "rb"))
print(*pipeline.predict(["The shop sells rolls.", *sys.argv[2:]]))
stats = pipeline[0].store.stats()
print(stats.misses, stats.hits, "torch" in sys.modules)
"""
    assert run_python(script, written, *TEXTS[:3]).splitlines() == [
        "shop sea shop sea",
        "0 4 False",
    ]


# --- searches -------------------------------------------------------------------------------------

GRID = {"embed__normalize_embeddings": [False, True], "embed__truncate_dim": [None, 2]}


def test_a_search_embeds_each_text_once(embed: EmbeddingTransformer, letters: Letters) -> None:
    pipeline = Pipeline([("embed", embed), ("classify", LogisticRegression())])
    search = GridSearchCV(pipeline, {"classify__C": [0.1, 1, 10]}, cv=4)
    search.fit(TEXTS, LABELS)
    assert search.score(TEXTS, LABELS) == 1
    assert letters.asked == Counter(TEXTS)

    grid = {**GRID, "classify__C": [0.1, 1]}
    search = GridSearchCV(pipeline, grid, cv=3, error_score="raise").fit(TEXTS, LABELS)
    assert letters.asked == Counter(TEXTS * 4), "and once more for each other kind of vectors"
    assert search.best_estimator_[:-1].transform(TEXTS).shape[1] in (2, 4)
    cross_val_predict(search.best_estimator_, TEXTS, LABELS, cv=5)
    assert letters.asked == Counter(TEXTS * 4)


def test_a_search_in_processes_embeds_each_text_once(tmp_path: Path) -> None:
    asked = tmp_path / "asked"

    def embed_and_note(texts: list[str]) -> list[list[float]]:
        with asked.open("a") as file:
            file.write("".join(f"{text}\n" for text in texts))
        return [[float("sea" in text), float("rye" in text), 1.0] for text in texts]

    embed = EmbeddingTransformer(embed_and_note, tmp_path / "store", model_name="words")
    pipeline = Pipeline([("embed", embed), ("classify", LogisticRegression())])
    search = GridSearchCV(pipeline, GRID, cv=3, n_jobs=2, error_score="raise")
    assert search.fit(TEXTS, LABELS).score(TEXTS, LABELS) == 1
    assert Counter(asked.read_text().splitlines()) == Counter(TEXTS * 4)
    with EmbeddingStore(tmp_path / "store") as store:
        assert [info.entries for info in store.namespaces()] == [24] * 4
