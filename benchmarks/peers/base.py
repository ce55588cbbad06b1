"""What every cache here can do, so that one run measures them all."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]


class Peer(Protocol):
    """A cache of float32 vectors by text, in a folder, or in this process alone."""

    def put(self, texts: list[str], vectors: Array) -> None:
        """Store a batch of new texts. It may keep the array, which is nobody else's."""

    def get(self, texts: list[str]) -> Array:
        """The vectors of stored texts: (n, dim) float32, C-contiguous, the caller's own."""

    def close(self) -> None:
        """Let go of everything; who writes something only in the end writes it now."""
