"""When a server that does not answer is asked again."""

from __future__ import annotations

import time

_LEAST, _MOST = 1.0, 60.0
"""Seconds that a server is left alone after it has failed."""


class Patience:
    """Leaves a server alone that does not answer: four times as long as it was waited for, twice as
    long each time, a minute at most. So a job without its server is slower by little."""

    def __init__(self) -> None:
        self._why = ""
        self._pause = 0.0
        self._until = 0.0

    @property
    def why_not(self) -> str:
        """What it failed with, as long as it is to be left alone; "" if it may be asked."""
        return self._why if self._why and time.monotonic() < self._until else ""

    def failed(self, start: float, why: str) -> None:
        """It did not answer; it was asked at the ``time.monotonic()`` given."""
        now = time.monotonic()
        self._pause = min(_MOST, max(_LEAST, 2 * self._pause, 4 * (now - start)))
        self._why, self._until = why, now + self._pause

    def answered(self) -> None:
        """It did."""
        if self._why:
            self._why, self._pause = "", 0.0
