"""A disk in front of a shared store does what every backend must do."""

from __future__ import annotations

from pathlib import Path

from embstore.backends.base import Backend
from embstore.backends.disk import DiskBackend
from embstore.backends.tiered import open_tiered
from embstore.faults import Warnings
from embstore.testing import BackendConformance
from embstore.testing.values import A, assert_same, make_digests, true_vectors


def open_at(near: Path, upstream: Path) -> Backend:
    return open_tiered(str(near), str(upstream), "raise", warnings=Warnings())


class TestTieredBackend(BackendConformance):
    def open(self, place: Path) -> Backend:
        return open_at(place / "near", place / "upstream")

    def test_pruning_keeps_what_was_stored_last(self, backend: Backend, place: Path) -> None:
        """Here alone; upstream there is all of it."""
        digests = make_digests(1000)
        for start in range(0, 1000, 100):
            part = digests[start : start + 100]
            backend.put_many(A, part, true_vectors(A, part, 64))
        pruned = backend.prune(A, max_size=500 * 64 * 4)
        near = DiskBackend(place / "near")
        kept = near.get_many(A, digests)[1]
        near.close()
        assert pruned == 1000 - kept.sum() >= 500
        assert kept[-100:].all()
        vectors, found = backend.get_many(A, digests)
        assert found.all()
        assert_same(vectors, true_vectors(A, digests, 64))
