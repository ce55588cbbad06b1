"""OpenTelemetry: a span for each operation of embstore, nested as the operations are, and metrics.

hooks.add(OpenTelemetryHook())
"""

from __future__ import annotations

from contextvars import Token
from typing import TypeAlias

from embstore import __version__
from embstore.hooks import SECONDS, Hook, Operation
from embstore.integrations.embedder import require

require("opentelemetry.metrics", "opentelemetry")

from opentelemetry import context, metrics, trace  # noqa: E402
from opentelemetry.context import Context  # noqa: E402
from opentelemetry.metrics import MeterProvider  # noqa: E402
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider  # noqa: E402

__all__ = ["OpenTelemetryHook"]

_MODEL = "gen_ai.request.model"
_OPERATION = "embstore.operation.name"
_TIER = "embstore.tier"
_ERROR = "error.type"

_Open: TypeAlias = tuple[Span, Token[Context]]


class OpenTelemetryHook(Hook):
    """Spans and metrics of all operations of this process.

    A span's parent is the span that is current where embstore is called, and the model's and its
    client's own spans are children of "embstore.compute". Texts, vectors and the messages of errors
    are in no span.

    Args:
        tracer_provider: None for the global one, as it is when there is the first span.
        meter_provider: None for the global one likewise.
    """

    def __init__(
        self,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("embstore", __version__, tracer_provider)
        meter = metrics.get_meter("embstore", __version__, meter_provider)
        self._seconds = meter.create_histogram(
            "embstore.operation.duration",
            "s",
            "What operations took.",
            explicit_bucket_boundaries_advisory=SECONDS,
        )
        self._lookups = meter.create_counter(
            "embstore.lookups", "{text}", "Texts looked up, by what answered."
        )
        self._computed = meter.create_counter(
            "embstore.computed", "{text}", "Texts that a model computed."
        )
        self._stored = meter.create_counter(
            "embstore.stored", "{vector}", "Vectors that were new to a store."
        )
        self._faults = meter.create_counter(
            "embstore.store.faults", "{fault}", "Times that a store failed, survived or not."
        )
        self._open: dict[Operation, _Open] = {}

    def began(self, operation: Operation) -> None:
        """Begin a span, and make it the current one."""
        span = self._tracer.start_span(f"embstore.{operation.name}")
        self._open[operation] = span, context.attach(trace.set_span_in_context(span))

    def ended(self, operation: Operation) -> None:
        """End the span, and count what was done."""
        span, token = self._open.pop(operation)
        context.detach(token)
        if span.is_recording():
            self._describe(span, operation)
        span.end()
        self._count(operation)

    def failed(self, location: str, error: Exception) -> None:
        """Count a fault, and note it in the current span."""
        kind = _name(type(error))
        trace.get_current_span().add_event("embstore.store.fault", {_ERROR: kind})
        self._faults.add(1, {_ERROR: kind})

    def _describe(self, span: Span, operation: Operation) -> None:
        span.set_attribute("embstore.store.location", operation.location)
        span.set_attribute("embstore.texts", operation.texts)
        if operation.namespace is not None:
            span.set_attribute(_MODEL, operation.model_name)
            span.set_attribute("embstore.namespace.id", operation.namespace.id.hex())
        if operation.name == "lookup":
            span.set_attribute("embstore.memory_hits", operation.memory_hits)
            span.set_attribute("embstore.disk_hits", operation.disk_hits)
            span.set_attribute("embstore.repeats", operation.repeats)
            span.set_attribute("embstore.misses", operation.misses)
        elif operation.name == "commit":
            span.set_attribute("embstore.stored", operation.stored)
        if operation.error is not None:
            span.set_attribute(_ERROR, _name(operation.error))
            span.set_status(Status(StatusCode.ERROR))

    def _count(self, operation: Operation) -> None:
        model = {_MODEL: operation.model_name}
        error = {} if operation.error is None else {_ERROR: _name(operation.error)}
        self._seconds.record(operation.seconds, {_OPERATION: operation.name, **model, **error})
        if error:
            return
        if operation.name == "lookup":
            self._lookups.add(operation.memory_hits, {_TIER: "memory", **model})
            self._lookups.add(operation.disk_hits, {_TIER: "disk", **model})
            self._lookups.add(operation.repeats, {_TIER: "repeat", **model})
            self._lookups.add(operation.misses, {_TIER: "miss", **model})
        elif operation.name == "compute":
            self._computed.add(operation.texts, model)
        elif operation.name == "commit":
            self._stored.add(operation.stored, model)


def _name(error: type[BaseException]) -> str:
    """An error's class as the conventions have it: with its module, unless that is Python's own."""
    module = error.__module__
    return error.__qualname__ if module == "builtins" else f"{module}.{error.__qualname__}"
