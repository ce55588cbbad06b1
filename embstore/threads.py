"""Between an event loop and threads: few threads, which are kept, and what waits for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from embstore.lazily import Lazily

if TYPE_CHECKING:
    import asyncio
    from concurrent import futures
else:
    asyncio, futures = Lazily("asyncio"), Lazily("concurrent.futures")

Item = TypeVar("Item")
Result = TypeVar("Result")
Made = TypeVar("Made")


class Threads:
    """Threads that are kept, and belong to one purpose.

    Not asyncio's own: of these there are many, and each that runs an operation of torch's gets
    OpenMP threads of its own, which takes 0.1 s, and then they fight for the cores. 200 look-ups
    took 1.0 s in asyncio's threads and 0.15 s in one that is kept.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._process = 0
        self._executor: futures.ThreadPoolExecutor | None = None

    async def run(self, function: Callable[..., Result], *arguments: Any) -> Result:
        """What the function returns, called in one of the threads."""
        if self._executor is None or self._process != os.getpid():  # a fork has none of them
            self._executor = futures.ThreadPoolExecutor(self._count, "embstore")
            self._process = os.getpid()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, _called, function, *arguments)


def _called(function: Callable[..., Result], *arguments: Any) -> Result:
    try:
        return function(*arguments)
    except StopIteration as error:  # no future can hold one: it would never be done
        raise RuntimeError(f"{function!r} raised StopIteration") from error


class PerLoop(Generic[Made]):
    """What each event loop has one of.

    Args:
        make: makes one.
    """

    def __init__(self, make: Callable[[], Made]) -> None:
        self._make = make
        self._made: dict[asyncio.AbstractEventLoop, Made] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_make": self._make, "_made": {}}  # a copy elsewhere has loops of its own

    def here(self) -> Made:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._made:
            for other in [each for each in list(self._made) if each.is_closed()]:
                self._made.pop(other, None)
            self._made[loop] = self._make()
        return self._made[loop]


class Desk(Generic[Item, Result]):
    """Serves in a thread, all at once, what was asked since the last time. For one event loop.

    Args:
        serve: gives a result, or an exception, for each item.
        threads: where it is called.
    """

    def __init__(
        self, serve: Callable[[list[Item]], list[Result | Exception]], threads: Threads
    ) -> None:
        self._serve = serve
        self._threads = threads
        self._asked: list[tuple[Item, asyncio.Future[Result]]] = []
        self._served: list[tuple[Item, asyncio.Future[Result]]] = []
        self._serving: asyncio.Task[None] | None = None

    async def ask(self, item: Item) -> Result:
        """The result for an item.

        Raises:
            Exception: that for the item.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._asked.append((item, future))
        if self._serving is None:
            self._serving = loop.create_task(self._serve_all())
            self._serving.add_done_callback(self._give_up)
        return await future

    async def _serve_all(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, []
            self._served = asked
            try:
                results = await self._threads.run(self._serve, [item for item, _ in asked])
            except Exception as error:
                results = [error] * len(asked)
            for (_, future), result in zip(asked, results, strict=True):
                if future.cancelled():
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._serving, self._served = None, []

    def _give_up(self, serving: asyncio.Task[None]) -> None:
        """Let go of all who asked if the task was cancelled, perhaps before it ran at all."""
        if self._serving is serving:
            self._serving = None
            for _, future in [*self._served, *self._asked]:
                future.cancel()  # does nothing to one that is done
            self._asked = []
