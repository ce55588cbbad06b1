"""What a trial is given, and what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Outcome:
    """What came out of a trial.

    Attributes:
        figures: by name, in the order in which they are to be shown.
        failures: a sentence for each thing that went wrong; none if the trial was passed.
    """

    figures: dict[str, int | float | str]
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Trial:
    """A trial with its two lengths.

    Attributes:
        name: a row of the table in docs/reliability.md.
        bar: what has to come out, in words.
        run: ``run(place, count)`` does it ``count`` times over in an empty directory.
        short: ``count`` in ``make test``: some seconds in all.
        long: ``count`` in ``make soak``.
    """

    name: str
    bar: str
    run: Callable[[Path, int], Outcome]
    short: int
    long: int
