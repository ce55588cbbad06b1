"""What batching and caching gain, with few and with many repeats among the texts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from embstore.batching import bars
from embstore.batching.corpus import stdlib_paragraphs
from embstore.batching.environment import environment
from embstore.batching.formats import format_factor, format_seconds
from embstore.batching.fresh import call
from embstore.batching.phases import Phase, merge
from embstore.batching.report import Section
from embstore.batching.results import Result, data_frame
from embstore.batching.subject import Subject, opened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHARES = (0.0, 0.2, 0.8)
ONE_BY_ONE = "no optimization"
BATCHING = "batching"
CACHING = "batching + caching"
STORED = "all stored before"
WAYS = (ONE_BY_ONE, BATCHING, CACHING, STORED)

_TEXTS = 200


@dataclass(frozen=True)
class ImpactRow:
    """All ways to embed texts of which some share repeats others.

    Attributes:
        share: repeats per text, 0 to 1.
        texts: how many.
        distinct: how many different ones.
        ways: in the order of ``WAYS``.
    """

    share: float
    texts: int
    distinct: int
    ways: tuple[Phase, ...]


@dataclass(frozen=True)
class Impact(Result):
    """What was measured; make one with :func:`impact`.

    Attributes:
        model: what the model is called.
        call_texts: texts in a call where they are not embedded one by one.
        environment: machine and libraries, by name.
        rows: one for each share of repeats.
    """

    model: str
    call_texts: int
    environment: Mapping[str, str]
    rows: tuple[ImpactRow, ...]

    def conclusions(self) -> list[str]:
        """What follows from the figures, each a sentence."""
        return [_conclusion(row) for row in self.rows]

    def _cells(self) -> list[tuple[str, ...]]:
        return [
            ("repeats", *WAYS),
            *(
                (
                    f"{row.share:.0%}",
                    *(
                        f"{format_seconds(way.median)} ({format_factor(way.speedup(row.ways[0]))})"
                        for way in row.ways
                    ),
                )
                for row in self.rows
            ),
        ]

    def to_pandas(self) -> Any:
        """A DataFrame with a line for each share, way and round.

        Raises:
            ImportError: if pandas is not installed.
        """
        return data_frame(
            {
                "share": row.share,
                "way": way.name,
                "round": number,
                "seconds": seconds,
                "hits": way.hits,
                "misses": way.misses,
            }
            for row in self.rows
            for way in row.ways
            for number, seconds in enumerate(way.seconds)
        )

    def to_json(self) -> str:
        """Everything, as one JSON document; :meth:`from_json` reads it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False)

    @classmethod
    def from_json(cls, document: str | bytes) -> Impact:
        """A table that was saved with :meth:`to_json`.

        Raises:
            ValueError: if it is no such document.
        """
        try:
            found = json.loads(document)
            rows = tuple(
                ImpactRow(**{**row, "ways": tuple(map(Phase.from_dict, row["ways"]))})
                for row in found["rows"]
            )
            return cls(**{**found, "rows": rows})
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"this is no impact table that to_json() has saved: {error!r}"
            ) from error

    def figure(self) -> Figure:
        """Bars of seconds on a log axis, a panel for each share of repeats.

        Raises:
            ImportError: if matplotlib is not installed.
        """
        return bars.draw(
            {
                f"{row.share:.0%} repeats: {row.texts:,} texts, {row.distinct:,} distinct": row.ways
                for row in self.rows
            }
        )

    def section(self) -> Section:
        """The table as a part of a report."""
        first = self.rows[0]
        rounds = len(first.ways[0].seconds)
        return Section(
            title="Batching and caching",
            setup=(
                f"{self.model}: {first.texts:,} texts, {rounds} rounds; one text a call, then "
                f"{self.call_texts} a call: bare, with an empty cache, and with a full one."
            ),
            cells=self._cells(),
            conclusions=self.conclusions(),
            environment=self.environment,
            draw=self.figure,
        )


