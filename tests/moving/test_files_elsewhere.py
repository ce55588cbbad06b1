"""Exported files for those who know nothing of embstore."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors
import safetensors.numpy

from embstore import EmbeddingStore, Namespace
from embstore.moving import export_store, import_store
from tests.helpers import MODEL, put, texts_of, vectors_of
from tests.moving.stores import ALL, LAYOUTS, SEED, TEXTS, fill, found_in


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A store of 100 vectors under one namespace."""
    with EmbeddingStore(tmp_path / "small", seed=SEED, on_error="raise") as store:
        put(store, MODEL, texts_of(100))
    return tmp_path / "small"


def test_parquet_for_those_who_read_tables(small: Path, tmp_path: Path) -> None:
    file, texts = tmp_path / "x.parquet", texts_of(100)
    export_store(small, file)
    table = pq.read_table(file)
    assert table.schema.field("digest").type == pa.binary(16)
    assert table.schema.field("vector").type == pa.list_(pa.float32(), 8)
    assert set(table["namespace"].to_pylist()) == {MODEL.id.hex()}
    assert json.loads(table.schema.metadata[b"embstore"])["seed"] == SEED
    with EmbeddingStore(small, read_only=True) as store:
        digests = store.digests(texts)
    asked = pd.DataFrame({"digest": digests, "text": texts})
    merged = asked.merge(pd.read_parquet(file), on="digest")
    assert merged["text"].tolist() == texts
    assert np.stack(merged["vector"]).tobytes() == vectors_of(MODEL, texts).tobytes()
    joined = pl.DataFrame({"digest": digests}).join(
        pl.read_parquet(file), on="digest", maintain_order="left"
    )
    assert joined["vector"].to_numpy().tobytes() == vectors_of(MODEL, texts).tobytes()


def test_parquet_of_several_layouts(source: Path, tmp_path: Path) -> None:
    export_store(source, tmp_path / "x.parquet")
    frame = pl.read_parquet(tmp_path / "x.parquet")
    for namespace, (dim, dtype) in LAYOUTS.items():
        ours = frame.filter(namespace=namespace.id.hex())
        column = ours[f"vector_{dtype}_{dim}"]
        assert column.null_count() == 0
        assert ours.height == len(TEXTS)
        if dtype != "float16":  # polars calculates with it as float32
            got = {row.tobytes() for row in column.to_numpy()}
            assert got == {row.tobytes() for row in vectors_of(namespace, TEXTS, dim, dtype)}


def test_parquet_whose_rows_were_sorted(source: Path, tmp_path: Path) -> None:
    """Row groups then have rows of several namespaces."""
    export_store(source, tmp_path / "x.parquet")
    table = pq.read_table(tmp_path / "x.parquet")
    pq.write_table(table.sort_by("digest"), tmp_path / "y.parquet", row_group_size=50)
    assert import_store(tmp_path / "y.parquet", tmp_path / "new").rows == ALL
    assert found_in(tmp_path / "new") == ALL


def test_arrays_for_numpy_and_safetensors(source: Path, tmp_path: Path) -> None:
    for suffix in ("npz", "safetensors"):
        export_store(source, tmp_path / f"x.{suffix}")
    with np.load(tmp_path / "x.npz", allow_pickle=False) as arrays:
        mine = dict(arrays)
    manifest = json.loads(mine.pop("embstore").tobytes())
    with safetensors.safe_open(tmp_path / "x.safetensors", "numpy") as opened:
        assert json.loads(opened.metadata()["embstore"]) == manifest
    theirs = safetensors.numpy.load_file(tmp_path / "x.safetensors")
    assert mine.keys() == theirs.keys()
    with EmbeddingStore(source, read_only=True) as store:
        digests = np.frombuffer(b"".join(store.digests(TEXTS)), np.uint8).reshape(-1, 16)
    for number, part in enumerate(manifest["namespaces"]):
        namespace = Namespace.from_dict(part["namespace"])
        expected = vectors_of(namespace, TEXTS, *LAYOUTS[namespace])
        for arrays in (mine, theirs):
            assert arrays[f"vectors.{number}"].dtype == expected.dtype
            assert arrays[f"vectors.{number}"].tobytes() == expected.tobytes()
            assert arrays[f"digests.{number}"].tobytes() == digests.tobytes()


def test_safetensors_for_torch(source: Path, tmp_path: Path) -> None:
    """Which maps tensors, and can only if each begins at a multiple of its numbers' size."""
    export_store(source, tmp_path / "x.safetensors")
    raw = (tmp_path / "x.safetensors").read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    del header["__metadata__"]
    for entry in header.values():
        assert (8 + length + entry["data_offsets"][0]) % (int(entry["dtype"][1:]) // 8) == 0
