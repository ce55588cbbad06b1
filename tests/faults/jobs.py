"""Jobs that go on: texts embedded through a store to which something happens meanwhile."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreWarning
from tests.helpers import texts_of, vectors_of

NAMESPACE = Namespace("a function")


class Job:
    """An encoder over a function and a store; whatever it returns is checked.

    Args:
        location: the store.
        dim: of the vectors.
        options: of the store.

    Attributes:
        store: the store, open.
        messages: of all warnings so far, each of them a StoreWarning.
    """

    def __init__(self, location: Path, *, dim: int = 16, **options: Any) -> None:
        self.location = location
        self._dim = dim
        self.messages: list[str] = []
        self._computed: list[str] = []
        with self.listening():
            self.store = EmbeddingStore(location, **options)
        self.encoder = CachedEncoder(self._compute, self.store, model_name="a function")

    def _compute(self, texts: list[str]) -> npt.NDArray[Any]:
        self._computed += texts
        return vectors_of(NAMESPACE, texts, self._dim)

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Note the warnings of what is done meanwhile."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield
        assert {warning.category for warning in caught} <= {StoreWarning}, caught
        self.messages += [str(warning.message) for warning in caught]

    def encode(self, count: int, first: int = 0) -> int:
        """Embed texts, some of them twice; how many were computed. All vectors must be right."""
        texts = texts_of(count, first)
        self._computed.clear()
        with self.listening():
            vectors = self.encoder.encode([*texts, *texts[:3]])
        assert np.array_equal(vectors, vectors_of(NAMESPACE, [*texts, *texts[:3]], self._dim)), (
            "wrong"
        )
        assert len(set(self._computed)) == len(self._computed) <= count, "computed twice"
        return len(self._computed)

    def go_on(self, count: int = 400) -> None:
        """Embed what is stored and what is new, a part at a time, as jobs do."""
        for texts in (50, 60, count):
            self.encode(texts)

    def close(self) -> None:
        """Close the store."""
        with self.listening():
            self.store.close()

    def mend(self) -> None:
        """Have the store compacted, unless it is sound; then it must be."""
        with self.listening():
            if not self.store.verify().ok:
                self.store.compact()
            assert self.store.verify().ok

    def warned_once(self, *words: str) -> None:
        """Assert that there was one warning, with the store's path and one of ``words``."""
        assert len(self.messages) == 1, self.messages
        assert str(self.location) in self.messages[0]
        assert any(word in self.messages[0] for word in words), self.messages

    def never_warned(self) -> None:
        """Assert that there was no warning."""
        assert not self.messages, self.messages


def warnings_of(work: Callable[[], object]) -> list[str]:
    """The messages of all warnings that come of ``work``, each of them a StoreWarning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        work()
    assert {warning.category for warning in caught} <= {StoreWarning}
    return [str(warning.message) for warning in caught]


def start(location: Path, count: int = 50) -> None:
    """Make a store that knows the first ``count`` texts."""
    job = Job(location)
    assert job.encode(count) == count
    job.close()
    job.never_warned()
