"""What a cache gains: the same call without one, with an empty one, and with a full one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embstore.batching import bars
from embstore.batching.environment import environment
from embstore.batching.formats import format_factor, format_seconds
from embstore.batching.phases import (
    COLD,
    NEW_PROCESS,
    WARM,
    WHOLE_PROCESS,
    CacheRun,
    Phase,
    measure,
)
from embstore.batching.report import Section
from embstore.batching.results import Result, data_frame
from embstore.batching.subject import opened
from embstore.batching.sweeps import SENTENCES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOADED = "the model was given loaded, and a new process needs its name or path"


def notebook_texts() -> list[str]:
    """500 sentences of nearly one length, of which 80 repeat an earlier one."""
    return [SENTENCES[i % 100] if i % 5 == 0 else SENTENCES[i] for i in range(500)]


@dataclass(frozen=True)
class CacheBenchmark(Result):
    """What was measured; make one with :func:`cache_benchmark`.

    Attributes:
        model: what the model is called.
        load_seconds: what loading it took, in seconds, torch's import included if that was new;
            part of no phase. None if it was given loaded.
        left_out: why no new process was measured; None if one was.
        environment: machine and libraries, by name.
        runs: one for each list of texts.
    """

    model: str
    load_seconds: float | None
    left_out: str | None
    environment: Mapping[str, str]
    runs: tuple[CacheRun, ...]

    def conclusions(self) -> list[str]:
        """What follows from the figures, each a sentence."""
        return [sentence for run in self.runs for sentence in _conclusions(run)]

    def _cells(self) -> list[tuple[str, ...]]:
        header = ("texts: phase", "median", "min", "max", "speed-up")
        return [
            (*header, "hits", "computed", "repeats", "hit rate"),
            *(_row(run, phase) for run in self.runs for phase in run.phases),
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each phase and round.

        Raises:
            ImportError: if pandas is not installed.
        """
        return data_frame(
            {
                "texts": run.name,
                "phase": phase.name,
                "round": number,
                "seconds": seconds,
                "hits": phase.hits,
                "misses": phase.misses,
                "deduplicated": phase.deduplicated,
            }
            for run in self.runs
            for phase in run.phases
            for number, seconds in enumerate(phase.seconds)
        )

    def to_json(self) -> str:
        """Everything, as one JSON document; :meth:`from_json` reads it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, document: str | bytes) -> CacheBenchmark:
        """A benchmark that was saved with :meth:`to_json`.

        Raises:
            ValueError: if it is no such document.
        """
        try:
            found = json.loads(document)
            runs = tuple(
                CacheRun(**{**run, "phases": tuple(map(Phase.from_dict, run["phases"]))})
                for run in found["runs"]
            )
            return cls(**{**found, "runs": runs})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"this is no cache benchmark that to_json() has saved: {error!r}"
            ) from error

    def figure(self) -> Figure:
        """Bars of seconds on a log axis, a panel for each list of texts.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return bars.draw(
            {
                f"{run.name}: {run.texts:,} texts, {run.distinct:,} distinct": run.phases
                for run in self.runs
            }
        )

    def section(self) -> Section:
        """The benchmark as a part of a report."""
        rounds = len(self.runs[0].phases[0].seconds)
        setup = f"{self.model}: each phase is one call with all texts, {rounds} rounds."
        if self.load_seconds is not None:
            setup += f" Loading the model took {format_seconds(self.load_seconds)} before."
        if self.left_out is not None:
            setup += f" No new process: {self.left_out}."
        return Section(
            title="With and without a cache",
            setup=setup,
            cells=self._cells(),
            conclusions=self.conclusions(),
            environment=self.environment,
            draw=self.figure,
        )


