"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from benchmarks.growth.apart import Figures
from benchmarks.growth.catalogue import GROWTH, SHAPES, Metric
from embstore.batching.report import text_table


@dataclass
class Report:
    """All figures of a run, in seconds, bytes and numbers.

    Attributes:
        environment: the machine and the versions.
        sizes: figures of each size.
        shapes: figures of each shape, by its name.
        seconds: what the run took so far.
    """

    environment: list[str]
    sizes: list[Figures] = field(default_factory=list)
    shapes: dict[str, Figures] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def read(cls, path: Path) -> Report:
        """What :meth:`save` wrote."""
        fields = json.loads(path.read_text())
        fields.pop("figures")
        return cls(**fields)

    def save(self, path: Path) -> None:
        """Write all of it as JSON, with what each figure is."""
        known = {metric.name: metric.title for metric in SHAPES + GROWTH}
        units = {name: title.rpartition(", ")[0] or title for name, title in known.items()}
        document = {"figures": units, **asdict(self)}
        path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def markdown(self) -> Iterator[str]:
        """The machine, and a table whose columns are the sizes; one for the shapes."""
        yield "\n".join(f"    {line}" for line in self.environment)
        if self.sizes:
            yield ""
            names = [f"{figures['rows']:,.0f} rows" for figures in self.sizes]
            yield _table(f"{self.sizes[0]['dim']:.0f} dimensions", names, GROWTH, self.sizes)
        if self.shapes:
            yield ""
            yield _table("shape", list(self.shapes), SHAPES, list(self.shapes.values()))
        yield f"\nTaken in {self.seconds / 60:.1f} minutes."


def _table(
    corner: str, names: Sequence[str], metrics: Sequence[Metric], columns: Sequence[Figures]
) -> str:
    rows = [[metric.title, *map(metric.shown, columns)] for metric in metrics]
    return text_table([[corner, *names], *(row for row in rows if any(row[1:]))])
