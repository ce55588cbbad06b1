"""Prometheus: what embstore does as counters and histograms, and what stores hold as gauges.

hooks.add(PrometheusHook())
REGISTRY.register(StoreCollector(store))
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from embstore.hooks import SECONDS, Hook, Operation
from embstore.integrations.embedder import require
from embstore.store import EmbeddingStore

require("prometheus_client", "prometheus")

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram  # noqa: E402
from prometheus_client.core import GaugeMetricFamily, Metric  # noqa: E402
from prometheus_client.registry import Collector  # noqa: E402

__all__ = ["PrometheusHook", "StoreCollector"]

_TIERS = ("memory", "disk", "repeat", "miss")


class PrometheusHook(Hook):
    """Counts and times all operations of this process.

    Labels are the model's name, the tier, and the operation: as many series as there are models,
    however many namespaces they have.

    Args:
        registry: where the metrics are registered. With several worker processes,
            ``PROMETHEUS_MULTIPROC_DIR`` is set as prometheus-client wants it, and these metrics add
            up over all of them.

    Raises:
        ValueError: prometheus-client's own, if the registry has these metrics already.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"embstore_{name}", what, labels, registry=registry)

        def seconds(name: str, what: str) -> Histogram:
            return Histogram(
                f"embstore_{name}_seconds", what, ["model"], buckets=SECONDS, registry=registry
            )

        self._lookups = counter("lookups", "Texts looked up, by what answered.", "tier", "model")
        self._computed = counter("computed_texts", "Texts that a model computed.", "model")
        self._stored = counter("stored_vectors", "Vectors that were new to a store.", "model")
        self._errors = counter("errors", "Operations that raised an error.", "operation", "model")
        self._faults = counter("store_faults", "Times that a store failed, survived or not.")
        self._seconds = {
            "encode": seconds("encode", "Whole calls, in seconds."),
            "lookup": seconds("lookup", "Look-ups, each of a call's texts, in seconds."),
            "compute": seconds("compute", "Chunks of texts computed by a model, in seconds."),
            "commit": seconds("commit", "Commits to a store, each of a chunk, in seconds."),
        }

    def ended(self, operation: Operation) -> None:
        """Count an operation. One that raised counts as an error, and in no other metric."""
        model = operation.model_name
        if operation.error is not None:
            self._errors.labels(operation.name, model).inc()
            return
        self._seconds[operation.name].labels(model).observe(operation.seconds)
        if operation.name == "lookup":
            counts = (operation.memory_hits, operation.disk_hits)
            for tier, count in zip(
                _TIERS, (*counts, operation.repeats, operation.misses), strict=True
            ):
                self._lookups.labels(tier, model).inc(count)
        elif operation.name == "compute":
            self._computed.labels(model).inc(operation.texts)
        elif operation.name == "commit":
            self._stored.labels(model).inc(operation.stored)

    def failed(self, location: str, error: Exception) -> None:
        """Count a fault."""
        self._faults.inc()


class StoreCollector(Collector):
    """What stores hold, read when Prometheus asks: vectors by model, and their bytes on disk.

    A store that cannot be read has no samples, and the others have theirs.

    Args:
        stores: any number.
    """

    def __init__(self, *stores: EmbeddingStore) -> None:
        self._stores = stores

    def describe(self) -> list[Metric]:
        """The metrics without samples, so that registering reads no store."""
        return list(_gauges())

    def collect(self) -> Iterator[Metric]:
        """The metrics."""
        entries, size = _gauges()
        for store in self._stores:
            try:
                infos = store.namespaces()
            except Exception:  # one broken store is no reason to lose all other metrics
                continue
            vectors: Tally[str] = Tally()
            taken: Tally[str] = Tally()
            for info in infos:
                vectors[info.namespace.model_name] += info.entries
                taken[info.namespace.model_name] += info.bytes
            for model in vectors:
                entries.add_metric([store.location, model], vectors[model])
                size.add_metric([store.location, model], taken[model])
        yield from (entries, size)


def _gauges() -> tuple[GaugeMetricFamily, GaugeMetricFamily]:
    labels = ["location", "model"]
    return (
        GaugeMetricFamily("embstore_store_entries", "Vectors in a store.", labels=labels),
        GaugeMetricFamily("embstore_store_bytes", "Bytes that these take on disk.", labels=labels),
    )
