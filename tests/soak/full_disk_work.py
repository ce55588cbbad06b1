"""What a process does on a disk that fails at some point, and what must hold of it.

Run by full_disk.py in a forked process for each point; ``disk_fails`` is that of full_disk.c.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreError, StoreWarning
from embstore.errors import StoreRefusedError
from tests.helpers import MODEL, OTHER, check, put, texts_of, vectors_of

T = TypeVar("T")
OnError = Literal["warn", "raise"]

KINDS = {"wrong": "wrong vectors", "missing": "acknowledged rows missing"}
"""What a failed assertion is about, by a word in it."""

PRUNED = Namespace("pruned")
FUNCTION = Namespace("function")
FIRST = texts_of(100)
DOOMED = texts_of(20, 100)
BATCHES = {
    "one text": (MODEL, texts_of(1, 200), 8),
    "one text more": (MODEL, texts_of(1, 201), 8),
    "a large batch": (MODEL, texts_of(500, 1000), 8),
    "a small batch of a new namespace": (OTHER, texts_of(5), 16),
    "a large batch of a new namespace": (OTHER, texts_of(300, 100), 16),
}
"""What is stored: only what is lost of these was lost by a fault."""


@dataclass
class Report:
    """What a process saw.

    Attributes:
        failures: (kind, sentence) of what must not happen.
        kept: names of the batches whose storing was acknowledged.
        warnings: messages of the StoreWarnings.
        errors: number of StoreErrors.
        calls: writes that were counted in all.
        calls_of_opening: and in opening the store for the first time.
    """

    failures: list[tuple[str, str]] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    errors: int = 0
    calls: int = 0
    calls_of_opening: int = 0

    def attempt(self, what: str, work: Callable[[], T], *, raises: bool) -> T | None:
        """Do ``work``; whatever goes wrong is noted. A StoreError is right if it may raise one."""
        try:
            return work()
        except StoreError as error:
            self.errors += 1
            if not raises:
                self.failures.append(("exceptions", f"{what}: {type(error).__name__}: {error}"))
        except AssertionError as error:
            kinds = [kind for word, kind in KINDS.items() if word in str(error)]
            self.failures.append(([*kinds, "unsound"][0], f"{what}: {error}"))
        except BaseException as error:
            self.failures.append(("exceptions", f"{what}: {type(error).__name__}: {error}"))
        return None

    def listen(self, work: Callable[[], None]) -> None:
        """Do ``work`` and note its warnings."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
        for warning in caught:
            if warning.category is StoreWarning:
                self.warnings.append(str(warning.message))
            else:
                self.failures.append(("exceptions", f"a warning: {warning.message}"))


def prepare(location: Path) -> EmbeddingStore:
    """A store with the first rows, and some in a namespace that may be pruned; still open."""
    store = EmbeddingStore(location, on_error="raise")
    put(store, MODEL, [*FIRST, *DOOMED])
    put(store, PRUNED, FIRST)
    return store


def _read_first(store: EmbeddingStore, there: bool) -> None:
    found = check(store, MODEL, FIRST)
    assert all(found) or not there, f"{found.count(False)} of the first rows are missing"


def _function(texts: list[str]) -> npt.NDArray[Any]:
    return vectors_of(FUNCTION, texts)


def _encode(store: EmbeddingStore, texts: list[str]) -> None:
    encoder = CachedEncoder(_function, store, model_name="function")
    vectors = encoder.encode([*texts, *texts[:5]])
    expected = vectors_of(FUNCTION, [*texts, *texts[:5]])
    assert np.array_equal(vectors, expected), "wrong vectors of the encoder"


