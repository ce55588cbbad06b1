"""The batches that a model computes fastest here: found on a user's own misses, then known.

The trials are the user's work: what they compute is stored and returned. What they can cost is the
time by which the sizes that lose are slower, on the small share of the texts they are tried on.
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from embstore import machine
from embstore.fingerprint import ModelProfile
from embstore.keys import canonical_json
from embstore.lazily import Lazily
from embstore.share import Work
from embstore.store import EmbeddingStore
from embstore.token_batches import UPSTREAM_BATCH, BatchLimit

if TYPE_CHECKING:
    import statistics
else:
    statistics = Lazily("statistics")

_LOG = logging.getLogger(__name__)

CHUNK_TEXTS = 256
"""Texts computed between two commits: what a crash can cost."""

_MOST_CHUNK_TEXTS = 1024
"""The same where a budget of tokens is large. The texts may be long ones."""

_ROUNDS = 3
_SHARE = 4
"""At most every fourth text of a call is for trials; a call with too few for that has none."""
_CLEARLY_BETTER = 1.03
"""Another size is preferred only if it is faster by more than such measurements are off."""
_CLEARLY_WORSE = 0.85
"""A size is tried no further once a round shows it that slow."""

Unit = Literal["tokens", "texts"]
Chunk = tuple[list[int], BatchLimit]
"""Positions of texts to compute before the next commit, and how they are cut into batches."""

_START = {"cpu": 1024, "other": 8192, "texts": 512}
"""Where the search begins. Padded tokens, on 2 cores: mixed paragraphs take 0.53 of upstream's time
with 1,024, 0.58 with 2,048, 0.60 with 3,072, sentences of one length 0.98, 0.98, 1.01. Accelerators
want more. Texts: for models without tokens, which are much faster."""
_LEAST = {"tokens": 256, "texts": 16}
_MOST_TEXTS = 4096


@dataclass(frozen=True)
class Tuned:
    """What is known of a model on a device of a machine.

    Attributes:
        size: what a batch holds, tokens or texts.
        settled: whether neither half nor twice as much was faster.
    """

    size: int
    settled: bool


@dataclass(frozen=True)
class Place:
    """A model on a device of a machine: what a size is tuned for.

    Attributes:
        key: names it in a store.
        unit: of its sizes.
        start: the size before anything is known.
        most: the largest size to try: no batch needs more memory than upstream's default would.
        longest: tokens after which a text is cut.
        described: the model and what computes, for people.
    """

    key: bytes
    unit: Unit
    start: int
    most: int
    longest: int
    described: tuple[str, str] = ("", "")

    @classmethod
    def of(cls, model: Any, profile: ModelProfile, device: str | None) -> Place:
        """Where a SentenceTransformer computes.

        Args:
            model: the SentenceTransformer.
            profile: its profile.
            device: as given to ``encode``; None is the model's own.
        """
        where = str(model.device if device is None else device)
        # What cuts no text (static embeddings, bags of words) computes nothing token by token.
        unit: Unit = "texts" if profile.max_seq_length is None else "tokens"
        longest = profile.max_seq_length or 10**9
        start, most = _bounds(unit, longest, where)
        described = [
            "batches",
            unit,
            profile.fingerprint,
            profile.dtype,
            machine.accelerator(where),
            machine.threads() if where == "cpu" else None,
        ]
        return cls(
            key=hashlib.blake2b(canonical_json(described), digest_size=16).digest(),
            unit=unit,
            start=start,
            most=most,
            longest=longest,
            described=(profile.name, machine.accelerator(where)),
        )


def _bounds(unit: Unit, longest: int, device: str) -> tuple[int, int]:
    """Where a search begins, and the largest size it may come to."""
    kind = unit if unit == "texts" else "cpu" if device == "cpu" else "other"
    most = UPSTREAM_BATCH * longest if unit == "tokens" else _MOST_TEXTS
    return min(_START[kind], most), most


def texts_for_trials(
    texts: Sequence[str], *, device: str = "cpu", max_seq_length: int | None = 256
) -> int:
    """How many texts a call needs for trials, if nothing is known of the place yet.

    Args:
        texts: a sample, at least one.
        device: where the model computes.
        max_seq_length: tokens after which it cuts a text; None if it cuts none.
    """
    unit: Unit = "texts" if max_seq_length is None else "tokens"
    longest = max_seq_length or 10**9
    start, most = _bounds(unit, longest, device)
    place = Place(b"", unit, start, most, longest)
    sizes = _candidates(place, start)
    needed = _SHARE * (1 + _ROUNDS * len(sizes)) * max(sizes)
    a_text = _tokens(place, texts) / len(texts) if unit == "tokens" else 1
    return math.ceil(needed / a_text)


class Tuner:
    """Remembers sizes: in this process, and in the store for all others."""

    def __init__(self, store: EmbeddingStore) -> None:
        self._store = store
        self._settled: dict[bytes, Tuned] = {}

    def recall(self, place: Place) -> Tuned:
        """What is known of a place; where nothing is, its start."""
        if place.key in self._settled:
            return self._settled[place.key]
        found = self._store.get_identity(place.key) or {}
        size, settled = found.get("size"), found.get("settled") is True
        if not isinstance(size, int) or not _LEAST[place.unit] <= size <= place.most:
            return Tuned(place.start, settled=False)
        tuned = Tuned(size, settled)
        if settled:
            self._settled[place.key] = tuned
        return tuned

    def record(self, place: Place, tuned: Tuned, speeds: dict[int, float]) -> None:
        """Remember what trials have shown.

        Args:
            place: where.
            tuned: what they ended in.
            speeds: of each size tried, relative to the one known before.
        """
        if tuned.settled:
            self._settled[place.key] = tuned
            _LOG.info("batches of %r hold %d %s", place.described[0], tuned.size, place.unit)
        self._store.put_identity(
            place.key,
            {
                "size": tuned.size,
                "unit": place.unit,
                "settled": tuned.settled,
                "speeds": {str(size): round(speed, 3) for size, speed in speeds.items()},
                "model": place.described[0],
                "on": place.described[1],
            },
        )


class Plan:
    """The chunks of one call, in which order, and how each is to be cut into batches.

    Iterate over it, compute each chunk before the next is taken, and say what it :meth:`took`.

    Args:
        work: the texts to compute, longest first.
        limit: of their batches.
        texts: how many to compute between two commits, about: always whole batches, so that cutting
            a call into chunks leaves upstream's batches as they are.
    """

    def __init__(self, work: Work, limit: BatchLimit, texts: int = CHUNK_TEXTS) -> None:
        self._work = work
        self._limit = limit
        self._texts_a_chunk = texts
        self._seconds = 0.0

    def took(self, seconds: float) -> None:
        """The time that computing the last chunk took."""
        self._seconds = seconds

    def __iter__(self) -> Iterator[Chunk]:
        size = self._limit.size
        # How many texts some tokens are is not known, but few have less than eight.
        batch = size if self._limit.unit == "texts" else max(1, min(size // 8, _MOST_CHUNK_TEXTS))
        step = batch * max(1, self._texts_a_chunk // batch)
        while chunk := self._work.take(step, batch if self._limit.unit == "texts" else 1):
            yield chunk, self._limit


class TunedPlan(Plan):
    """A plan whose limit is the one known for a place; where it is not, trials come first.

    Args:
        tuner: remembers.
        place: where the model computes.
        work: the texts to compute, longest first.
        texts: all texts of the call.
    """

    def __init__(self, tuner: Tuner, place: Place, work: Work, texts: Sequence[str]) -> None:
        self._tuned = tuner.recall(place)
        super().__init__(work, BatchLimit(self._tuned.size, place.unit))
        self._tuner = tuner
        self._place = place
        self._texts = texts

    def __iter__(self) -> Iterator[Chunk]:
        tuned = self._tuned
        while not tuned.settled:
            sizes = _candidates(self._place, tuned.size)
            parts = self._deal(1 + _ROUNDS * len(sizes), max(sizes))
            if not parts:
                break
            speeds = yield from self._try(sizes, tuned.size, parts)
            if speeds is None:
                break
            best = max(speeds, key=speeds.__getitem__)
            better = speeds[best] > _CLEARLY_BETTER
            tuned = Tuned(best if better else tuned.size, settled=not better)
            self._tuner.record(self._place, tuned, speeds)
            self._limit = BatchLimit(tuned.size, self._place.unit)
        yield from super().__iter__()

    def _deal(self, count: int, amount: int) -> list[list[int]]:
        """``count`` parts of the texts, each of ``amount`` tokens (or texts), of all lengths alike.

        None, if together they were more than one in ``_SHARE`` of the texts.
        """
        ahead = self._work.ahead
        there = self._tokens(ahead) if self._place.unit == "tokens" else len(ahead)
        every = int(there // (count * amount))
        sample = ahead[:: max(1, every)]
        if every < _SHARE or len(sample) < count:
            return []
        return [sample[number::count] for number in range(count)]

    def _tokens(self, positions: list[int]) -> float:
        return _tokens(self._place, (self._texts[position] for position in positions))

    def _try(
        self, sizes: list[int], known: int, parts: list[list[int]]
    ) -> Generator[Chunk, None, dict[int, float] | None]:
        """Compute parts in batches of each of the sizes in turn.

        Returns:
            The speed of each size relative to that of the size ``known`` before; None if other
            workers are at work on the same texts, and one measures them as well.
        """
        # Not timed: memory touched for the first time is dear.
        yield from self._time(parts.pop(), known)
        paces: dict[int, list[float]] = {size: [] for size in sizes}
        for number in range(_ROUNDS):
            for size in [*sizes[number:], *sizes[:number]]:
                pace = yield from self._time(parts.pop(), size)
                if pace is None or self._work.others:
                    return None
                paces[size].append(pace)
            quickest = min(paces[size][-1] for size in sizes)
            sizes = [
                size
                for size in sizes
                if size == known or paces[size][-1] * _CLEARLY_WORSE < quickest
            ]
        return {
            size: statistics.median(
                known_pace / pace for known_pace, pace in zip(paces[known], taken, strict=False)
            )
            for size, taken in paces.items()
        }

    def _time(self, part: list[int], size: int) -> Generator[Chunk, None, float | None]:
        """Compute what of a part is this worker's; the seconds that a token took, if any was."""
        part = self._work.choose(part)
        if not part:
            return None
        yield part, BatchLimit(size, self._place.unit)
        return self._seconds / self._tokens(part)


def _candidates(place: Place, size: int) -> list[int]:
    """Half as much, as much, and twice as much, within bounds."""
    near = (size // 2, size, size * 2)
    return [each for each in near if each == size or _LEAST[place.unit] <= each <= place.most]


def _tokens(place: Place, texts: Iterable[str]) -> float:
    """About how many tokens these texts have: one for each four characters, and two more."""
    return sum(min(len(text) / 4 + 2, place.longest) for text in texts)
