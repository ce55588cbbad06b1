"""The index beside a plain dict: whatever it holds, in whatever parts it came."""

from __future__ import annotations

import random
from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embstore.backends.disk import index
from embstore.backends.disk.index import DigestIndex, Run, merge, sort

TOP = 2**64 - 1
ENDS = [0, 1, 2**63 - 1, 2**63, TOP - 1, TOP]
BASE = 0x123456789ABC0000

HALF = st.one_of(
    st.sampled_from(ENDS),
    st.integers(BASE, BASE + 40),  # the same but for bits that sorting uses for the place
    st.integers(0, TOP),
    st.integers(0, 7).map(lambda bits: bits << 61),
)
LOW = st.sampled_from([0, 1, 2, TOP])
DIGEST = st.tuples(HALF, LOW)
PARTS = st.lists(st.lists(DIGEST, max_size=40), max_size=8)


def as_array(digests: list[tuple[int, int]]) -> np.ndarray:
    return np.array(digests, np.uint64).reshape(-1, 2)


class Model:
    """What must be found: of each half the rows that have it."""

    def __init__(self) -> None:
        self.rows: dict[int, list[int]] = defaultdict(list)
        self.count = 0

    def extend(self, digests: list[tuple[int, int]]) -> None:
        for high, low in digests:
            if high or low:
                self.rows[high].append(self.count)
            self.count += 1


def proposed(of: DigestIndex, digest: tuple[int, int]) -> list[int]:
    """All rows proposed for a digest, in the order they are."""
    query = as_array([digest])
    rows = [of.find(query).item()]
    while rows[-1] >= 0:
        rows.append(of.after(query, np.array(rows[-1:])).item())
        assert len(rows) < 1000
    return rows[:-1]


def agree(of: DigestIndex, model: Model, others: list[int]) -> None:
    """Assert that both have the same rows, and nothing else."""
    # The half behind the last entry is proposed for the first row, which is then read: allowed.
    halves = [*model.rows, *others, *ENDS]
    query = as_array([(half, 9) for half in halves])
    found = of.find(query).tolist()
    for half, row in zip(halves, found, strict=True):
        expected = model.rows.get(half, [])
        if half == TOP and row == 0 and expected[:1] != [0]:
            continue
        assert row == (expected[0] if expected else -1)
        assert of.find_one(half) == row
        alone = as_array([(half, 9)])
        assert not (expected and of.has_none(alone)), "one look may err, but not so"
        assert [one for one in proposed(of, (half, 9)) if one] == [one for one in expected if one]
    absent = [half for half in halves if half not in model.rows]
    assert of.has_none(query) <= (not model.rows)
    if absent and not model.rows:
        assert of.has_none(as_array([(half, 9) for half in absent if half != TOP]))
    # All at once, as a batch asks for them.
    rows, asked = of.find(query), np.arange(len(halves))
    seen = defaultdict(list)
    while len(asked := asked[rows[asked] >= 0]):
        for place in asked.tolist():
            seen[place].append(rows[place])
        rows[asked] = of.after(query[asked], rows[asked])
    for place, half in enumerate(halves):
        if half != TOP:
            assert seen[place] == model.rows.get(half, [])


@pytest.mark.parametrize("recent", [0, 3, 50, 10_000])
@settings(max_examples=40, deadline=None)
@given(parts=PARTS, others=st.lists(HALF, max_size=5))
def test_as_a_dict_would(
    recent: int, parts: list[list[tuple[int, int]]], others: list[int]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index, "RECENT", recent)
        of, model = DigestIndex(), Model()
        for part in parts:
            of.extend(as_array(part), model.count)
            model.extend(part)
            if part:
                agree(of, model, others)
        agree(of, model, others)
        of.in_memory(model.count)
        agree(of, model, others)


@settings(max_examples=40, deadline=None)
@given(parts=PARTS, others=st.lists(HALF, max_size=5), data=st.data())
def test_runs_that_are_taken_over(
    parts: list[list[tuple[int, int]]], others: list[int], data: st.DataObject
) -> None:
    """Whatever they cover of what is known, and more."""
    digests = [digest for part in parts for digest in part]
    known = data.draw(st.integers(0, len(digests)))
    ends = data.draw(
        st.lists(st.integers(1, len(digests)), unique=True) if digests else st.just([])
    )
    of, model = DigestIndex(), Model()
    of.extend(as_array(digests[:known]), 0)
    model.extend(digests[:known])
    kept, first = [], 0
    for stop in sorted(ends):
        each = as_array(digests[first:stop])
        there = np.flatnonzero(each.any(axis=1))
        kept.append(sort(first, stop, each[there, 0], there + first))
        first = stop
    if kept:
        of.take_over(kept, known)
        assert of.kept_rows == first
        model.extend(digests[known:first])
    known = max(known, first)
    of.extend(as_array(digests[known:]), known)
    model.extend(digests[known:])
    agree(of, model, others)
    assert [run.first for run in of.in_memory(len(digests))][:1] in ([], [first])
    agree(of, model, others)