def work(
    report: Report, location: Path, on_error: OnError, there: bool, calls: Callable[[], int]
) -> None:
    """Everything that writes, and reading.

    Args:
        report: where to note what happens.
        location: the store.
        on_error: of the store.
        there: whether the first rows are there.
    """
    strict = on_error == "raise"

    def opened(**options: Any) -> EmbeddingStore:
        return EmbeddingStore(location, on_error=on_error, timeout=2, memory_limit=0, **options)

    store = report.attempt("opening", opened, raises=strict)
    report.calls_of_opening = calls()
    if store is None:
        return
    report.attempt("reading", lambda: _read_first(store, there), raises=False)
    for name, (namespace, texts, dim) in BATCHES.items():

        def store_batch(
            name: str = name,
            namespace: Namespace = namespace,
            texts: list[str] = texts,
            dim: int = dim,
        ) -> None:
            put(store, namespace, texts, dim)
            if strict:
                report.kept.append(name)

        report.attempt(f"storing {name}", store_batch, raises=strict)
    report.attempt("encoding", lambda: _encode(store, texts_of(20)), raises=strict)
    report.attempt("encoding again", lambda: _encode(store, texts_of(40)), raises=strict)
    limited = report.attempt("opening", lambda: opened(size_limit="1GB"), raises=strict)
    if limited is not None:
        report.attempt("noting uses", lambda: _encode(limited, texts_of(45)), raises=strict)
        report.attempt("closing", limited.close, raises=strict)
    report.attempt("deleting", lambda: store.delete_many(MODEL, DOOMED), raises=True)
    report.attempt("compacting", store.compact, raises=True)
    report.attempt("pruning", lambda: store.prune(max_size=3000, namespace=PRUNED), raises=True)
    report.attempt("clearing", lambda: store.clear(PRUNED), raises=True)
    report.attempt("figures", store.stats, raises=strict)
    report.attempt("reading at the end", lambda: _read_first(store, there), raises=False)
    report.attempt("closing", store.close, raises=strict)
    again = report.attempt("opening again", opened, raises=strict)
    if again is not None:
        report.attempt("reading again", lambda: _read_first(again, there), raises=False)
        report.attempt("closing again", again.close, raises=strict)


def read(report: Report, location: Path, there: bool) -> None:
    """What a new process does as long as nothing can be written."""
    read_only = report.attempt(
        "opening to read",
        lambda: _unless_refused(location, there),
        raises=False,
    )
    if read_only is not None:
        report.attempt("reading only", lambda: _read_first(read_only, there), raises=False)
        report.attempt("closing what was read", read_only.close, raises=False)
    for on_error in ("warn", "raise"):
        strict = on_error == "raise"
        store = report.attempt(
            f"opening ({on_error})",
            lambda on_error=on_error: EmbeddingStore(location, on_error=on_error, timeout=2),
            raises=strict and not there,
        )
        if store is not None:
            report.attempt(
                f"reading ({on_error})",
                lambda store=store: _read_first(store, there),
                raises=False,
            )
            report.attempt(
                f"encoding ({on_error})",
                lambda store=store: _encode(store, texts_of(20)),
                raises=strict,
            )
            report.attempt(f"closing ({on_error})", store.close, raises=strict)


def _unless_refused(location: Path, there: bool) -> EmbeddingStore | None:
    try:
        return EmbeddingStore(location, read_only=True)
    except StoreRefusedError:
        if there:
            raise
        return None


def recover(report: Report, location: Path, there: bool, kept: list[str]) -> None:
    """What a new process finds once there is space again: all that was acknowledged."""

    def recovered() -> None:
        with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
            _read_first(store, there)
            for name in kept:
                namespace, texts, dim = BATCHES[name]
                lost = check(store, namespace, texts, dim).count(False)
                assert not lost, f"{lost} of {name} were acknowledged, and are missing"
            for namespace, texts, dim in BATCHES.values():
                put(store, namespace, texts, dim)
            _encode(store, texts_of(60))
            if not store.verify().ok:
                store.compact()
                found = store.verify()
                assert found.ok, f"unsound: {found.problems}"
        with EmbeddingStore(location, on_error="raise", memory_limit=0) as store:
            _read_first(store, there)
            for namespace, texts, dim in BATCHES.values():
                lost = check(store, namespace, texts, dim).count(False)
                assert not lost, f"{lost} are missing though they were stored again"

    report.attempt("with space again", recovered, raises=False)
