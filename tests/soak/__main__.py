"""``python -m tests.soak``: every trial at its full length, and a table of what came out."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from embstore.batching.environment import environment
from tests.soak import damage, forks, full_disk, interrupts, kills, processes, workers
from tests.soak.trial import Outcome, Trial

TRIALS: list[Trial] = [
    trial
    for module in (kills, processes, forks, interrupts, workers, damage, full_disk)
    for trial in module.TRIALS
]


@dataclass(frozen=True)
class Row:
    """A trial, what came out, and the seconds it took."""

    trial: Trial
    count: int
    outcome: Outcome
    seconds: float

    def to_markdown(self) -> str:
        """A row of the table."""
        figures = "; ".join(
            f"{name}: {shown(value)}" for name, value in self.outcome.figures.items()
        )
        verdict = "**FAILED**" if self.outcome.failures else "passed"
        cells = [self.trial.name, self.trial.bar, figures, f"{self.seconds:,.0f}", verdict]
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def to_json(self) -> dict[str, object]:
        """All of it, as JSON values."""
        return {
            "trial": self.trial.name,
            "bar": self.trial.bar,
            "count": self.count,
            "figures": self.outcome.figures,
            "failures": self.outcome.failures,
            "seconds": round(self.seconds, 1),
        }


def shown(value: float | str) -> str:
    """A figure as text."""
    return value if isinstance(value, str) else f"{value:,}"


def measure(trial: Trial, count: int) -> Row:
    """Run a trial in a directory of its own, which is deleted afterwards."""
    with tempfile.TemporaryDirectory(prefix="embstore-soak-") as place:
        began = time.perf_counter()
        outcome = trial.run(Path(place), count)
        return Row(trial, count, outcome, time.perf_counter() - began)


def head(where: dict[str, str]) -> Iterator[str]:
    """What stands above the rows of the table: where and when this was run."""
    yield ", ".join(f"{name} {value}" for name, value in where.items())
    yield f"{date.today().isoformat()}, files in {tempfile.gettempdir()}"
    yield ""
    yield "| trial | bar | what came out | seconds | |"
    yield "| --- | --- | --- | ---: | --- |"


def main() -> int:
    """Run the trials that were asked for; 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--only", metavar="PART", default="", help="trials with this in their name")
    parser.add_argument("--short", action="store_true", help="the short forms: some seconds each")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    arguments = parser.parse_args()
    chosen = [trial for trial in TRIALS if arguments.only.lower() in trial.name.lower()]
    if not chosen:
        parser.error(f"no trial has {arguments.only!r} in its name")
    where, rows = environment(), []
    print("\n".join(head(where)), flush=True)
    for trial in chosen:
        rows.append(measure(trial, trial.short if arguments.short else trial.long))
        print(rows[-1].to_markdown(), flush=True)
        for failure in rows[-1].outcome.failures:
            print(f"{trial.name}: {failure}", file=sys.stderr, flush=True)
    if arguments.json is not None:
        document = {
            "date": date.today().isoformat(),
            "environment": where,
            "trials": [row.to_json() for row in rows],
        }
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    return int(any(row.outcome.failures for row in rows))


if __name__ == "__main__":
    sys.exit(main())
