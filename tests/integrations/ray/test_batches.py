"""Batches of every kind, without Ray."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.ray import EmbedBatches, rows_per_batch
from tests.integrations.ray.models import Logged, lengths


@pytest.fixture
def embed(tmp_path: Path) -> EmbedBatches:
    return EmbedBatches(lengths, tmp_path / "store", model_name="lengths")


def test_batches_of_every_kind(embed: EmbedBatches) -> None:
    texts = ["one", "three", "one"]
    expected = np.array(lengths(texts), np.float32)
    rows = {"text": np.array(texts, object), "id": np.arange(3)}
    done = embed(rows)
    assert (done["embedding"] == expected).all()
    assert [*done] == ["text", "id", "embedding"]
    assert "embedding" not in rows
    frame = embed(pd.DataFrame(rows))
    assert (np.stack(frame["embedding"]) == expected).all()
    table = embed(pa.table(rows))
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert table["embedding"].to_pylist() == expected.tolist()
    assert embed(pl.DataFrame({"text": texts}))["embedding"].to_list() == expected.tolist()
    assert table.equals(embed(table)), "a column of that name is replaced"


def test_an_empty_batch_has_the_same_columns(embed: EmbedBatches) -> None:
    table = pa.table({"text": pa.array([], pa.string())})
    assert embed(table).schema.field("embedding").type == pa.list_(pa.float32(), 2)
    assert embed({"text": []})["embedding"].shape == (0, 2)


def test_an_empty_batch_computes_nothing_of_what_is_stored(tmp_path: Path) -> None:
    model = Logged(tmp_path / "asked")
    for task in (None, "query"):
        how: dict[str, Any] = {"model_name": "logged", "task": task}
        embed = EmbedBatches(model, tmp_path / "store", **how)
        # A model's first batch may be empty. Services refuse "", so another text is asked for.
        assert embed({"text": []})["embedding"].shape == (0, 3)
        assert "" not in model.asked()
        asked = model.asked()
        assert (
            embed({"text": []})["embedding"].dtype == embed({"text": ["a text"]})["embedding"].dtype
        )
        assert model.asked() == asked


def test_a_single_row_has_a_whole_vector(embed: EmbedBatches) -> None:
    assert embed({"text": "a"})["embedding"].tolist() == [1.0, 1.0]
    assert embed({"text": ""})["embedding"].tolist() == [0.0, 1.0]


def test_models_get_texts_of_python(tmp_path: Path) -> None:
    given = []

    def model(texts: list[str]) -> list[list[float]]:
        given.extend(texts)
        return lengths(texts)

    EmbedBatches(model, tmp_path / "store", model_name="m")({"text": np.array(["a", "bbb"])})
    assert [*map(type, given)] == [str, str]


def test_what_is_refused(embed: EmbedBatches, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="there is no column 'text': give column="):
        embed({"body": ["a"]})
    with pytest.raises(TypeError, match="a missing value: drop such rows"):
        embed(pa.table({"text": ["a", None]}))
    with pytest.raises(ValueError, match="task is"):
        EmbedBatches(lengths, tmp_path, task="passage")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give EmbedBatches the model"):
        EmbedBatches(CachedEncoder(lengths, tmp_path, model_name="lengths"))


@pytest.mark.parametrize("kind", [str, Path])
def test_copies_in_a_process_share_a_model(
    model_path: str, tmp_path: Path, kind: Callable[[object], Any]
) -> None:
    embed = EmbedBatches(kind(model_path), kind(tmp_path / "store"))
    assert pickle.loads(pickle.dumps(embed)).encoder is embed.encoder
    again = EmbedBatches(model_path, EmbeddingStore(tmp_path / "store").location)
    assert again.encoder is embed.encoder
    other = EmbedBatches(model_path, tmp_path / "other")
    assert other.encoder is not embed.encoder


def test_copies_of_what_is_no_json_share_a_model_too(tmp_path: Path) -> None:
    embed = EmbedBatches(lengths, tmp_path / "store", model_name="lengths")
    assert pickle.loads(pickle.dumps(embed)).encoder is embed.encoder
    # Nobody can tell whether two functions of one name are the same.
    assert (
        EmbedBatches(lengths, tmp_path / "store", model_name="lengths").encoder is not embed.encoder
    )


def test_threads_share_a_model(model_path: str, tmp_path: Path) -> None:
    pickled = pickle.dumps(EmbedBatches(model_path, tmp_path / "store"))
    together = threading.Barrier(8)

    def open_one(_: int) -> CachedEncoder:
        embed = pickle.loads(pickled)
        together.wait()
        return embed.encoder

    with ThreadPoolExecutor(8) as threads:
        assert len(set(map(id, threads.map(open_one, range(8))))) == 1


def test_a_process_keeps_some_encoders_open(tmp_path: Path) -> None:
    opened = [EmbedBatches("a-model", tmp_path / str(number)).encoder for number in range(20)]
    assert EmbedBatches("a-model", tmp_path / "19").encoder is opened[19]
    assert EmbedBatches("a-model", tmp_path / "0").encoder is not opened[0]


# --- rows of a batch ------------------------------------------------------------------------------


def test_rows_are_fewer_of_longer_texts_and_within_bounds() -> None:
    short, long = ["word " * 12] * 10, ["word " * 40] * 10
    assert rows_per_batch(short) > rows_per_batch(long) >= 1024
    assert rows_per_batch(short, device="cuda") > rows_per_batch(short)
    assert rows_per_batch(["a"], device="cuda") == 65_536
    assert rows_per_batch(["word " * 10_000]) == 1024
    # Static embeddings: so many texts, however long.
    assert rows_per_batch(short, max_seq_length=None) == rows_per_batch(long, max_seq_length=None)
    assert rows_per_batch(pd.Series(short)) == rows_per_batch(short)


def test_rows_of_what_is_no_text() -> None:
    with pytest.raises(ValueError, match="give a text at least"):
        rows_per_batch([])
    with pytest.raises(TypeError, match="at position 1, a missing value"):
        rows_per_batch(["a", None])  # type: ignore[list-item]
