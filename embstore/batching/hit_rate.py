"""How many texts of a stream memory tiers of several sizes answer. No model is needed for that."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from embstore.batching.corpus import stdlib_paragraphs
from embstore.batching.environment import environment
from embstore.batching.hit_rate_figure import draw
from embstore.batching.report import Section
from embstore.batching.results import Result, data_frame
from embstore.keys import digest_texts
from embstore.memory import OVERHEAD, MemoryTier
from embstore.stats import format_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZES = (64, 256, 1024, 4096)

_STREAM_TEXTS = 20_000
_WINDOWS = 40
"""Enough to see a trend, few enough to see each."""
_DIM = 384
"""Of all-MiniLM-L6-v2: for what a size takes in bytes."""
_MOST = 0.95


@dataclass(frozen=True)
class Trace:
    """What a memory tier of one size answered.

    Attributes:
        size: most entries it kept.
        hits: texts it answered in each window of the stream.
    """

    size: int
    hits: tuple[int, ...]


@dataclass(frozen=True)
class HitRates(Result):
    """What was counted; make one with :func:`hit_rates`.

    Attributes:
        stream: what the texts were.
        texts: how many.
        distinct: how many different ones.
        ends: texts up to the end of each window.
        traces: one for each size, ascending.
        repeats: texts in each window that were there before: what a tier without bound answers.
        environment: machine and libraries, by name.
    """

    stream: str
    texts: int
    distinct: int
    ends: tuple[int, ...]
    traces: tuple[Trace, ...]
    repeats: tuple[int, ...]
    environment: Mapping[str, str]

    @property
    def ceiling(self) -> float:
        """Repeats per text, 0 to 1: no cache answers more."""
        return sum(self.repeats) / self.texts

    def hit_rate(self, trace: Trace) -> float:
        """Hits per text of the whole stream, 0 to 1."""
        return sum(trace.hits) / self.texts

    def over_time(self, hits: Sequence[int]) -> list[float]:
        """Hits per text of each window, 0 to 1."""
        lengths = np.diff(self.ends, prepend=0).tolist()
        return [count / length for count, length in zip(hits, lengths, strict=True)]

    def conclusions(self) -> list[str]:
        """What follows from the figures, each a sentence."""
        repeats = sum(self.repeats)
        if not repeats:
            return ["No text is a repeat: a cache has nothing to answer."]
        enough = [trace.size for trace in self.traces if sum(trace.hits) >= _MOST * repeats]
        if enough:
            size = f"{enough[0]:,} entries ({_memory(enough[0])} at {_DIM} dimensions)"
            which = f"{size} are the fewest measured that answer {_MOST:.0%} of them."
        else:
            which = f"No size measured answers {_MOST:.0%} of them; the disk tier has the others."
        return [f"{self.ceiling:.1%} of the texts are repeats: no cache answers more.", which]

    def _cells(self) -> list[tuple[str, ...]]:
        repeats = sum(self.repeats)
        rows = [(f"{trace.size:,}", _memory(trace.size), sum(trace.hits)) for trace in self.traces]
        return [
            ("entries", f"memory, {_DIM} dim.", "hits", "hit rate", "of the repeats"),
            *(
                (
                    name,
                    memory,
                    f"{hits:,}",
                    f"{hits / self.texts:.1%}",
                    f"{hits / max(repeats, 1):.1%}",
                )
                for name, memory, hits in [
                    *rows,
                    ("no bound", _memory(self.distinct), repeats),
                ]
            ),
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each size and window.

        Raises:
            ImportError: if pandas is not installed.
        """
        return data_frame(
            {"size": trace.size, "texts": end, "hits": hits, "hit_rate": rate}
            for trace in self.traces
            for end, hits, rate in zip(
                self.ends, trace.hits, self.over_time(trace.hits), strict=True
            )
        )

    def to_json(self) -> str:
        """Everything, as one JSON document; :meth:`from_json` reads it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, document: str | bytes) -> HitRates:
        """What was saved with :meth:`to_json`.

        Raises:
            ValueError: if it is no such document.
        """
        try:
            found = json.loads(document)
            tuples = {name: tuple(found[name]) for name in ("ends", "repeats")}
            traces = tuple(Trace(trace["size"], tuple(trace["hits"])) for trace in found["traces"])
            return cls(**{**found, **tuples, "traces": traces})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"these are no hit rates that to_json() has saved: {error!r}"
            ) from error

    def figure(self) -> Figure:
        """Left, the hit rate over the stream for each size; right, that of the whole over size.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return draw(
            self.ends,
            [(trace.size, self.over_time(trace.hits)) for trace in self.traces],
            self.over_time(self.repeats),
            [(trace.size, self.hit_rate(trace)) for trace in self.traces],
            self.ceiling,
        )

    def section(self) -> Section:
        """The hit rates as a part of a report."""
        return Section(
            title="Hit rates of the memory tier",
            setup=f"{self.stream}: {self.texts:,} texts, {self.distinct:,} distinct, one a call.",
            cells=self._cells(),
            conclusions=self.conclusions(),
            environment=self.environment,
            draw=self.figure,
        )


