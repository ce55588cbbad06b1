"""Ray Data on a real cluster of two nodes, two raylets on loopback; Spark and Dask as well."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.ray import EmbedBatches
from tests.helpers import ROOT
from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

ray = pytest.importorskip("ray", reason="ray is not installed")

TEXTS = [f"text {number % 700}" for number in range(1000)]
MARK = "text 333"


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


class Logged:
    """A model that notes in a file what it is asked for, and by which process."""

    def __init__(self, path: Path, dies_of: str = "", seconds: float = 0.0) -> None:
        self.path = path
        self.dies_of = dies_of
        self.seconds = seconds

    def __call__(self, texts: list[str]) -> np.ndarray:
        time.sleep(self.seconds * len(texts))
        once = self.path.with_suffix(".died")
        if self.dies_of in texts and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.path.open("a") as file:
            file.write("".join(json.dumps([os.getpid(), text]) + "\n" for text in texts))
        return np.array([[len(text), 1.0, hash_of(text)] for text in texts], np.float32)

    def asked(self) -> Counter[str]:
        return Counter(json.loads(line)[1] for line in self.path.read_text().splitlines())

    def processes(self) -> set[int]:
        return {json.loads(line)[0] for line in self.path.read_text().splitlines()}


def hash_of(text: str) -> int:
    return sum(map(ord, text)) % 97


class Noted(EmbedBatches):
    """Notes on which node it works."""

    def __call__(self, batch: Any) -> Any:
        node = ray.get_runtime_context().get_node_id()
        done = super().__call__(batch)
        return done.append_column("node", pa.array([node] * len(done)))


# --- batches of every kind, without Ray -----------------------------------------------------------


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


def test_what_is_refused(embed: EmbedBatches, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="there is no column 'text': give column="):
        embed({"body": ["a"]})
    with pytest.raises(TypeError, match="a missing value: drop such rows"):
        embed(pa.table({"text": ["a", None]}))
    with pytest.raises(ValueError, match="task is"):
        EmbedBatches(lengths, tmp_path, task="passage")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="give EmbedBatches the model"):
        EmbedBatches(CachedEncoder(lengths, tmp_path, model_name="lengths"))


def test_copies_in_a_process_share_a_model(model_path: str, tmp_path: Path) -> None:
    embed = EmbedBatches(model_path, EmbeddingStore(tmp_path / "store"), truncate_dim=8)
    assert embed({"text": ["a text"]})["embedding"].shape == (1, 8)
    copy = pickle.loads(pickle.dumps(embed))
    assert copy.encoder is embed.encoder
    other = EmbedBatches(model_path, tmp_path / "other")
    assert other.encoder is not embed.encoder


# --- Ray ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two raylets, each a node to Ray, with a driver that is connected to them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    node = {"num_cpus": 3, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.add_node(num_cpus=3, object_store_memory=100 * 2**20)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}},
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Ten Parquet files of a hundred texts."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for number in range(10):
        part = TEXTS[number * 100 : number * 100 + 100]
        pq.write_table(pa.table({"text": part}), folder / f"{number}.parquet")
    return folder


def run(files: Path, into: Path, kind: type, how: dict[str, Any]) -> pa.Table:
    """read_parquet, map_batches with an actor on each node, write_parquet; what was written."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Ray's own making
        # Such small files are read by one task, into one block.
        done = (
            ray.data.read_parquet(str(files))
            .repartition(10)
            .map_batches(
                kind,
                fn_constructor_kwargs=how,
                batch_format="pyarrow",
                batch_size=50,
                concurrency=2,
                num_cpus=2,  # of 3: each is on a node of its own, and leaves room for reading
            )
        )
        done.write_parquet(str(into))
    return pq.read_table(into)


def test_two_nodes_share_a_cache(cluster: Any, files: Path, tmp_path: Path) -> None:
    model = Logged(tmp_path / "asked", seconds=0.003)
    how = {"model": model, "store": tmp_path / "store", "model_name": "logged"}
    first = run(files, tmp_path / "first", Noted, how)
    assert len(set(first["node"].to_pylist())) == 2
    assert first.schema.field("embedding").type == pa.list_(pa.float32(), 3)
    vectors = dict(zip(first["text"].to_pylist(), first["embedding"].to_pylist(), strict=True))
    assert vectors == {text: [len(text), 1.0, hash_of(text)] for text in TEXTS}
    assert model.asked() == dict.fromkeys(TEXTS, 1)
    assert len(model.processes()) == 2
    run(files, tmp_path / "second", EmbedBatches, how)
    assert model.asked().total() == 700
    with EmbeddingStore(tmp_path / "store") as store:
        assert store.namespaces()[0].computed == 700


