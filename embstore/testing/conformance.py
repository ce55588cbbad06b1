"""What every backend must do with rows."""

from __future__ import annotations

import abc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore.backends.base import Backend, History, VerifyReport
from embstore.errors import NamespaceError, StoreError
from embstore.keys import Namespace
from embstore.testing.sharing import SharingConformance
from embstore.testing.values import DTYPES, A, B, assert_same, make_digests, true_vectors


class BackendConformance(SharingConformance, abc.ABC):
    """The tests of a backend. Subclass it with a name that starts with ``Test``; override
    :meth:`open`, and the fixture :meth:`place` if it takes more than a path to tell stores apart.
    """

    resolution = 0.0
    """Seconds that two uses of a row must lie apart, to be told apart."""

    @abc.abstractmethod
    def open(self, place: Any) -> Backend:
        """The store at what :meth:`place` gave, made if there is none; a second opener's too."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Any:
        """Where one test's store lies; nothing is there yet. By default a path."""
        return tmp_path / "store"

    @pytest.fixture
    def reopen(self, place: Any) -> Iterator[Callable[[], Backend]]:
        """Opens the test's store once more; all that it opened is closed after the test."""
        opened: list[Backend] = []

        def reopen() -> Backend:
            opened.append(self.open(place))
            return opened[-1]

        yield reopen
        for backend in opened:
            backend.close()

    @pytest.fixture
    def backend(self, reopen: Callable[[], Backend]) -> Backend:
        """The test's store, empty."""
        return reopen()

    def test_vectors_come_back_bit_for_bit_in_any_order(self, backend: Backend) -> None:
        digests = make_digests(300)
        assert backend.put_many(A, digests, true_vectors(A, digests)).all()
        asked = [*digests[::-3], *digests[:50], *make_digests(50, first=1000), *digests[:1]]
        vectors, found = backend.get_many(A, asked)
        assert found.tolist() == [True] * 150 + [False] * 50 + [True]
        assert_same(vectors[found], true_vectors(A, [*asked[:150], asked[200]]))
        assert not vectors[~found].any()

    def test_every_layout_side_by_side(self, reopen: Callable[[], Backend]) -> None:
        digests = make_digests(10)
        layouts = [(dtype, dim) for dtype in DTYPES for dim in (1, 3, 384)]
        spaces = {layout: Namespace("side", extra={"layout": layout}) for layout in layouts}
        first = reopen()
        for (dtype, dim), space in spaces.items():
            first.put_many(space, digests, true_vectors(space, digests, dim, dtype))
        for reader in (first, reopen()):
            for (dtype, dim), space in spaces.items():
                vectors, found = reader.get_many(space, digests)
                assert found.all()
                assert_same(vectors, true_vectors(space, digests, dim, dtype))

    def test_any_form_of_array_is_stored(self, backend: Backend) -> None:
        digests = make_digests(6)
        expected = true_vectors(A, digests)
        backwards = np.ascontiguousarray(expected[::-1, ::-1])[::-1, ::-1]
        frozen = np.frombuffer(expected.tobytes(), "<f4").reshape(expected.shape)
        forms = [backwards, np.asfortranarray(expected), expected.astype(">f4"), frozen]
        for number, given in enumerate(forms):
            space = Namespace("form", fingerprint=str(number))
            backend.put_many(space, digests, given)
            assert_same(backend.get_many(space, digests)[0], expected)

    def test_of_repeats_in_a_put_the_first_is_stored(self, backend: Backend) -> None:
        one, other = make_digests(2)
        given = np.arange(8, dtype=np.float32).reshape(4, 2)
        stored = backend.put_many(A, [one, other, one, other], given)
        assert stored.tolist() == [True, True, False, False]
        assert_same(backend.get_many(A, [one, other])[0], given[:2])
        assert backend.namespaces()[0].entries == 2

    def test_the_first_writer_wins(self, backend: Backend) -> None:
        digests = make_digests(4)
        backend.put_many(A, digests[:2], true_vectors(A, digests[:2]))
        stored = backend.put_many(A, digests, np.zeros((4, 8), np.float32))
        assert stored.tolist() == [False, False, True, True]
        vectors = backend.get_many(A, digests)[0]
        assert_same(vectors[:2], true_vectors(A, digests[:2]))
        assert not vectors[2:].any()

    def test_empty_stores_and_empty_calls(self, backend: Backend) -> None:
        vectors, found = backend.get_many(A, make_digests(3))
        assert vectors.shape == (3, 0)
        assert found.tolist() == [False] * 3
        assert not backend.namespaces()
        assert not list(backend.scan(A))
        assert backend.delete_many(A, make_digests(1)) == backend.clear(A) == backend.corrupt == 0
        assert backend.verify().ok
        nothing = np.zeros((0, 8), np.float32)
        assert backend.put_many(A, [], nothing).shape == (0,)
        assert backend.namespaces() == [], "a put of nothing must not claim a layout"
        assert backend.delete_many(A, []) == 0
        vectors, found = backend.get_many(A, [])
        assert (vectors.shape, found.shape) == ((0, 0), (0,))
        digests = make_digests(1)
        backend.put_many(A, digests, true_vectors(A, digests))
        assert backend.put_many(A, [], nothing).shape == (0,)
        assert backend.get_many(A, [])[0].shape == (0, 8)

    def test_arrays_handed_out_belong_to_the_caller(self, backend: Backend) -> None:
        digests = make_digests(5)
        given = true_vectors(A, digests)
        backend.put_many(A, digests, given)
        given[:] = 7
        scanned = next(iter(backend.scan(A)))[1]
        for asked in (digests, digests[:1], [*digests, *make_digests(1, first=9)]):
            vectors, found = backend.get_many(A, asked)
            for array in (vectors, found, scanned):
                assert array.flags.writeable
                assert array.flags.c_contiguous
                array[:] = 0
            assert_same(backend.get_many(A, digests)[0], true_vectors(A, digests))

    def test_namespaces_are_isolated(self, backend: Backend) -> None:
        digests = make_digests(10)
        backend.put_many(A, digests, true_vectors(A, digests))
        assert not backend.get_many(B, digests)[1].any()
        backend.put_many(B, digests[:5], true_vectors(B, digests[:5]))
        assert backend.delete_many(A, digests[:3]) == 3
        vectors, found = backend.get_many(B, digests)
        assert found.tolist() == [True] * 5 + [False] * 5
        assert_same(vectors[:5], true_vectors(B, digests[:5]))
        assert backend.clear(A) == 7
        assert backend.get_many(B, digests[:5])[1].all()

    @pytest.mark.parametrize("dtype, dim", [("float32", 9), ("float64", 8), ("int8", 8)])
    def test_what_does_not_fit_is_refused_whole(
        self, backend: Backend, dtype: str, dim: int
    ) -> None:
        digests = make_digests(3)
        backend.put_many(A, digests[:1], true_vectors(A, digests[:1]))
        with pytest.raises(NamespaceError) as caught:
            backend.put_many(A, digests, true_vectors(A, digests, dim, dtype))
        assert caught.value.namespace == A
        for impossible in (np.zeros((3, 0), np.float32), np.zeros((3, 8), np.complex64)):
            with pytest.raises(NamespaceError):
                backend.put_many(B, digests, impossible)
        assert [info.namespace for info in backend.namespaces()] == [A]
        vectors, found = backend.get_many(A, digests)
        assert found.tolist() == [True, False, False]
        assert_same(vectors[:1], true_vectors(A, digests[:1]))

    def test_the_registry(self, backend: Backend) -> None:
        digests = make_digests(10)
        backend.put_many(A, digests[:6], true_vectors(A, digests[:6], 5, "int8"), 1.5)
        backend.put_many(A, digests, true_vectors(A, digests, 5, "int8"), 2.0)
        backend.delete_many(A, digests[:1])
        backend.put_many(B, digests[:2], true_vectors(B, digests[:2], 3, "float16"))
        infos = {info.namespace: info for info in backend.namespaces()}
        assert set(infos) == {A, B}
        assert (infos[A].dtype, infos[A].dim, infos[A].entries) == ("int8", 5, 9)
        assert (infos[A].computed, infos[A].encode_seconds) == (10, 3.5)
        assert (infos[B].dtype, infos[B].dim, infos[B].entries) == ("float16", 3, 2)
        assert infos[A].bytes > 0
        assert infos[B].encode_seconds == 0.0

    def test_history(self, reopen: Callable[[], Backend]) -> None:
        """A backend may keep none. What it keeps is in order, and what it was told."""
        digests = make_digests(10)
        first = reopen()
        assert first.history(A) == History()
        first.put_many(A, digests, true_vectors(A, digests))
        counts = {A.id: (30, 4)}
        first.watch(dict, lambda: {key: counts.pop(key) for key in list(counts)})
        first.close()
        history = reopen().history(A)
        if history.days:
            assert [(day.hits, day.misses) for day in history.days] == [(30, 4)]
            assert history.days[0].entries == 10
        times = [time for time, _ in history.growth]
        assert times == sorted(times)
        assert not times or history.growth[-1][1] == 10
        second = reopen()
        assert second.clear(A) == 10
        assert second.history(A) == History()

    def test_clear_forgets_the_layout(self, backend: Backend) -> None:
        digests = make_digests(5)
        backend.put_many(A, digests, true_vectors(A, digests))
        assert backend.clear(A) == 5
        assert backend.namespaces() == []
        assert not backend.get_many(A, digests)[1].any()
        assert list(backend.scan(A)) == []
        expected = true_vectors(A, digests, 3, "float64")
        assert backend.put_many(A, digests, expected).all()
        assert_same(backend.get_many(A, digests)[0], expected)

    def test_identities(self, reopen: Callable[[], Backend]) -> None:
        one, other = make_digests(2)
        first, second = reopen(), reopen()
        assert first.get_identity(one) is None
        first.put_identity(one, {"fingerprint": "é", "deep": [1, None, {"x": 0.5}]})
        assert second.get_identity(one) == {"fingerprint": "é", "deep": [1, None, {"x": 0.5}]}
        assert second.get_identity(other) is None
        second.put_identity(one, {"fingerprint": "later"})
        assert first.get_identity(one) == {"fingerprint": "later"}
        first.put_identity(other, {})
        assert second.identities() == {one: {"fingerprint": "later"}, other: {}}

    def test_deleting(self, backend: Backend) -> None:
        digests = make_digests(10)
        backend.put_many(A, digests, true_vectors(A, digests))
        asked = [digests[0], digests[4], digests[0], *make_digests(1, first=99)]
        assert backend.delete_many(A, asked) == 2
        assert backend.delete_many(A, asked) == 0
        found = backend.get_many(A, digests)[1]
        assert np.flatnonzero(~found).tolist() == [0, 4]
        new = np.ones((2, 8), np.float32)
        assert backend.put_many(A, [digests[0], digests[4]], new).all()
        assert_same(backend.get_many(A, [digests[4], digests[0]])[0], new)
        assert backend.namespaces()[0].entries == 10

    def test_scanning_gives_every_row_once(self, backend: Backend) -> None:
        digests = make_digests(10_000)
        for start in range(0, len(digests), 2500):
            part = digests[start : start + 2500]
            backend.put_many(A, part, true_vectors(A, part, 2))
        backend.put_many(B, digests[:5], true_vectors(B, digests[:5], 2))
        backend.delete_many(A, digests[::100])
        seen: list[bytes] = []
        for part, vectors in backend.scan(A):
            assert_same(vectors, true_vectors(A, part, 2))
            seen += part
        assert len(seen) == 9900
        assert set(seen) == set(digests) - set(digests[::100])

    def test_compacting_keeps_all_that_is_stored(self, reopen: Callable[[], Backend]) -> None:
        backend, second = reopen(), reopen()
        digests = make_digests(2000)
        empty = backend.size()
        backend.put_many(A, digests, true_vectors(A, digests, 64))
        backend.put_many(B, digests, true_vectors(B, digests, 3, "int8"))
        assert backend.size() >= empty + 2000 * 64 * 4
        assert second.get_many(A, digests)[1].all()
        backend.delete_many(A, digests[20:])
        backend.delete_many(B, digests[:1])
        assert backend.verify() == VerifyReport(rows=2019, corrupt=0, problems=())
        report = backend.compact()
        assert report.rows == 2019
        assert backend.size() <= report.bytes_after <= report.bytes_before
        more = make_digests(10, first=5000)
        for writer, part in ((backend, more[:5]), (second, more[5:])):
            assert writer.put_many(A, part, true_vectors(A, part, 64)).all()
        for reader in (backend, second, reopen()):
            vectors, found = reader.get_many(A, [*digests, *more])
            assert found.tolist() == [True] * 20 + [False] * 1980 + [True] * 10
            assert_same(vectors[found], true_vectors(A, [*digests[:20], *more], 64))
            vectors, found = reader.get_many(B, digests)
            assert found.tolist() == [False] + [True] * 1999
            assert_same(vectors[1:], true_vectors(B, digests[1:], 3, "int8"))
        assert backend.verify().ok

    def test_pruning_keeps_what_was_stored_last(self, backend: Backend) -> None:
        digests = make_digests(1000)
        for part in (digests[:900], digests[900:]):
            time.sleep(self.resolution)
            backend.put_many(A, part, true_vectors(A, part, 64))
        backend.put_many(B, digests[:5], true_vectors(B, digests[:5]))
        pruned = backend.prune(A, max_size=500 * 64 * 4)
        vectors, found = backend.get_many(A, digests)
        assert pruned == 1000 - int(found.sum())
        assert 400 < pruned < 900
        assert found[900:].all()
        assert_same(vectors[900:], true_vectors(A, digests[900:], 64))
        assert backend.get_many(B, digests[:5])[1].all(), "only A was to be pruned"

    def test_progress_is_told(self, backend: Backend) -> None:
        for space, count in ((A, 50), (B, 20)):
            digests = make_digests(count)
            backend.put_many(space, digests, true_vectors(space, digests))
        for work in (backend.verify, backend.compact, partial(backend.prune, older_than=1500.0)):
            told: list[int] = []
            work(progressed=told.append)
            assert sum(told) == 70

    def test_closing_and_opening_again(self, reopen: Callable[[], Backend]) -> None:
        digests = make_digests(20)
        first = reopen()
        first.put_many(A, digests, true_vectors(A, digests), 2.5)
        infos = first.namespaces()
        first.close()
        first.close()
        with pytest.raises(StoreError):
            first.get_many(A, digests)
        with pytest.raises(StoreError):
            first.put_many(A, digests, true_vectors(A, digests))
        second = reopen()
        assert (second.seed, second.location) == (first.seed, first.location)
        assert second.namespaces() == infos
        assert_same(second.get_many(A, digests)[0], true_vectors(A, digests))

    def test_what_one_opener_does_the_other_sees(self, reopen: Callable[[], Backend]) -> None:
        writer, reader = reopen(), reopen()
        digests = make_digests(30)
        for start in range(0, 30, 10):
            part = digests[start : start + 10]
            assert not reader.get_many(A, part)[1].any()
            writer.put_many(A, part, true_vectors(A, part))
            vectors, found = reader.get_many(A, part)
            assert found.all()
            assert_same(vectors, true_vectors(A, part))
        writer.delete_many(A, digests[:5])
        assert reader.get_many(A, digests)[1].tolist() == [False] * 5 + [True] * 25
        assert writer.clear(A) == 25
        assert not reader.get_many(A, digests[5:])[1].any(), "cleared, and still found elsewhere"
        expected = true_vectors(A, digests, 3)
        writer.put_many(A, digests, expected)
        assert_same(reader.get_many(A, digests)[0], expected)

    def test_a_put_is_seen_whole_or_not_at_all(self, reopen: Callable[[], Backend]) -> None:
        writer, reader = reopen(), reopen()
        batches = [make_digests(40, first=1000 * number) for number in range(40)]
        counts: set[int] = set()

        def write() -> None:
            for batch in batches:
                writer.put_many(A, batch, true_vectors(A, batch))

        with ThreadPoolExecutor(1) as pool:
            writing = pool.submit(write)
            last = False
            while not last:
                last = writing.done()
                counts |= {int(reader.get_many(A, batch)[1].sum()) for batch in batches}
            writing.result()
        assert counts <= {0, 40}
        assert all(reader.get_many(A, batch)[1].all() for batch in batches)

    def test_threads(self, backend: Backend) -> None:
        digests = make_digests(400)
        barrier = threading.Barrier(8)

        def work(number: int) -> int:
            order = np.random.default_rng(number).permutation(400)
            stored = 0
            barrier.wait()
            for start in range(0, 400, 40):
                part = [digests[at] for at in order[start : start + 40].tolist()]
                stored += int(backend.put_many(A, part, true_vectors(A, part)).sum())
                vectors, found = backend.get_many(A, part)
                assert found.all()
                assert_same(vectors, true_vectors(A, part))
            return stored

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(work, range(8))) == 400, "each is stored by one thread"
        assert_same(backend.get_many(A, digests)[0], true_vectors(A, digests))
