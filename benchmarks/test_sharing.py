"""What it costs to divide texts among workers, as long as there is only one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.corpus import DIM, sentence
from benchmarks.race import Race
from embstore import CachedEncoder, EmbeddingStore


def embed(texts: list[str]) -> np.ndarray[Any, Any]:
    """A model that takes no time."""
    return np.ones((len(texts), DIM), np.float32)


def unseen(size: int) -> Iterator[tuple[list[str]]]:
    """Calls of texts that are stored nowhere yet."""
    for first in itertools.count(0, size):
        yield ([sentence(number) for number in range(first, first + size)],)


@pytest.mark.parametrize("size", [1, 256, 4096])
def test_claims_alone(race: Race, folder: Path, size: int) -> None:
    """Every text new, nobody else there, in stores of their own."""
    with (
        EmbeddingStore(folder / f"with-{size}", on_error="raise") as with_claims,
        EmbeddingStore(folder / f"without-{size}", on_error="raise") as without,
    ):
        sides: dict[str, Callable[..., Any]] = {
            "without": CachedEncoder(embed, without, model_name="f", coalesce=False).encode,
            "embstore": CachedEncoder(embed, with_claims, model_name="f").encode,
        }
        result = race(sides, items=size, rounds=50, inputs=unseen(size))
    calls = "one new text" if size == 1 else f"{size:,} new"
    result.report(f"encode(), {calls}, no model: claims", against="without")