def test_each_node_has_a_disk_and_all_a_server(cluster: Any, files: Path, tmp_path: Path) -> None:
    """The disk of a node stands in front of the server between nodes."""
    if PROGRAM is None:
        pytest.skip(WHY_NOT)
    server = RedisServer(tmp_path)
    try:
        model = Logged(tmp_path / "asked", seconds=0.003)
        how = {"model": model, "model_name": "logged"}
        how["store"] = {"location": str(tmp_path / "node"), "upstream": server.url}
        run(files, tmp_path / "first", OnItsNode, how)
        assert model.asked() == dict.fromkeys(TEXTS, 1)
        disks = [*tmp_path.glob("node-*")]
        assert len(disks) == 2
        run(files, tmp_path / "second", OnItsNode, how)
        assert model.asked().total() == 700
    finally:
        server.kill()


class OnItsNode(EmbedBatches):
    """Both nodes are on this machine: each gets a directory that the other does not use."""

    def __init__(self, model: Any, store: dict[str, Any], **how: Any) -> None:
        node = ray.get_runtime_context().get_node_id()
        super().__init__(model, {**store, "location": f"{store['location']}-{node}"}, **how)


def test_a_killed_actor_costs_its_chunk(cluster: Any, files: Path, tmp_path: Path) -> None:
    model = Logged(tmp_path / "asked", dies_of=MARK)
    how = {"model": model, "store": tmp_path / "store", "model_name": "logged"}
    done = run(files, tmp_path / "done", EmbedBatches, how)
    assert sorted(done["text"].to_pylist()) == sorted(TEXTS)
    assert (tmp_path / "asked.died").exists()
    # What it had computed of its last batch and not committed yet is computed again, and no more.
    asked = model.asked()
    assert set(asked) == set(TEXTS)
    assert max(asked.values()) <= 2
    assert asked.total() - 700 < 50


class Warm(EmbedBatches):
    """Notes whether torch was imported."""

    def __call__(self, batch: Any) -> Any:
        done = super().__call__(batch)
        return done.append_column("torch", pa.array(["torch" in sys.modules] * len(done)))


def test_a_real_model_is_not_loaded_where_all_is_stored(
    cluster: Any, files: Path, tmp_path: Path, model_path: str, minilm: Any
) -> None:
    for file in [*files.iterdir()][1:]:
        file.unlink()
    [file] = files.iterdir()
    texts = pq.read_table(file)["text"].to_pylist()
    with EmbeddingStore(tmp_path / "store") as store:
        expected = CachedEncoder(model_path, store).encode(texts)
    how = {"model": model_path, "store": tmp_path / "store"}
    done = run(files, tmp_path / "done", Warm, how)
    assert not any(done["torch"].to_pylist())
    order = {text: place for place, text in enumerate(texts)}
    places = [order[text] for text in done["text"].to_pylist()]
    assert (np.array(done["embedding"].to_pylist(), np.float32) == expected[places]).all()


# --- Spark and Dask ----------------------------------------------------------------------------


def test_spark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    if shutil.which("java") is None:
        pytest.skip("no java on the PATH: apt-get install default-jre-headless")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Spark's own making
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
        monkeypatch.setenv("SPARK_LOCAL_IP", "127.0.0.1")
        from pyspark.sql import SparkSession

        session = (
            SparkSession.builder.master("local[2]")
            .config("spark.ui.enabled", "false")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.sql.warehouse.dir", str(tmp_path / "warehouse"))
            .config("spark.sql.shuffle.partitions", "2")
            .getOrCreate()
        )
        try:
            model = Logged(tmp_path / "asked")
            embed = EmbedBatches(model, tmp_path / "store", model_name="logged")
            frame = session.createDataFrame([(text,) for text in TEXTS], ["text"]).repartition(4)
            for _ in range(2):
                done = frame.mapInPandas(
                    lambda batches: map(embed, batches), "text string, embedding array<float>"
                ).toPandas()
                assert sorted(done["text"]) == sorted(TEXTS)
                assert all(
                    vector[0] == len(text) and vector[2] == hash_of(text)
                    for text, vector in zip(done["text"], done["embedding"], strict=True)
                )
                assert model.asked() == dict.fromkeys(TEXTS, 1)
        finally:
            session.stop()


def test_dask(tmp_path: Path) -> None:
    dd = pytest.importorskip("dask.dataframe", reason="dask is not installed")
    model = Logged(tmp_path / "asked")
    embed = EmbedBatches(model, tmp_path / "store", model_name="logged")
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=4)
    meta = frame._meta.assign(embedding=pd.Series(dtype=object))
    for scheduler in ("processes", "threads"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Dask's own making
            done = frame.map_partitions(embed, meta=meta).compute(scheduler=scheduler)
        assert done["text"].tolist() == TEXTS
        assert [vector[2] for vector in done["embedding"]] == [hash_of(text) for text in TEXTS]
        assert model.asked() == dict.fromkeys(TEXTS, 1)
