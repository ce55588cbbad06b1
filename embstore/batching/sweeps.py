"""Measuring a model over batch sizes: what each gains in throughput, and costs in latency."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from embstore import fingerprint
from embstore.batching import figures
from embstore.batching.environment import environment
from embstore.batching.recommend import GOALS, Goal, Recommendation, recommend, recommend_each
from embstore.batching.report import Section
from embstore.batching.results import Result, data_frame
from embstore.batching.sweep_figure import draw
from embstore.batching.timings import BatchTiming, measure
from embstore.encoder import CachedEncoder
from embstore.lookup import as_vectors
from embstore.stats import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BATCH_SIZES = (1, 4, 8, 16, 32, 64, 128, 256)
SENTENCES = tuple(
    f"This is a sample sentence for benchmarking embeddings generation {i}." for i in range(1000)
)
"""What is embedded if no texts are given."""

USES: Mapping[Goal, str] = {
    "throughput": "Document indexing",
    "latency": "Search engines",
    "balanced": "Recommendation systems",
}
"""What each goal is for."""

UNNOTICED_MS = 100.0
"""A wait that people do not notice (Miller 1968)."""

_UNSTEADY = 1.25
"""Rounds that differ by more are worth a warning; on a quiet machine they differ by a tenth."""


@dataclass(frozen=True)
class Sweep(Result):
    """What was measured; make one with :func:`sweep`.

    Attributes:
        model: what the model is called.
        device: where it ran, as torch calls it; None for a function.
        environment: machine and libraries, by name.
        timings: one for each batch size, ascending.
    """

    model: str
    device: str | None
    environment: Mapping[str, str]
    timings: tuple[BatchTiming, ...]

    def recommend(self, goal: Goal, *, budget_ms: float | None = None) -> Recommendation:
        """The batch size for "throughput", for "latency" within ``budget_ms``, or "balanced".

        :func:`embstore.batching.recommend.recommend` has the rules, and what is raised.
        """
        return recommend(self.timings, goal, budget_ms=budget_ms)

    def recommendations(
        self, goals: Sequence[Goal] = GOALS, *, budget_ms: float = UNNOTICED_MS
    ) -> dict[Goal, Recommendation]:
        """:meth:`recommend` for several goals; latency is left out if no size fits the budget."""
        return recommend_each(self.timings, goals, budget_ms=budget_ms)

    def conclusions(
        self, goals: Sequence[Goal] = GOALS, *, budget_ms: float = UNNOTICED_MS
    ) -> list[str]:
        """For each goal a sentence: which batch size, and why. And one more if rounds disagree."""
        found = self.recommendations(goals, budget_ms=budget_ms)
        nothing = f"No batch size keeps within {budget_ms:g} ms."
        sentences = [f"{USES[goal]} ({goal}): {found.get(goal, nothing)}" for goal in goals]
        spread = max(max(each.round_seconds) / min(each.round_seconds) for each in self.timings)
        if spread > _UNSTEADY:
            sentences.append(
                f"One round took up to {spread:.1f} times as long as another of the same batch "
                "size: something else kept the machine busy. Measure again when it is quiet."
            )
        return sentences

    @property
    def _subject(self) -> str:
        return self.model if self.device is None else f"{self.model} on {self.device}"

    def _cells(self) -> list[tuple[str, ...]]:
        header = ("batch size", "total s (min to max)", "texts/s", "batches")
        return [
            (*header, "mean ms", "p50 ms", "p95 ms", "p99 ms", "peak memory"),
            *(_row(timing) for timing in self.timings),
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each batch size; the columns' names have the units.

        Raises:
            ImportError: if pandas is not installed.
        """
        frame = data_frame([timing.to_dict() for timing in self.timings])
        return frame.drop(columns="round_seconds").astype({"peak_bytes": "Int64"})

    def to_json(self) -> str:
        """Everything, as one JSON document; :meth:`from_json` reads it."""
        document = {
            "model": self.model,
            "device": self.device,
            "environment": dict(self.environment),
            "timings": [timing.to_dict() for timing in self.timings],
        }
        return json.dumps(document, indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, document: str | bytes) -> Sweep:
        """A sweep that was saved with :meth:`to_json`; what it does not know is left out.

        Raises:
            ValueError: if it is no such document.
        """
        try:
            found = json.loads(document)
            timings = tuple(map(BatchTiming.from_dict, found["timings"]))
            return cls(found["model"], found["device"], found["environment"], timings)
        except (KeyError, TypeError) as error:
            raise ValueError(f"this is no sweep that to_json() has saved: {error!r}") from error

    def figure(self, goals: Sequence[Goal] = GOALS, *, budget_ms: float = UNNOTICED_MS) -> Figure:
        """Throughput and latency over batch size, with the size marked that is best for each goal.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return draw(
            self.timings,
            self._subject,
            self.recommendations(goals, budget_ms=budget_ms).values(),
            budget_ms if "latency" in goals else None,
        )

    def plot(
        self,
        path: str | os.PathLike[str],
        goals: Sequence[Goal] = GOALS,
        *,
        budget_ms: float = UNNOTICED_MS,
    ) -> None:
        """Save :meth:`figure` as .png or .svg.

        Raises:
            ImportError: if matplotlib is not installed.
            ValueError: if ``path`` has another suffix.
            OSError: if it cannot be written.
        """
        figures.save(self.figure(goals, budget_ms=budget_ms), path)

    def section(self, goals: Sequence[Goal] = GOALS, *, budget_ms: float = UNNOTICED_MS) -> Section:
        """The sweep as a part of a report."""
        first = self.timings[0]
        return Section(
            title="Batch sizes",
            setup=(
                f"{self._subject}. Texts: {first.texts:,}, rounds: {len(first.round_seconds)}. "
                "Total time is the median of the rounds, latency is that of full batches."
            ),
            cells=self._cells(),
            conclusions=self.conclusions(goals, budget_ms=budget_ms),
            environment=self.environment,
            draw=partial(self.figure, goals, budget_ms=budget_ms),
        )


def sweep(
    model: Any,
    texts: Iterable[str] | None = None,
    batch_sizes: Iterable[int] = BATCH_SIZES,
    rounds: int = 3,
    *,
    model_name: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Sweep:
    """Measure a model's throughput, latency and memory with batches of several sizes.

    Each batch is one call of the model, with ``batch_size`` set: ``encode(batch)`` alone would cut
    a batch of 256 into eight of its default, 32, and measure those. Texts are sorted by length,
    longest first, as ``encode`` sorts them within a call. A cache is never measured.

    Args:
        model: a ``SentenceTransformer``; the name or path of one; a ``CachedEncoder``, whose model
            is measured; or any function from ``list[str]`` to (n, dim) vectors.
        texts: what to embed; None is 1,000 short sentences.
        batch_sizes: sizes to measure. Those above the number of texts are left out, as there would
            be no such batch.
        rounds: how often each size computes all texts, interleaved with the others.
        model_name: what to call the model; None is its own name.
        device: where the model runs; None is where it is, or for a name or path the best there is.
        progress: whether to show a progress bar on stderr.

    Raises:
        TypeError: if ``model`` is nothing that can embed texts, or ``texts`` is one text.
        ValueError: if there is no text, no round, or no size from 1 to the number of texts.
        ModelOutputError: if a function returns something that is not a vector per text.

    >>> def lengths(texts):
    ...     return [[float(len(text))] for text in texts]
    >>> measured = sweep(lengths, ["a", "bb", "ccc", "dddd"], batch_sizes=(1, 2, 8))
    >>> [timing.batch_size for timing in measured.timings]
    [1, 2]
    """
    if isinstance(texts, str):
        raise TypeError("texts is a list of texts, not one text")
    longest_first = sorted(SENTENCES if texts is None else texts, key=len, reverse=True)
    if not longest_first:
        raise ValueError("there is no text to measure with")
    if rounds < 1:
        raise ValueError(f"rounds is a number from 1 on, not {rounds}")
    wanted = sorted(set(batch_sizes))
    sizes = [size for size in wanted if size <= len(longest_first)]
    if not sizes or sizes[0] < 1:
        raise ValueError(
            f"batch sizes go from 1 to the number of texts, {len(longest_first)}; not {wanted}"
        )
    name, where, compute = _bare(model, device)
    name = model_name or name
    if where is None:
        as_vectors(compute(longest_first[:1]), 1, name)
    total = sum(sizes) + rounds * len(sizes) * len(longest_first)
    # Here, as it warns at its import where a notebook lacks ipywidgets.
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="Texts", unit="text", disable=not progress) as bar:
        timings = measure(
            compute, longest_first, sizes, rounds, device=where, progressed=bar.update
        )
    return Sweep(name, where, environment(), tuple(timings))


def _bare(model: Any, device: str | None) -> tuple[str, str | None, Callable[[list[str]], Any]]:
    """A model's name, its device (None for a function), and what embeds one batch."""
    if isinstance(model, CachedEncoder):
        model = model.model
    if isinstance(model, str | os.PathLike):
        model = _load(os.fspath(model), device)
    if hasattr(model, "encode"):
        if device is not None:
            model.to(device)
        return fingerprint.model_name(model), str(model.device), partial(_encode, model)
    if callable(model) and not inspect.iscoroutinefunction(model):
        return getattr(model, "__name__", type(model).__name__), None, model
    raise TypeError(
        "model is a SentenceTransformer, a name or path of one, a CachedEncoder, or a function "
        f"from list[str] to vectors, not {'async' if callable(model) else type(model).__name__}"
    )


def _load(name_or_path: str, device: str | None) -> Any:
    # Not through a LazyModel: that would note the model in a store.
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise ImportError(
            f"loading {name_or_path} needs an extra: pip install 'embstore[sentence-transformers]'"
        ) from error
    return SentenceTransformer(name_or_path, device=device)


def _encode(model: Any, batch: list[str]) -> Any:
    # As numpy, on the CPU: so the time includes all of an accelerator's work.
    return model.encode(
        batch, batch_size=len(batch), convert_to_numpy=True, show_progress_bar=False
    )


def _row(timing: BatchTiming) -> tuple[str, ...]:
    spread = f"({min(timing.round_seconds):,.2f} to {max(timing.round_seconds):,.2f})"
    latencies = (timing.mean_ms, timing.p50_ms, timing.p95_ms, timing.p99_ms)
    return (
        str(timing.batch_size),
        f"{timing.seconds:,.2f} {spread}",
        f"{timing.throughput:,.0f}",
        f"{timing.batches:,}",
        *(f"{latency:,.1f}" for latency in latencies),
        "-" if timing.peak_bytes is None else format_bytes(timing.peak_bytes),
    )
