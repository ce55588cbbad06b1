"""OpenTelemetry: its real SDK, with exporters in memory."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import StatusCode

from embstore import CachedEncoder, EmbeddingStore, OnlineBatching, StoreError, cached, hooks
from embstore.integrations.opentelemetry import OpenTelemetryHook
from tests.helpers import MODEL, run_python, texts_of


def embed(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


class Telemetry:
    """What was exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.meters = MeterProvider([self.reader])
        self.tracer = self.tracers.get_tracer("tests")

    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    def tree(self) -> list[str]:
        """Each span after those above it, in the order in which they began."""
        spans = sorted(self.spans(), key=lambda span: span.start_time or 0)
        names = {span.context.span_id: span for span in spans if span.context}
        paths = []
        for span in spans:
            path, parent = [span.name], span.parent
            while parent is not None:
                path.insert(0, names[parent.span_id].name)
                parent = names[parent.span_id].parent
            paths.append(" > ".join(path).replace("embstore.", ""))
        return paths

    def points(self, name: str) -> dict[tuple[Any, ...], Any]:
        """Data points of a metric by the values of their attributes, in alphabetical order."""
        data = self.reader.get_metrics_data()
        assert data is not None
        return {
            tuple(value for _, value in sorted((point.attributes or {}).items())): point
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    telemetry = Telemetry()
    hook = OpenTelemetryHook(telemetry.tracers, telemetry.meters)
    hooks.add(hook)
    yield telemetry
    hooks.remove(hook)
    assert hook._open == {}
    telemetry.meters.shutdown()
    telemetry.tracers.shutdown()


def test_spans_are_nested_as_the_work_is(store: EmbeddingStore, telemetry: Telemetry) -> None:
    def model(texts: list[str]) -> list[list[float]]:
        with telemetry.tracer.start_as_current_span("HTTP"):
            return embed(texts)

    with telemetry.tracer.start_as_current_span("request"):
        CachedEncoder(model, store, model_name="m").encode(["a", "bb", "a"])
    assert telemetry.tree() == [
        "request",
        "request > encode",
        "request > encode > lookup",
        "request > encode > compute",
        "request > encode > compute > HTTP",
        "request > encode > commit",
    ]
    spans = {span.name: dict(span.attributes or {}) for span in telemetry.spans()}
    known = {
        "embstore.store.location": store.location,
        "gen_ai.request.model": "m",
        "embstore.namespace.id": CachedEncoder(model, store, model_name="m").namespace().id.hex(),
    }
    found = {"embstore.memory_hits": 0, "embstore.disk_hits": 0}
    assert spans["embstore.encode"] == {**known, "embstore.texts": 3}
    assert spans["embstore.lookup"] == {
        **known,
        **found,
        "embstore.texts": 3,
        "embstore.repeats": 1,
        "embstore.misses": 2,
    }
    assert spans["embstore.compute"] == {**known, "embstore.texts": 2}
    assert spans["embstore.commit"] == {**known, "embstore.texts": 2, "embstore.stored": 2}


def test_commits_in_a_thread_belong_to_their_call(
    store: EmbeddingStore, telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embstore.commits._IDLE_CORES", -100.0)

    @cached(store, model_name="m", batch_size=4)
    def function(texts: list[str]) -> list[list[float]]:
        time.sleep(0.001)
        return embed(texts)

    with telemetry.tracer.start_as_current_span("request"):
        function(texts_of(20))
    tree = telemetry.tree()
    assert tree.count("request > encode > compute") == 5
    assert tree.count("request > encode > commit") == 5


@pytest.mark.parametrize("max_batch", [2, 64], ids=["alone", "together"])
def test_in_an_event_loop(store: EmbeddingStore, telemetry: Telemetry, max_batch: int) -> None:
    encoder = CachedEncoder(
        embed, store, model_name="m", online=OnlineBatching(max_batch=max_batch)
    )

    async def request(number: int) -> None:
        with telemetry.tracer.start_as_current_span(f"request {number}"):
            await encoder.aencode(texts_of(3, 10 * number))

    async def both() -> None:
        await asyncio.gather(request(1), request(2))

    asyncio.run(both())
    tree = telemetry.tree()
    for number in (1, 2):
        assert tree.count(f"request {number} > encode") == 1
        assert tree.count(f"request {number} > encode > lookup") == 1
        alone = f"request {number} > encode > compute"
        # What is computed for several calls at once belongs to none of them.
        assert tree.count(alone) == (1 if max_batch == 2 else 0)
    assert tree.count("compute") == (0 if max_batch == 2 else 1)


def test_errors_are_marked_and_not_quoted(store: EmbeddingStore, telemetry: Telemetry) -> None:
    def fail(texts: list[str]) -> Any:
        raise ValueError(f"cannot embed {texts}")

    with pytest.raises(ValueError, match="a secret"):
        CachedEncoder(fail, store, model_name="m").encode("a secret")
    spans = {span.name: span for span in telemetry.spans()}
    for name in ("embstore.encode", "embstore.compute"):
        assert spans[name].status.status_code is StatusCode.ERROR
        assert (spans[name].attributes or {})["error.type"] == "ValueError"
    assert spans["embstore.lookup"].status.status_code is StatusCode.UNSET
    assert "a secret" not in "".join(span.to_json() for span in telemetry.spans())


def test_a_fault_of_the_store_is_an_event(store: EmbeddingStore, telemetry: Telemetry) -> None:
    store.close()
    with pytest.raises(StoreError):
        store.get_many(MODEL, ["a"])
    (span,) = telemetry.spans()
    assert [event.name for event in span.events] == ["embstore.store.fault"]
    assert (span.attributes or {})["error.type"] == "embstore.errors.StoreError"
    assert telemetry.points("embstore.store.faults")["embstore.errors.StoreError",].value == 1


def test_metrics(store: EmbeddingStore, telemetry: Telemetry) -> None:
    encoder = CachedEncoder(embed, store, model_name="m")
    encoder.encode(["a", "bb", "a"])
    encoder.encode("a")
    lookups = telemetry.points("embstore.lookups")
    assert {tier: point.value for (tier, model), point in lookups.items()} == {
        "memory": 1,
        "disk": 0,
        "repeat": 1,
        "miss": 2,
    }
    assert telemetry.points("embstore.computed")["m",].value == 2
    assert telemetry.points("embstore.stored")["m",].value == 2
    durations = telemetry.points("embstore.operation.duration")
    assert {name: point.count for (name, model), point in durations.items()} == {
        "encode": 2,
        "lookup": 2,
        "compute": 1,
        "commit": 1,
    }
    assert durations["lookup", "m"].explicit_bounds == hooks.SECONDS
    assert 0 < durations["encode", "m"].sum < 60


def test_what_is_not_sampled_is_counted_all_the_same(store: EmbeddingStore) -> None:
    telemetry = Telemetry()
    hook = OpenTelemetryHook(TracerProvider(sampler=ALWAYS_OFF), telemetry.meters)
    hooks.add(hook)
    try:
        store.get_many(MODEL, ["a"])
    finally:
        hooks.remove(hook)
    assert telemetry.points("embstore.lookups")["miss", "a/model"].value == 1
    telemetry.meters.shutdown()


_GLOBAL = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
import sys
from embstore import EmbeddingStore, Namespace, hooks
from embstore.integrations.opentelemetry import OpenTelemetryHook

hooks.add(OpenTelemetryHook())
store = EmbeddingStore(sys.argv[1])
store.get_many(Namespace("m"), ["a"])  # with no provider at all, nothing happens
exporter, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(exporter))
trace.set_tracer_provider(provider)  # and one that is set later is used
store.get_many(Namespace("m"), ["a"])
print([span.name for span in exporter.get_finished_spans()])
"""


def test_the_global_provider_is_used(tmp_path: Any) -> None:
    assert run_python(_GLOBAL, tmp_path).strip() == "['embstore.lookup']"


def test_without_the_library_the_extra_is_named() -> None:
    output = run_python(
        "import sys; sys.modules['opentelemetry'] = None\n"
        "try: import embstore.integrations.opentelemetry\n"
        "except ImportError as error: print(error)"
    )
    assert "pip install 'embstore[opentelemetry]'" in output
