"""A model to be asked by many at once: it records its calls, and holds them on demand."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

TEXTS = [f"{number:03} text" for number in range(200)]
Embed = Callable[..., Awaitable[Any]]
Make = Callable[..., Embed]


def vectors_of(texts: list[str]) -> np.ndarray:
    """Vectors that are a pure function of the text."""
    return np.array([[len(text), *text.encode()[:3].ljust(3)] for text in texts], np.float32)


class Model:
    """A function that records its calls, and holds them while it is told to."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.running = 0
        self.most_running = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.calls.append(texts)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        assert self.go_on.wait(60)
        self.running -= 1
        if "broken" in texts:
            raise RuntimeError("the model broke")
        if "bad" in texts:
            raise ValueError("bad text")
        return vectors_of(texts)

    @property
    def computed(self) -> list[str]:
        return [text for call in self.calls for text in call]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that other tasks and threads bring about."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # what it waits for happens in threads, too
            await asyncio.sleep(0.001)


async def all_of(embed: Embed, texts: list[str]) -> list[Any]:
    return await asyncio.gather(*(embed(text) for text in texts))
