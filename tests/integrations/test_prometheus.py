"""Prometheus: real registries, scraped over HTTP."""

from __future__ import annotations

import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreError, hooks
from embstore.integrations.prometheus import PrometheusHook, StoreCollector
from tests.helpers import put, run_python, texts_of

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


@pytest.fixture
def registry() -> Iterator[CollectorRegistry]:
    registry = CollectorRegistry()
    hook = PrometheusHook(registry)
    hooks.add(hook)
    yield registry
    hooks.remove(hook)


@pytest.fixture
def scraped(registry: CollectorRegistry) -> Iterator[Any]:
    server, thread = start_http_server(0, "127.0.0.1", registry)

    def scraped() -> Samples:
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        with urllib.request.urlopen(url, timeout=30) as answer:
            text = answer.read().decode()
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    yield scraped
    server.shutdown()
    server.server_close()
    thread.join()


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[f"embstore_{name}", tuple(sorted(labels.items()))]


def test_what_is_done_can_be_scraped(store: EmbeddingStore, scraped: Any) -> None:
    encoder = CachedEncoder(embed, store, model_name="a/model")
    encoder.encode(["a", "bb", "a"])
    encoder.encode("a")
    encoder.encode(["a", "bb", "ccc", *texts_of(100)])
    samples = scraped()
    tiers = {
        tier: value(samples, "lookups_total", tier=tier, model="a/model")
        for tier in ("memory", "disk", "repeat", "miss")
    }
    stats = store.stats()
    assert tiers == {"memory": 1, "disk": 2, "repeat": 1, "miss": 103}
    assert (tiers["memory"], tiers["disk"]) == (stats.memory_hits, stats.disk_hits)
    assert sum(tiers.values()) == stats.total
    assert value(samples, "computed_texts_total", model="a/model") == 103
    assert value(samples, "stored_vectors_total", model="a/model") == 103
    assert value(samples, "store_faults_total") == 0
    for name, count in {"encode": 3, "lookup": 3, "compute": 2, "commit": 2}.items():
        assert value(samples, f"{name}_seconds_count", model="a/model") == count
        assert 0 < value(samples, f"{name}_seconds_sum", model="a/model") < 60
        assert value(samples, f"{name}_seconds_bucket", model="a/model", le="300.0") == count
        assert value(samples, f"{name}_seconds_bucket", model="a/model", le="3e-06") == 0


def test_one_series_for_a_model_however_many_namespaces(
    store: EmbeddingStore, scraped: Any
) -> None:
    for number in range(20):
        store.get_many(Namespace("m", prompt=f"prompt {number}"), ["a"])
    samples = scraped()
    assert value(samples, "lookups_total", tier="miss", model="m") == 20
    lookups = [labels for name, labels in samples if name == "embstore_lookups_total"]
    assert len(lookups) == 4


def test_errors_and_faults_are_counted_apart(
    store: EmbeddingStore, registry: CollectorRegistry, scraped: Any
) -> None:
    def fail(texts: list[str]) -> Any:
        raise ValueError(f"cannot embed {texts}")

    with pytest.raises(ValueError, match="cannot embed"):
        CachedEncoder(fail, store, model_name="m").encode("a")
    store.close()
    with pytest.raises(StoreError):
        store.get_many(Namespace("m"), ["a"])
    samples = scraped()
    assert value(samples, "errors_total", operation="compute", model="m") == 1
    assert value(samples, "errors_total", operation="encode", model="m") == 1
    assert value(samples, "errors_total", operation="lookup", model="m") == 1
    # The claim that could not be given back is nobody's business; the look-up is.
    assert value(samples, "store_faults_total") == 1


def test_names_are_escaped(store: EmbeddingStore, scraped: Any) -> None:
    name = 'm"\\\n} 1\nembstore_evil 1'
    store.get_many(Namespace(name), ["a"])
    samples = scraped()
    assert value(samples, "lookups_total", tier="miss", model=name) == 1
    assert not any("evil" in metric for metric, _ in samples)


def test_what_stores_hold_is_read_at_each_scrape(
    store: EmbeddingStore, tmp_path: Path, registry: CollectorRegistry, scraped: Any
) -> None:
    with EmbeddingStore(tmp_path / "other", on_error="raise") as other:
        registry.register(StoreCollector(other, store))
        assert not [name for name, _ in scraped() if name.startswith("embstore_store_e")]
        put(store, Namespace("m"), texts_of(3))
        put(store, Namespace("m", normalize=True), texts_of(4))
        put(store, Namespace("n"), texts_of(5))
        put(other, Namespace("m"), texts_of(6))
        samples = scraped()
        held = {
            (where, model): value(samples, "store_entries", location=where, model=model)
            for where, model in [
                *((store.location, "m"), (store.location, "n"), (other.location, "m"))
            ]
        }
        assert list(held.values()) == [7, 5, 6]
        for where, model in held:
            assert value(samples, "store_bytes", location=where, model=model) > 4096
        store.delete_many(Namespace("n"), texts_of(2))
        samples = scraped()
        assert value(samples, "store_entries", location=store.location, model="n") == 3


def test_a_store_that_cannot_be_read_costs_its_own_samples_only(
    store: EmbeddingStore, tmp_path: Path, registry: CollectorRegistry, scraped: Any
) -> None:
    closed = EmbeddingStore(tmp_path / "closed")
    closed.close()
    put(store, Namespace("m"), ["a"])
    registry.register(StoreCollector(closed, store))
    samples = scraped()
    locations = {dict(labels).get("location") for _, labels in samples} - {None}
    assert locations == {store.location}


def test_two_hooks_on_one_registry_are_refused(registry: CollectorRegistry) -> None:
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        PrometheusHook(registry)


_WORKER = """
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from embstore import EmbeddingStore, Namespace, hooks
from embstore.integrations.prometheus import PrometheusHook

def start():
    hooks.add(PrometheusHook())

def look_up(text):
    EmbeddingStore(sys.argv[1]).get_many(Namespace("m"), [text, text])

if __name__ == "__main__":
    with ProcessPoolExecutor(2, get_context("fork"), start) as pool:
        list(pool.map(look_up, "abcd"))
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    print(generate_latest(registry).decode())
"""


def test_the_workers_of_a_pool_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    monkeypatch.setitem(os.environ, "PROMETHEUS_MULTIPROC_DIR", str(folder))
    text = run_python(_WORKER, tmp_path / "store")
    assert 'embstore_lookups_total{model="m",tier="miss"} 4.0' in text
    assert 'embstore_lookups_total{model="m",tier="repeat"} 4.0' in text


def test_without_the_library_the_extra_is_named() -> None:
    output = run_python(
        "import sys; sys.modules['prometheus_client'] = None\n"
        "try: import embstore.integrations.prometheus\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'embstore[prometheus]'" in output
