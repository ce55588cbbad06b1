"""Committing what a model computes, chunk by chunk: while it computes the next one, if it is fast.

A model that takes a second for a chunk need not care for a commit of a millisecond. One that takes
ten milliseconds does: if it leaves a core alone, a commit goes on in a thread, beside the next
chunk. Never more than one is under way, they come in the order of the chunks, and a call returns
when its last one is over.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from embstore import hooks, machine
from embstore.lazily import Lazily
from embstore.lookup import Lookup
from embstore.share import Work

if TYPE_CHECKING:
    from concurrent import futures
else:
    futures = Lazily("concurrent.futures")

_LOG = logging.getLogger(__name__)

_SLOW = 0.1
"""Seconds for a chunk from which on committing it beside the next one gains less than 2 %."""

_IDLE_CORES = 0.5
"""Cores that computing has to leave alone. Beside static embeddings, whose tokenizer takes both of
two cores, commits in a thread made a call 5 % slower; beside a device that is waited for, 12 %
faster."""


class Commits:
    """Commits the chunks of a call. A context manager: at its end, all are committed.

    Args:
        lookup: takes what was computed.
        work: says whose claim ends with a chunk.
    """

    def __init__(self, lookup: Lookup, work: Work) -> None:
        self._lookup = lookup
        self._work = work
        self._threads: futures.ThreadPoolExecutor | None = None
        self._under_way: tuple[futures.Future[bool], Callable[[bool], None]] | None = None
        self._cores_left = 0.0
        work.before_claim = self.wait

    def timed(self, texts: int, compute: Callable[[], Any]) -> tuple[Any, float]:
        """What a model computes for so many texts, and the seconds that it took."""
        store, namespace = self._lookup.store, self._lookup.namespace
        with hooks.watched(_LOG, "compute", store.location, namespace, texts):
            began, used = time.perf_counter(), time.process_time()
            output = compute()
            seconds = time.perf_counter() - began
            used = time.process_time() - used
        self._cores_left = machine.cores() - used / max(seconds, 1e-9)
        return output, seconds

    def add(self, positions: Sequence[int], output: Any, seconds: float) -> None:
        """Take the vectors of a chunk, and commit them or begin to.

        Args:
            positions: of its texts.
            output: what the model gave, and
            seconds: what that took, as :meth:`timed` says.

        Raises:
            ModelOutputError: if it is not one vector of the right length for each.
            EmbstoreError: if committing this or the last chunk failed, and is to raise.
        """
        vectors = self._lookup.fill(positions, output)
        self.wait()
        owner = self._work.owner_that_ends()

        def took(kept: bool) -> None:
            self._work.took(positions, seconds, kept=kept and owner is not None)

        if seconds >= _SLOW or self._cores_left < _IDLE_CORES or not self._work.has_more:
            took(self._lookup.keep(positions, vectors, seconds, owner))
            return
        if self._threads is None:
            self._threads = futures.ThreadPoolExecutor(1, "embstore-commits")
        # In this call's context, in which hooks know what it belongs to. And copied: a function may
        # well give the next chunk in the same array.
        keep = partial(self._lookup.keep, positions, vectors.copy(), seconds, owner)
        task = self._threads.submit(copy_context().run, keep)
        self._under_way = task, took

    def wait(self) -> None:
        """Wait for the commit that is under way. Raises what it raised."""
        under_way, self._under_way = self._under_way, None
        if under_way is not None:
            task, took = under_way
            took(task.result())

    def __enter__(self) -> Commits:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:  # else that comes first
                raise
        finally:
            if self._threads is not None:
                self._threads.shutdown()