def impact(
    model: Any,
    texts: Sequence[str] | None = None,
    shares: Sequence[float] = SHARES,
    *,
    rounds: int = 3,
    call_texts: int = 50,
    model_name: str | None = None,
    device: str | None = None,
    progress: bool = False,
) -> Impact:
    """Embed texts one by one, in batches, and in batches with a cache, repeats among them or not.

    The ways take turns, round by round. Batches come in several calls, as they do in a job, so that
    it is the store too that answers repeats, and not only deduplication within a call.

    Args:
        model: as in :class:`CachedEncoder`.
        texts: what to choose from; repeats in it do not count. None is 200 docstring paragraphs of
            the standard library.
        shares: repeats per text, from 0 to below 1; see :func:`repeating`.
        rounds: how often each way is measured.
        call_texts: texts in a call where they are not embedded one by one.
        model_name: what to call the model in the store; required for a function.
        device: where the model runs; None is the best there is.
        progress: whether to show a progress bar on stderr.

    Raises:
        TypeError: if ``model`` is nothing that can embed texts, or ``texts`` is one text.
        ValueError: if there is no text, share or round, or for a function without ``model_name``.
        EmbstoreError: if the store fails.
    """
    if isinstance(texts, str):
        raise TypeError("texts is a list of texts, not one text")
    if texts is None:
        texts = list(dict.fromkeys(stdlib_paragraphs(2 * _TEXTS)))[:_TEXTS]
    if not texts or not shares:
        raise ValueError("there is no text or no share of repeats to measure with")
    if rounds < 1 or call_texts < 1:
        raise ValueError(f"rounds and call_texts are from 1 on, not {rounds} and {call_texts}")
    lists = [repeating(texts, share) for share in shares]
    # Here, as it warns at its import where a notebook lacks ipywidgets.
    from tqdm.auto import tqdm

    with (
        opened(model, model_name=model_name, device=device) as subject,
        tqdm(total=rounds * len(lists), desc="Rounds", disable=not progress) as bar,
    ):
        rows = tuple(
            ImpactRow(
                share=share,
                texts=len(each),
                distinct=len(set(each)),
                ways=_measure(each, subject, rounds, call_texts, bar.update),
            )
            for share, each in zip(shares, lists, strict=True)
        )
        return Impact(subject.name, call_texts, environment(), rows)


def repeating(texts: Sequence[str], share: float, *, seed: int = 0) -> list[str]:
    """As many texts as there are different ones, ``share`` of them repeats, in random order.

    The same arguments give the same list. The different ones are drawn at random, and so are those
    that are repeated.

    Raises:
        ValueError: if ``share`` is not from 0 to below 1.

    >>> sorted(repeating(["a", "b", "c", "d"], 0.5))
    ['b', 'b', 'd', 'd']
    """
    if not 0 <= share < 1:
        raise ValueError(f"a share of repeats is from 0 to below 1, not {share}")
    chance = random.Random(seed)
    different = list(dict.fromkeys(texts))
    repeats = min(round(len(different) * share), len(different) - 1)
    kept = chance.sample(different, len(different) - repeats)
    mixed = kept + chance.choices(kept, k=repeats)
    chance.shuffle(mixed)
    return mixed


def _measure(
    texts: list[str],
    subject: Subject,
    rounds: int,
    call_texts: int,
    progressed: Callable[[], object],
) -> tuple[Phase, ...]:
    subject.bare(texts)  # untimed: memory touched for the first time is dear
    subject.encoder.encode(texts[:1], show_progress_bar=False)
    done = []
    for _ in range(rounds):
        started = time.perf_counter()
        for text in texts:
            subject.bare([text])
        one_by_one = time.perf_counter() - started
        started = time.perf_counter()
        for start in range(0, len(texts), call_texts):
            subject.bare(texts[start : start + call_texts])
        batched = time.perf_counter() - started
        subject.encoder.store.clear()
        done.append(
            [
                Phase(ONE_BY_ONE, (one_by_one,), 0, len(texts), 0),
                Phase(BATCHING, (batched,), 0, len(texts), 0),
                _cached(CACHING, texts, subject, call_texts),
                _cached(STORED, texts, subject, call_texts),
            ]
        )
        progressed()
    return merge(done)


def _cached(name: str, texts: list[str], subject: Subject, call_texts: int) -> Phase:
    calls = [
        call(subject.encoder, texts[start : start + call_texts])[0]
        for start in range(0, len(texts), call_texts)
    ]
    return Phase(
        name,
        (sum(each.seconds for each in calls),),
        hits=sum(each.hits for each in calls),
        misses=sum(each.misses for each in calls),
        deduplicated=sum(each.deduplicated for each in calls),
    )


def _conclusion(row: ImpactRow) -> str:
    _, batching, caching, stored = (format_factor(way.speedup(row.ways[0])) for way in row.ways)
    return (
        f"{row.share:.0%} repeats: against one text a call, batching is {batching} as fast, "
        f"batching and caching {caching}, and if all is stored before {stored}."
    )
