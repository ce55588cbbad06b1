"""Online batching: requests that come one by one are computed together.

Who embeds one text at a time (a web handler, a chat) gets a model's throughput of batches: a text
waits a few milliseconds for others, and as long as the model is busy they gather by themselves.
Several requests for one text wait for the same computation.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Hashable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from embstore.backends.rows import Array
from embstore.errors import EmbstoreError
from embstore.lazily import Lazily

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Lazily("asyncio")

Group = TypeVar("Group", bound=Hashable)


@dataclass(frozen=True)
class OnlineBatching:
    """How concurrent requests are gathered.

    Attributes:
        max_batch: most texts computed together.
        max_wait_ms: milliseconds that a text waits for others while the model is idle. 0 gathers
            only what comes while it is busy.
        max_queue: texts that may wait; a request that finds no room waits until there is some, and
            holds back whoever awaits it.
        concurrency: batches computed at the same time. More than 1 is for remote models.

    Raises:
        ValueError: for a number that makes no sense.
    """

    max_batch: int = 64
    max_wait_ms: float = 5.0
    max_queue: int = 4096
    concurrency: int = 1

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_queue", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.max_wait_ms < float("inf"):
            raise ValueError(f"max_wait_ms must be 0 or more, not {self.max_wait_ms}")


@dataclass(slots=True, eq=False)
class _Entry:
    """A text that is to be computed: since when, for how many, and what it came to."""

    digest: bytes
    text: str
    since: float
    future: asyncio.Future[Any]
    waiters: int = 0


@dataclass(slots=True, eq=False)
class _Queue:
    """The texts of a group that wait, by digest, and whether they fill a batch."""

    entries: dict[bytes, _Entry] = field(default_factory=dict)
    filled: asyncio.Event = field(default_factory=lambda: asyncio.Event())


Compute = Callable[[Group, list[str], list[bytes]], Awaitable[Array]]
"""Makes the vectors, (n, dim), of n texts of a group; given are also the texts' digests."""


class Gatherer(Generic[Group]):
    """Gathers the texts of concurrent requests into batches, in one event loop.

    Args:
        compute: makes the vectors.
        limits: how requests are gathered.
    """

    def __init__(self, compute: Compute[Group], limits: OnlineBatching) -> None:
        self._compute = compute
        self._limits = limits
        self._entries: dict[tuple[Group, bytes], _Entry] = {}
        self._queues: dict[Group, _Queue] = {}
        self._room = asyncio.Semaphore(limits.max_queue)
        self._slots = asyncio.Semaphore(limits.concurrency)
        self._tasks: set[asyncio.Task[None]] = set()
        """The running ones; asyncio itself keeps no reference to them."""

    async def request(self, group: Group, texts: Mapping[bytes, str]) -> tuple[list[Any], int]:
        """The vectors of texts, by whichever batches they come.

        Args:
            group: what else decides the vectors: only texts of one group are computed together.
            texts: by digest.

        Returns:
            A vector (dim,) for each text, and how many of these another request had asked for.

        Raises:
            Exception: what ``compute`` raised for the batch that a text was in.
        """
        entries: list[_Entry] = []
        shared = 0
        try:
            for digest, text in texts.items():
                entry = self._entries.get((group, digest))
                if entry is None:
                    await self._room.acquire()
                    entry = self._entries.get((group, digest))  # while there was no room
                    if entry is None:
                        entry = self._enqueue(group, digest, text)
                    else:
                        self._room.release()
                        shared += 1
                else:
                    shared += 1
                entry.waiters += 1
                entries.append(entry)
            # Unlike gather(), wait() leaves futures alone when it is cancelled: others wait too.
            await asyncio.wait([entry.future for entry in entries])
            return [entry.future.result() for entry in entries], shared
        finally:
            for entry in entries:
                entry.waiters -= 1
                if not entry.waiters:
                    self._abandon(group, entry)

    def _enqueue(self, group: Group, digest: bytes, text: str) -> _Entry:
        loop = asyncio.get_running_loop()
        entry = _Entry(digest, text, loop.time(), loop.create_future())
        self._entries[group, digest] = entry
        queue = self._queues.get(group)
        if queue is None:
            queue = self._queues[group] = _Queue()
            # In the callback, as a task that is cancelled at once never runs at all.
            given_up = partial(self._give_up, group, queue)
            self._start(self._serve(group, queue)).add_done_callback(given_up)
        queue.entries[digest] = entry
        if len(queue.entries) >= self._limits.max_batch:
            queue.filled.set()
        return entry

    def _abandon(self, group: Group, entry: _Entry) -> None:
        """Nobody waits any more: do not compute it, unless that has begun."""
        queue = self._queues.get(group)
        # The same text may be waiting again: a vector that is not stored (NaN) is asked for anew.
        if queue is not None and queue.entries.get(entry.digest) is entry:
            del queue.entries[entry.digest], self._entries[group, entry.digest]
            self._room.release()

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, group: Group, queue: _Queue) -> None:
        """Make batches of a group's queue until it is empty."""
        entries, most = queue.entries, self._limits.max_batch
        while entries:
            oldest = next(iter(entries.values())).since
            with suppress(TimeoutError):
                async with asyncio.timeout_at(oldest + self._limits.max_wait_ms / 1000):
                    await queue.filled.wait()
            await self._slots.acquire()
            # Taken only now, with all that came while no slot was free.
            batch = [entries.pop(digest) for digest in list(entries)[:most]]
            for _ in batch:
                self._room.release()
            if len(entries) < most:
                queue.filled.clear()
            finished = partial(self._finish, group, batch)
            self._start(self._answer(group, batch)).add_done_callback(finished)
        del self._queues[group]

    def _give_up(self, group: Group, queue: _Queue, _: object) -> None:
        """Let go of a queue if its task was cancelled."""
        if self._queues.get(group) is queue:
            del self._queues[group]
            for entry in queue.entries.values():
                del self._entries[group, entry.digest]
                entry.future.cancel()
                self._room.release()
            queue.entries.clear()

    def _finish(self, group: Group, batch: list[_Entry], _: object) -> None:
        self._slots.release()
        for entry in batch:
            del self._entries[group, entry.digest]
            entry.future.cancel()  # does nothing to one that is done

    async def _answer(self, group: Group, batch: list[_Entry]) -> None:
        """Compute a batch. Should a text be at fault, only those who asked for it are told."""
        if not batch:
            return
        texts = [entry.text for entry in batch]
        try:
            vectors = await self._compute(group, texts, [entry.digest for entry in batch])
        except Exception as error:
            blames_a_text = isinstance(error, (TypeError, ValueError))
            if blames_a_text and not isinstance(error, EmbstoreError) and len(batch) > 1:
                half = len(batch) // 2
                await self._answer(group, batch[:half])
                await self._answer(group, batch[half:])
                return
            for entry in batch:
                entry.future.set_exception(error)
                entry.future.exception()  # seen: whoever asked may have gone meanwhile
        else:
            for entry, vector in zip(batch, vectors, strict=True):
                entry.future.set_result(vector)