@settings(max_examples=100, deadline=None)
@given(halves=st.lists(HALF, max_size=60), cut=st.integers(0, 60))
def test_a_run_is_in_order_and_so_is_a_merged_one(halves: list[int], cut: int) -> None:
    rows = np.arange(len(halves))
    high = np.array(halves, np.uint64)
    expected = sorted(zip(halves, rows.tolist(), strict=True))
    one = sort(0, len(halves), high, rows)
    cut = min(cut, len(halves))
    two = merge(
        [sort(0, cut, high[:cut], rows[:cut]), sort(cut, len(halves), high[cut:], rows[cut:])]
    )
    for run in (one, two):
        assert list(zip(run.high[:-1].tolist(), run.rows[:-1].tolist(), strict=True)) == expected
        assert (run.first, run.stop, run.entries) == (0, len(halves), len(halves))
        parts = [[run.part(part, count) for part in range(count)] for count in (1, 2, 8)]
        for each in parts:
            assert np.concatenate([high for high, _ in each]).tolist() == sorted(halves)


def test_halves_that_differ_in_nothing_but_the_low_bits() -> None:
    """The worst there is for the way it sorts: all in the wrong order."""
    high = np.arange(BASE + 500, BASE, -1, dtype=np.uint64)
    run = sort(0, 500, high, np.arange(500))
    assert (run.high[:-1] == np.sort(high)).all()
    assert (run.rows[:-1] == np.arange(500)[::-1]).all()


def test_many_at_random() -> None:
    rng = np.random.default_rng(0)
    digests = rng.integers(1, 2**64, (60_000, 2), np.uint64, endpoint=False)
    digests[rng.choice(60_000, 500)] = 0
    again = rng.choice(60_000, 500)
    digests[again] = digests[(again * 7) % 60_000]
    of, first, chance = DigestIndex(), 0, random.Random(0)
    model = Model()
    while first < len(digests):
        size = chance.choice([1, 5, 256, 9000])
        of.extend(digests[first : first + size], first)
        first += size
    model.extend([tuple(digest) for digest in digests.tolist()])
    rows = of.find(digests)
    for digest, row in zip(digests.tolist(), rows.tolist(), strict=True):
        assert row == model.rows.get(digest[0], [-1])[0] or not any(digest)
    sample = chance.sample(range(60_000), 3000)
    assert [of.find_one(digests.item(each, 0)) for each in sample] == rows[sample].tolist()
    assert (of.find(rng.integers(1, 2**64, (1000, 2), np.uint64, endpoint=False)) == -1).all()


def test_what_is_extended_again_after_an_interrupt() -> None:
    """The same rows once more, as when what followed did not happen."""
    for recent in (0, 5, 1000):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(index, "RECENT", recent)
            of, model = DigestIndex(), Model()
            for part in ([(1, 1), (2, 1), (1, 1)], [(2, 2), (3, 1), (1, 5)], [(3, 1), (4, 4)]):
                for _ in range(2):
                    of.extend(as_array(part), model.count)
                model.extend(part)
            for half, rows in model.rows.items():
                assert of.find_one(half) == rows[0]
                assert list(dict.fromkeys(proposed(of, (half, 9)))) == rows


@pytest.mark.parametrize("copies", [10, 255, 256, 257, 1000])
def test_a_digest_in_many_rows(copies: int) -> None:
    """Deleted and stored again, that often. Its neighbours are found as ever, and its last row."""
    digests = [(BASE, 1)] * copies + [(BASE + 1, 1), (BASE - 1, 1)]
    of, model = DigestIndex(), Model()
    of.extend(as_array(digests), 0)
    model.extend(digests)
    of.in_memory(len(digests))
    for half in (BASE - 1, BASE + 1):
        assert of.find(as_array([(half, 1), (7, 7)])).tolist() == [model.rows[half][0], -1]
        assert of.find_one(half) == model.rows[half][0]
    query = as_array([(BASE, 1), (BASE + 1, 1)])
    assert of.after(query, np.array([copies - 2, 0]))[0] == copies - 1
    assert of.after(query, np.array([0, 0])).tolist() == [1, copies]


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    entries=st.sampled_from([0, 1, 2, 3, 17, 300]),
    width=st.sampled_from(["<u4", "<u8"]),
)
def test_garbage_proposes_something_or_nothing(seed: int, entries: int, width: str) -> None:
    """Whatever stands in a file, nothing is read outside of it, or of rows it is not of."""
    rng = np.random.default_rng(seed)
    bits = index.bucket_bits(entries)
    high = rng.integers(0, 2**64, entries + 1, np.uint64, endpoint=False)
    rows, starts = (
        np.frombuffer(rng.bytes(count * np.dtype(width).itemsize), width)
        for count in (entries + 1, 2**bits)
    )
    run = Run(10, 10 + entries, high, rows, starts)
    query = np.concatenate([high, high + np.uint64(1), np.array(ENDS, np.uint64)])
    found = run.find(query)
    assert ((found == -1) | (found >= 10) & (found < 10 + entries)).all()
    behind = run.after(query, found)
    assert ((behind == -1) | (behind >= 10) & (behind < 10 + entries)).all()
    for half in query.tolist():
        assert -1 <= run.find_one(half) < 10 + entries
