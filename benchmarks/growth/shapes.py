"""Stores of one size, but of other shapes: many commits, many namespaces, many writers."""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from benchmarks.corpus import NAMESPACE, sentence
from benchmarks.growth import reading, writing
from benchmarks.growth.apart import Figures, call, call_at_once, median_of
from benchmarks.growth.stored import batches, bytes_on_disk
from benchmarks.growth.timing import Calls, in_turns, memory, seconds_of
from embstore import EmbeddingStore, Namespace

_WRITERS = 4
_IN_NAMESPACE = 100
_MOST_SINGLES = 20_000


def shapes(folder: Path, rows: int, dim: int) -> Iterator[tuple[str, Figures]]:
    """The name and the figures of each."""
    singles = min(_MOST_SINGLES, rows // 5)
    namespaces = max(1, rows // _IN_NAMESPACE)
    made: list[tuple[str, Callable[[Path], Figures]]] = [
        ("batches of 256", lambda store: _plain(store, rows, dim)),
        (f"{singles:,} single texts", lambda store: _singles(store, singles, dim)),
        (f"{_WRITERS} writers at once", lambda store: _at_once(store, rows, dim)),
        (
            f"{namespaces:,} namespaces of {_IN_NAMESPACE}",
            lambda store: (
                call(many_namespaces, location=str(store), count=namespaces, dim=dim)
                | median_of(3, read_namespaces, location=str(store), count=namespaces)
            ),
        ),
    ]
    for name, measure in made:
        store = folder / "shape"
        figures = measure(store)
        figures["times_raw"] = bytes_on_disk(store) / (figures["rows"] * dim * 4)
        figures["files"] = sum(file.is_file() for file in store.rglob("*"))
        figures |= call(care, location=str(store))
        figures.pop("process")
        shutil.rmtree(store)
        yield name, figures


def _plain(store: Path, rows: int, dim: int) -> Figures:
    written = call(writing.grow, location=str(store), start=0, stop=rows, dim=dim, singles=0)
    return {"rows": rows} | written | _read(store, rows)


def _singles(store: Path, rows: int, dim: int) -> Figures:
    grow = {"location": str(store), "start": 0, "stop": rows, "dim": dim, "singles": rows - 1}
    written = call(writing.grow, **grow)
    ones = {"put_" + name.removeprefix("put_one_"): value for name, value in written.items()
            if name.startswith("put_one_")}  # fmt: skip
    return {"rows": rows} | ones | _read(store, rows)


def _at_once(store: Path, rows: int, dim: int) -> Figures:
    """The writers make an empty store at the same moment. The mean is that of all together."""
    share = rows // _WRITERS
    place = {"location": str(store), "dim": dim, "begin": time.time() + 2 + rows / 100_000}
    shares = [
        {"start": number * share, "stop": (number + 1) * share, **place}
        for number in range(_WRITERS)
    ]
    written = call_at_once(writing.write_share, shares)
    rows = share * _WRITERS
    return {
        "rows": rows,
        "put_median": sorted(each["put_median"] for each in written)[_WRITERS // 2],
        "put_mean": max(each["ended"] for each in written) / rows,
        "put_slowest": max(each["put_slowest"] for each in written),
    } | _read(store, rows)


def _read(store: Path, rows: int) -> Figures:
    place = {"location": str(store), "rows": rows}
    figures = median_of(3, reading.opening, **place) | median_of(3, reading.first_call, **place)
    return figures | call(reading.batches, **place)


def care(location: str) -> Figures:
    """The registry, a full check, and compacting with one row to drop at most. In a new process."""
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        figures = {"namespaces": seconds_of(store.namespaces)}
        figures["verify"] = seconds_of(store.verify)
        store.delete_many(NAMESPACE, [sentence(0)])
        return figures | {"compact": seconds_of(store.compact)}


def _namespace(number: int) -> Namespace:
    return Namespace("benchmark", extra={"number": number})


def _texts(number: int) -> list[str]:
    first = number * _IN_NAMESPACE
    return [sentence(first + row) for row in range(_IN_NAMESPACE)]


def many_namespaces(location: str, count: int, dim: int) -> Figures:
    """Store 100 texts under each of many namespaces, one put for each. In a new process."""
    calls = Calls()
    [(_, vectors)] = batches(0, _IN_NAMESPACE, dim)
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        for number in range(count):
            namespace, texts = _namespace(number), _texts(number)
            calls.time(partial(store.put_many, namespace, texts, vectors), len(texts))
    return {"rows": count * _IN_NAMESPACE} | calls.figures("put")


def read_namespaces(location: str, count: int) -> Figures:
    """Open, look each namespace up for the first time, and again. In a new process."""
    order = random.Random(0).sample(range(count), count)
    asked = [(_namespace(number), _texts(number)) for number in order]
    missing = [sentence(-number) for number in range(1, 1 + _IN_NAMESPACE)]
    rows = count * _IN_NAMESPACE
    start = time.perf_counter()
    with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
        store.get_many(asked[0][0], asked[0][1][:1])
        figures: Figures = {"open": time.perf_counter() - start}

        def each(texts: list[str] | None = None) -> None:
            for namespace, own in asked:
                store.get_many(namespace, texts or own)

        figures["first"] = seconds_of(each) / rows
        assert store.stats().misses == 0
        sides = {"hits": lambda _: each(), "misses": lambda _: each(missing)}
        return figures | in_turns(sides, items=rows, rounds=5) | memory()
