"""Ray Data on a real cluster of two nodes: two raylets on loopback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from embstore import EmbeddingStore
from embstore.integrations.ray import EmbedBatches
from tests.helpers import ROOT
from tests.integrations.ray.models import MARK, TEXTS, Logged, hash_of
from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

ray = pytest.importorskip("ray", reason="ray is not installed")
data = pytest.importorskip("ray.data", reason="ray[data] is not installed")

# Its own defaults are deprecated, and it says so whenever it copies them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)

NODE: dict[str, Any] = {"num_cpus": 3, "object_store_memory": 100 * 2**20}


@pytest.fixture(scope="module")
def cluster(monkeypatch_module: pytest.MonkeyPatch) -> Iterator[None]:
    """Two raylets, each a node to Ray, and this process connected to them."""
    from ray.cluster_utils import Cluster

    monkeypatch_module.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch_module.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # it warns that it will be
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    cluster = Cluster()
    try:
        try:
            cluster.add_node(**NODE, include_dashboard=False)
            cluster.add_node(**NODE)
        except Exception as error:
            pytest.skip(f"Ray cannot start here: {error!r:.200}")
        ray.init(
            address=cluster.address,
            log_to_driver=False,
            runtime_env={"env_vars": {"PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}},
        )
        data.DataContext.get_current().enable_progress_bars = False
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def monkeypatch_module() -> Iterator[pytest.MonkeyPatch]:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Parquet files of a hundred texts; some texts stand in two of them."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for start in range(0, len(TEXTS), 100):
        pq.write_table(pa.table({"text": TEXTS[start : start + 100]}), folder / f"{start}.parquet")
    return folder


def read(files: Path) -> Any:
    # Files as small as these are read by one task, into one block.
    return data.read_parquet(str(files)).repartition(10)


def run(
    files: Path, into: Path, kind: type, how: dict[str, Any], form: str = "pyarrow", actors: int = 2
) -> pa.Table:
    """read_parquet, map_batches with an actor on each node, write_parquet; what was written."""
    read(files).map_batches(
        kind,
        fn_constructor_kwargs=how,
        batch_format=form,
        batch_size=50,
        concurrency=actors,
        num_cpus=2,  # of 3: each is on a node of its own, and leaves room for reading
    ).write_parquet(str(into))
    return pq.read_table(into)


class Noted(EmbedBatches):
    """Notes on which node it works, and whether torch was imported there."""

    def __call__(self, batch: Any) -> Any:
        node = ray.get_runtime_context().get_node_id()
        done = super().__call__(batch)
        done = done.append_column("node", pa.array([node] * len(done)))
        return done.append_column("torch", pa.array(["torch" in sys.modules] * len(done)))


class OnItsNode(EmbedBatches):
    """Both nodes are on this machine: each gets a directory that the other does not use."""

    def __init__(self, model: Any, store: dict[str, Any], **how: Any) -> None:
        node = ray.get_runtime_context().get_node_id()
        super().__init__(model, {**store, "location": f"{store['location']}-{node}"}, **how)


def check(table: pa.Table, column: str = "embedding") -> None:
    """All rows are there, each with the vector of its text."""
    assert sorted(table["text"].to_pylist()) == sorted(TEXTS)
    for text, vector in zip(table["text"].to_pylist(), table[column].to_pylist(), strict=True):
        assert vector == [len(text), 1.0, hash_of(text)]


@pytest.mark.usefixtures("cluster")
class TestTwoNodes:
    def test_share_a_cache(self, files: Path, tmp_path: Path) -> None:
        model = Logged(tmp_path / "asked", seconds=0.003)
        how = {"model": model, "store": tmp_path / "store", "model_name": "logged"}
        first = run(files, tmp_path / "first", Noted, how)
        check(first)
        assert len(set(first["node"].to_pylist())) == 2
        assert first.schema.field("embedding").type == pa.list_(pa.float32(), 3)
        assert model.asked() == dict.fromkeys(TEXTS, 1)
        assert len(model.processes()) == 2

        check(run(files, tmp_path / "second", Noted, how))
        assert model.asked().total() == 700
        with EmbeddingStore(tmp_path / "store") as store:
            assert store.namespaces()[0].computed == 700

    def test_each_with_a_disk_and_all_with_a_server(self, files: Path, tmp_path: Path) -> None:
        if PROGRAM is None:
            pytest.skip(WHY_NOT)
        server = RedisServer(tmp_path)
        try:
            model = Logged(tmp_path / "asked", seconds=0.003)
            how = {"model": model, "model_name": "logged"}
            how["store"] = {"location": str(tmp_path / "node"), "upstream": server.url}
            check(run(files, tmp_path / "first", OnItsNode, how))
            assert model.asked() == dict.fromkeys(TEXTS, 1)
            assert len(model.processes()) == len([*tmp_path.glob("node-*")]) == 2

            check(run(files, tmp_path / "second", OnItsNode, how))
            assert model.asked().total() == 700
        finally:
            server.kill()

    def test_a_killed_actor_costs_its_chunk(self, files: Path, tmp_path: Path) -> None:
        model = Logged(tmp_path / "asked", dies_of=MARK)
        how = {"model": model, "store": tmp_path / "store", "model_name": "logged"}
        check(run(files, tmp_path / "done", EmbedBatches, how, form="numpy"))
        assert (tmp_path / "asked.died").exists()
        # What it had computed of its last batch and not committed yet is computed again, no more.
        asked = model.asked()
        assert set(asked) == set(TEXTS)
        assert max(asked.values()) <= 2
        assert asked.total() - 700 < 50

    def test_a_real_model(self, files: Path, tmp_path: Path, model_path: str, minilm: Any) -> None:
        for file in sorted(files.iterdir())[1:]:
            file.unlink()
        how = {"model": model_path, "store": tmp_path / "store"}
        first = run(files, tmp_path / "first", Noted, how, actors=1)
        plain = minilm.encode(first["text"].to_pylist())
        vectors = np.array(first["embedding"].to_pylist(), np.float32)
        assert np.abs(vectors - plain).max() < 1e-6

        second = run(files, tmp_path / "second", Noted, how, actors=1)
        assert not any(second["torch"].to_pylist()), "all is stored: nothing is to be loaded"
        known = dict(zip(first["text"].to_pylist(), first["embedding"].to_pylist(), strict=True))
        texts, vectors = second["text"].to_pylist(), second["embedding"].to_pylist()
        assert dict(zip(texts, vectors, strict=True)) == known
