"""What every backend must do for workers beside each other: claims, counts, ages."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from embstore.backends.base import Backend
from embstore.testing.values import A, B, make_digests, true_vectors

ME, YOU = bytes(16), b"another owner ok"


def claim_and_stop(opened: Callable[[], Backend], count: int, done: Any) -> None:
    """What a worker does that is going to be killed."""
    opened().claim(A, make_digests(count), YOU, count)
    done.set()
    signal.pause()


class SharingConformance:
    """These tests; a part of :class:`~embstore.testing.BackendConformance`."""

    lease = 0.0
    """Seconds that a claim may outlive its process."""

    def test_a_claim_is_of_the_first_free_ones(self, backend: Backend) -> None:
        digests = make_digests(10)
        backend.put_many(A, digests[:2], true_vectors(A, digests[:2]))
        claimed = backend.claim(A, digests, ME, 3)
        assert claimed.mine.tolist() == [False] * 2 + [True] * 3 + [False] * 5
        assert claimed.stored.tolist() == [True] * 2 + [False] * 8
        assert not claimed.theirs.any()
        assert claimed.others == 0
        assert claimed.pace == 0.0

    def test_what_one_has_claimed_no_other_can(
        self, backend: Backend, reopen: Callable[[], Backend]
    ) -> None:
        digests, second = make_digests(10), reopen()
        backend.claim(A, digests[:6], ME, 6)
        claimed = second.claim(A, digests, YOU, 10)
        assert claimed.theirs.tolist() == [True] * 6 + [False] * 4
        assert claimed.mine.tolist() == [False] * 6 + [True] * 4
        assert claimed.others == 1
        for each in (backend, second, reopen()):
            assert each.claimed(A, [*digests, *make_digests(2, 100)]).tolist() == (
                [True] * 10 + [False] * 2
            )
        assert not backend.claimed(B, digests).any()
        assert second.claim(B, digests, YOU, 10).mine.all()

    def test_a_claim_takes_the_place_of_the_one_before(self, backend: Backend) -> None:
        digests = make_digests(4)
        backend.claim(A, digests[:2], ME, 2)
        backend.claim(A, digests[2:], ME, 2)
        assert backend.claimed(A, digests).tolist() == [False, False, True, True]

    def test_a_claim_ends_with_storing_or_by_release(
        self, backend: Backend, reopen: Callable[[], Backend]
    ) -> None:
        digests, second = make_digests(4), reopen()
        backend.claim(A, digests, ME, 4)
        backend.put_many(A, digests[:3], true_vectors(A, digests[:3]), 6.0, ME)
        claimed = second.claim(A, digests, YOU, 4)
        assert claimed.stored.tolist() == [True] * 3 + [False]
        assert claimed.mine.tolist() == [False] * 3 + [True]
        assert claimed.pace == 2.0
        second.release(A, YOU)
        second.release(A, YOU)
        assert not backend.claimed(A, digests).any()
        assert backend.claim(A, digests, ME, 4).others == 0

    def test_a_claim_ends_with_storing_nothing(self, backend: Backend) -> None:
        digests = make_digests(2)
        backend.claim(A, digests, ME, 2)
        backend.put_many(A, [], np.zeros((0, 8), np.float32), 0.0, ME)
        assert not backend.claimed(A, digests).any()

    def test_a_claim_keeps_nobody_from_storing(
        self, backend: Backend, reopen: Callable[[], Backend]
    ) -> None:
        digests = make_digests(2)
        backend.claim(A, digests, ME, 2)
        assert reopen().put_many(A, digests, true_vectors(A, digests)).all()
        assert backend.get_many(A, digests)[1].all()

    def test_a_claim_ends_with_its_process(
        self, backend: Backend, reopen: Callable[[], Backend]
    ) -> None:
        digests = make_digests(5)
        context = multiprocessing.get_context("fork")
        done = context.Event()
        # Not a daemon of multiprocessing's: what it opens is to end with it, and not before.
        process = context.Process(target=claim_and_stop, args=(reopen, 5, done))
        process.start()
        try:
            assert done.wait(60)
            assert backend.claimed(A, digests).all()
            assert not backend.claim(A, digests, ME, 5).mine.any()
        finally:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
        end = time.monotonic() + 2 * self.lease
        while backend.claimed(A, digests).any() and time.monotonic() < end:
            time.sleep(0.05)
        assert not backend.claimed(A, digests).any()
        assert backend.claim(A, digests, ME, 5).mine.all()

    def test_threads_divide_a_list(self, backend: Backend) -> None:
        digests, barrier = make_digests(400), threading.Barrier(8)

        def work(number: int) -> list[int]:
            owner, mine = bytes([number]) * 16, []
            barrier.wait()
            while (claimed := backend.claim(A, digests, owner, 7)).mine.any():
                places = np.flatnonzero(claimed.mine).tolist()
                mine += places
                part = [digests[place] for place in places]
                backend.put_many(A, part, true_vectors(A, part), 0.0, owner)
            return mine

        with ThreadPoolExecutor(8) as pool:
            parts = [*pool.map(work, range(8))]
        assert sorted(itertools.chain(*parts)) == [*range(400)]

    def test_look_ups_are_counted_over_all(
        self, backend: Backend, reopen: Callable[[], Backend]
    ) -> None:
        digests, second = make_digests(3), reopen()
        for each in (backend, second):
            each.put_many(A, digests, true_vectors(A, digests), 0.5)
            counts = [{A.id: (1, -1)}, {A.id: (10, 4)}]
            each.watch(dict, partial(_pop, counts))
            each.namespaces()
        own = backend.namespaces()[0]
        assert own.hits >= 11, "its own are known at once"
        assert own.misses >= 3
        backend.close()
        second.close()
        info = reopen().namespaces()[0]
        assert (info.hits, info.misses, info.computed) == (22, 6, 3)
        assert info.seconds_saved == 22 * 0.5 / 3

    def test_nothing_is_older_than_it_is(self, backend: Backend) -> None:
        digests = make_digests(20)
        backend.put_many(A, digests, true_vectors(A, digests))
        assert backend.prune(older_than=1500.0) == 0
        assert backend.prune(A, older_than=1500.0, max_size=10**9) == 0
        assert backend.get_many(A, digests)[1].all()


def _pop(counts: list[dict[bytes, tuple[int, int]]]) -> dict[bytes, tuple[int, int]]:
    return counts.pop() if counts else {}
