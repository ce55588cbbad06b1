"""A module as users have them: a store, encoders and functions, for every process that imports it.

The store lies at $EMBSTORE_HOME; the model whose path is $EMBSTORE_TEST_MODEL knows ``KNOWN``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from embstore import CachedEncoder, EmbeddingStore, cached
from tests.helpers import MODEL, texts_of, vectors_of
from tests.processes.workers import Noting

KNOWN = texts_of(5)
GIVEN: list[Any] = []
"""What :func:`take` was given."""

store = EmbeddingStore(on_error="raise")
compute = Noting(Path(f"{store.location}.computed"))
encoder = CachedEncoder(compute, store, model_name="function")
lazy = CachedEncoder(os.environ["EMBSTORE_TEST_MODEL"], store, device="cpu", on_miss="raise")


@cached(store, model_name="sync")
def embed(texts: list[str]) -> np.ndarray:
    """Computes as all of these do."""
    return compute(texts)


@cached(store, model_name="async")
async def aembed(texts: list[str]) -> np.ndarray:
    """Computes as all of these do."""
    await asyncio.sleep(0)
    return compute(texts)


def everything() -> tuple[Any, ...]:
    """What a worker can be given."""
    return encoder, lazy, embed, aembed


def take(*given: Any) -> None:
    """Keep what a process is given at its start: inherited or pickled, as the case may be."""
    GIVEN[:] = given


def use(number: int, kind: str, *given: Any) -> bytes:
    """Embed texts with what this module has, and with what was given at the start or just now.

    Args:
        number: of the task: tasks have different texts.
        kind: of the pool: pools too.
        *given: as of :func:`everything`.

    Returns:
        What the model gives for ``KNOWN``, which nothing is loaded for.
    """
    loaded = "torch" in sys.modules
    lazy_gave = set()
    for origin, (one, path, function, coroutine) in {
        "imported": everything(),
        "taken": GIVEN,
        "given": given,
    }.items():
        name = f"{kind} {number} {origin}"
        for way, got in ways_of(name, one, function, coroutine):
            assert got.tobytes() == vectors_of(MODEL, texts_for(name, way)).tobytes(), (name, way)
        lazy_gave.add(path.encode(KNOWN).tobytes())
    assert loaded == ("torch" in sys.modules)
    (only,) = lazy_gave
    return only


def texts_for(name: str, way: str) -> list[str]:
    """Texts that belong to one task and way alone."""
    return [f"{name} {way} {number}" for number in range(5)]


def ways_of(name: str, one: Any, function: Any, coroutine: Any) -> Iterator[tuple[str, np.ndarray]]:
    """All ways to have texts embedded."""
    yield "encode", one.encode(texts_for(name, "encode"))
    yield "aencode", asyncio.run(one.aencode(texts_for(name, "aencode")))
    yield "sync", function(texts_for(name, "sync"))
    yield "async", asyncio.run(coroutine(texts_for(name, "async")))
