"""Hit rates of memory tiers, against an LRU cache that has nothing of theirs."""

from __future__ import annotations

import random
from collections import OrderedDict
from pathlib import Path

import pytest

from embstore.batching import HitRates, hit_rates
from embstore.batching.hit_rate import SIZES, zipf_stream


def lru_hits(texts: list[str], size: int) -> list[bool]:
    """Which texts a plain LRU cache of ``size`` entries answers."""
    kept: OrderedDict[str, None] = OrderedDict()
    answered = []
    for text in texts:
        answered.append(text in kept)
        kept[text] = None
        kept.move_to_end(text)
        if len(kept) > size:
            kept.popitem(last=False)
    return answered


@pytest.fixture(scope="module")
def stream(paragraphs: list[str]) -> list[str]:
    """3,000 draws from real texts."""
    return zipf_stream(list(dict.fromkeys(paragraphs))[:1000], 3000)


@pytest.mark.parametrize("window", [1, 7, 100, 2999, 3000, 10_000])
def test_every_window_of_every_size_agrees_with_a_plain_lru(stream: list[str], window: int) -> None:
    rates = hit_rates(stream, (1, 2, 10, 100, 999), window=window)
    starts = (0, *rates.ends[:-1])
    assert rates.ends[-1] == 3000
    assert all(
        end - start >= min(window, 3000) for start, end in zip(starts, rates.ends, strict=True)
    )
    for trace in rates.traces:
        expected = lru_hits(stream, trace.size)
        assert rates.hit_rate(trace) == sum(expected) / 3000
        assert trace.hits == tuple(
            sum(expected[start:end]) for start, end in zip(starts, rates.ends, strict=True)
        )


def test_as_many_entries_as_texts_reach_the_ceiling_and_no_fewer(stream: list[str]) -> None:
    distinct = len(set(stream))
    rates = hit_rates(stream, (distinct // 2, distinct, distinct * 2))
    half, all_of_them, more = rates.traces
    assert rates.ceiling == 1 - distinct / len(stream)
    assert rates.hit_rate(half) < rates.ceiling
    assert rates.hit_rate(all_of_them) == rates.hit_rate(more) == rates.ceiling
    assert all_of_them.hits == rates.repeats
    assert rates.over_time(rates.repeats) == rates.over_time(more.hits)


def test_a_cycle_longer_than_the_tier_is_never_answered() -> None:
    rates = hit_rates(list("abcd") * 10, (3, 4))
    assert [rates.hit_rate(trace) for trace in rates.traces] == [0.0, 0.9]


def test_json_and_back(stream: list[str]) -> None:
    rates = hit_rates(stream, stream="some")
    assert HitRates.from_json(rates.to_json()) == rates
    with pytest.raises(ValueError, match="no hit rates"):
        HitRates.from_json('{"traces": []}')


def test_how_it_is_shown(stream: list[str], tmp_path: Path) -> None:
    rates = hit_rates(stream, stream="some")
    assert len(rates.to_pandas()) == len(SIZES) * len(rates.ends)
    text = str(rates.section())
    assert "| no bound" in text
    assert "1,024 entries (1.7 MiB at 384 dimensions) are the fewest measured" in text
    for name in ("rates.png", "rates.svg"):
        rates.plot(tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


@pytest.mark.parametrize(
    "texts, sizes, says",
    [
        (list("abcabc"), (1,), "No size measured answers 95%"),
        (list("abc"), (1,), "No text is a repeat"),
    ],
)
def test_conclusions_of_poor_streams(
    texts: list[str], sizes: tuple[int, ...], says: str, tmp_path: Path
) -> None:
    rates = hit_rates(texts, sizes)
    assert says in str(rates.section())
    rates.plot(tmp_path / "rates.png")  # a picture all the same


def test_the_synthetic_stream_follows_the_law() -> None:
    texts = [str(number) for number in range(100)]
    drawn = zipf_stream(texts, 100_000)
    assert drawn == zipf_stream(texts, 100_000)
    counts = [drawn.count(text) for text in texts[:3]]
    assert counts[0] / counts[1] == pytest.approx(2, rel=0.1)
    assert counts[0] / counts[2] == pytest.approx(3, rel=0.1)


def test_a_text_may_be_any_str() -> None:
    texts = ["", "\0", "\ud800", "é", "e\u0301"] * 2
    random.Random(0).shuffle(texts)
    assert hit_rates(texts, (5,)).ceiling == 0.5


@pytest.mark.parametrize(
    "arguments", [{"texts": []}, {"sizes": ()}, {"sizes": (0, 1)}, {"window": 0}]
)
def test_bad_arguments(arguments: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"no text|sizes|window"):
        hit_rates(**{"texts": ["a"], **arguments})
    with pytest.raises(TypeError, match="not one text"):
        hit_rates("a text")