def cache_benchmark(
    model: Any,
    texts: Sequence[str] | Mapping[str, Sequence[str]] | None = None,
    *,
    rounds: int = 3,
    model_name: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> CacheBenchmark:
    """Embed texts without a cache, with a cold one, with a warm one, and in a new process.

    Each phase is one call of ``encode`` with all the texts. The phases take turns, round by round,
    so that a machine that gets slower slows them all. The cache is a temporary store, emptied
    before each cold call. A new process is given the model's name and the store, nothing else.

    Args:
        model: as in :class:`CachedEncoder`. Only of one that is given by its name or path, a new
            process can be measured.
        texts: what to embed; or several such lists, by name; None is the 500 sentences of
            :func:`notebook_texts`.
        rounds: how often each phase is measured.
        model_name: what to call the model in the store; required for a function.
        device: where the model runs; None is the best there is.
        progress: whether to show a progress bar on stderr.

    Raises:
        TypeError: if ``model`` is nothing that can embed texts, or ``texts`` is one text.
        ValueError: if there is no text or no round, or for a function without ``model_name``.
        EmbstoreError: if the store or the new process fails.

    >>> def lengths(texts):
    ...     return [[float(len(text))] for text in texts]
    >>> measured = cache_benchmark(lengths, ["a", "bb", "a"], rounds=1, model_name="lengths")
    >>> [(phase.name, phase.hits, phase.misses) for phase in measured.runs[0].phases]
    [('no cache', 0, 3), ('cold cache', 1, 2), ('warm cache', 3, 0)]
    """
    if isinstance(texts, str):
        raise TypeError("texts is a list of texts, not one text")
    if texts is None:
        texts = {"notebook": notebook_texts()}
    lists = texts if isinstance(texts, Mapping) else {"texts": texts}
    if not lists or not all(map(len, lists.values())):
        raise ValueError("there is no text to measure with")
    if rounds < 1:
        raise ValueError(f"rounds is a number from 1 on, not {rounds}")
    # Here, as it warns at its import where a notebook lacks ipywidgets.
    from tqdm.auto import tqdm

    with (
        opened(model, model_name=model_name, device=device) as subject,
        tqdm(total=rounds * len(lists), desc="Rounds", disable=not progress) as bar,
    ):
        runs = tuple(
            measure(name, list(each), subject, rounds, bar.update) for name, each in lists.items()
        )
        left_out = _LOADED if subject.in_new_process is None else None
        return CacheBenchmark(subject.name, subject.load_seconds, left_out, environment(), runs)


def _row(run: CacheRun, phase: Phase) -> tuple[str, ...]:
    return (
        f"{run.name}: {phase.name}",
        *map(format_seconds, (phase.median, min(phase.seconds), max(phase.seconds))),
        format_factor(run.speedup(phase)),
        f"{phase.hits:,}",
        f"{phase.misses:,}",
        f"{phase.deduplicated:,}",
        f"{phase.hit_rate:.1%}",
    )


def _conclusions(run: CacheRun) -> list[str]:
    cold, warm = run.phase(COLD), run.phase(WARM)
    repeated, part = 1 - run.distinct / run.texts, 1 / run.speedup(cold)
    found = [
        f"{run.name}: {repeated:.0%} are repeats; a cold cache takes {part:.0%} of the time.",
        f"{run.name}: a warm cache is {run.speedup(warm):,.0f} times as fast as none.",
    ]
    if run.torch_imported is not None:
        new, whole = run.phase(NEW_PROCESS), run.phase(WHOLE_PROCESS)
        torch = "imports torch" if run.torch_imported else "does not import torch"
        found.append(
            f"{run.name}: a new process computes {new.misses:,} texts and {torch}; its call is "
            f"{run.speedup(new):,.0f} times as fast as without a cache, and the whole process, "
            f"Python's start included, {run.speedup(whole):,.1f} times."
        )
    same = "are" if run.same_bits else "are NOT"
    found.append(
        f"{run.name}: warm vectors {same} the cold ones bit for bit; those differ from the bare "
        f"model's by {run.largest_difference:.1g} of their length at most."
    )
    return found