def hit_rates(
    texts: Iterable[str] | None = None,
    sizes: Iterable[int] = SIZES,
    *,
    window: int | None = None,
    stream: str = "your texts",
) -> HitRates:
    """Send a stream of texts through memory tiers of several sizes, and count what they answer.

    Each text is looked up by itself and, if it is not there, kept: what a store's memory tier
    does when texts come one a call. What it no longer has, the store finds on disk.

    Args:
        texts: the stream, in its order; None is a synthetic one, see :func:`zipf_stream`.
        sizes: most entries, as ``EmbeddingStore(maxsize=...)``.
        window: texts over which a hit rate is taken; the last window has the rest too. None cuts
            the stream into 40 windows.
        stream: what the texts are, for titles.

    Raises:
        TypeError: if ``texts`` is one text.
        ValueError: if there is no text, no size, or a size or window below 1.

    >>> rates = hit_rates(["a", "b", "c", "a", "b", "c"], sizes=(1, 2, 3))
    >>> [rates.hit_rate(trace) for trace in rates.traces], rates.ceiling
    ([0.0, 0.0, 0.5], 0.5)
    """
    if isinstance(texts, str):
        raise TypeError("texts is a list of texts, not one text")
    wanted = sorted(set(sizes))
    if not wanted or wanted[0] < 1:
        raise ValueError(f"sizes are numbers from 1 on, not {wanted}")
    if window is not None and window < 1:
        raise ValueError(f"a window has at least one text, not {window}")
    if texts is None:
        different = list(dict.fromkeys(stdlib_paragraphs()))
        texts = zipf_stream(different, _STREAM_TEXTS)
        stream = f"draws from {len(different):,} docstring paragraphs, popular as Zipf's law has it"
    keys = digest_texts(list(texts), 0)
    if not keys:
        raise ValueError("there is no text to count")
    step = window or max(1, len(keys) // _WINDOWS)
    ends = (*range(step, len(keys) - step + 1, step), len(keys))
    return HitRates(
        stream=stream,
        texts=len(keys),
        distinct=len(set(keys)),
        ends=ends,
        traces=tuple(Trace(size, _hits(keys, size, ends)) for size in wanted),
        repeats=_hits(keys, None, ends),
        environment=environment(),
    )


def zipf_stream(
    texts: Sequence[str], length: int, *, exponent: float = 1.0, seed: int = 0
) -> list[str]:
    """A synthetic stream of real texts: the k-th is drawn with a chance like ``1 / k**exponent``.

    So queries and words are distributed in many logs. The same arguments give the same stream.

    >>> zipf_stream(["a", "b", "c"], 8)
    ['b', 'a', 'a', 'a', 'b', 'c', 'b', 'b']
    """
    chances = np.arange(1, len(texts) + 1) ** -exponent
    drawn = np.random.default_rng(seed).choice(len(texts), length, p=chances / chances.sum())
    return [texts[number] for number in drawn.tolist()]


def _hits(keys: Sequence[bytes], size: int | None, ends: Sequence[int]) -> tuple[int, ...]:
    """What a memory tier of ``size`` entries answers up to each end, since the one before."""
    tier = MemoryTier(limit=None, maxsize=size)
    so_far, answered = 0, []
    for key in keys:
        if tier.get_many([key])[0] is None:
            tier.put_many([(key, b"")])
        else:
            so_far += 1
        answered.append(so_far)
    return tuple(np.diff([answered[end - 1] for end in ends], prepend=0).tolist())


def _memory(size: int) -> str:
    return format_bytes(size * (_DIM * 4 + OVERHEAD))
