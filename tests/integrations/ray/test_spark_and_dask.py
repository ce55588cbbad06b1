"""Spark and Dask, run for real."""

from __future__ import annotations

import shutil
import sys
import warnings
from pathlib import Path

import pandas as pd
import pytest

from embstore.integrations.ray import EmbedBatches
from tests.helpers import ROOT
from tests.integrations.ray.models import TEXTS, Logged, hash_of


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
