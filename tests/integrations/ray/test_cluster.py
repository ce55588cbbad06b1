"""Ray Data on a real cluster of two nodes, two raylets on loopback."""

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

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.ray import EmbedBatches
from tests.helpers import ROOT
from tests.integrations.ray.models import MARK, TEXTS, Logged, hash_of
from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

ray = pytest.importorskip("ray", reason="ray is not installed")

# Its own defaults are deprecated, and it says so whenever it copies them.
pytestmark = pytest.mark.filterwarnings(
    "ignore:.* is deprecated:DeprecationWarning:ray.data.context"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two raylets, each a node to Ray, with a driver that is connected to them."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    # Ray starts a process for each processor, which imports for seconds.
    node = {"num_cpus": 2, "object_store_memory": 100 * 2**20, "resources": {"seat": 1}}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    cluster.add_node(**node)
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
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
    # Such small files are read by one task, into one block.
    done = (
        ray.data.read_parquet(str(files))
        .repartition(10)
        .map_batches(
            kind,
            fn_constructor_kwargs=how,
            batch_format="pyarrow",
            batch_size=50,
            compute=ray.data.ActorPoolStrategy(size=2),
            num_cpus=1,  # of 2, which leaves room for reading
            resources={"seat": 1},  # each is on a node of its own
        )
    )
    done.write_parquet(str(into))
    return pq.read_table(into)


def test_two_nodes_share_a_cache(cluster: Any, files: Path, tmp_path: Path) -> None:
    """The disk of a node stands in front of the server between nodes."""
    if PROGRAM is None:
        pytest.skip(WHY_NOT)
    server = RedisServer(tmp_path)
    try:
        model = Logged(tmp_path / "asked", seconds=0.003)
        how = {"model": model, "model_name": "logged"}
        how["store"] = {"location": str(tmp_path / "node"), "upstream": server.url}
        first = run(files, tmp_path / "first", OnItsNode, how)
        assert first.schema.field("embedding").type == pa.list_(pa.float32(), 3)
        vectors = dict(zip(first["text"].to_pylist(), first["embedding"].to_pylist(), strict=True))
        assert vectors == {text: [len(text), 1.0, hash_of(text)] for text in TEXTS}
        assert model.asked() == dict.fromkeys(TEXTS, 1)
        assert len(model.processes()) == 2
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
