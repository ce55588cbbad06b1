"""One panel for each measure: a row for each peer, a logarithmic axis."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.peers.catalogue import PEERS
from benchmarks.peers.measures import MEASURES, Measure
from benchmarks.peers.report import Report
from benchmarks.peers.table import Cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ["#4477aa", "#ee6677", "#228833", "#ccbb44", "#aa3377"]
_MARKERS = ["o", "s", "^", "D", "v"]
_FACTORS = {"µs": 1e6, "s": 1.0, "x": 1.0}
_COLUMNS = 4


def draw(report: Report, path: Path) -> None:
    """Draw the medians, as .png or .svg: colours are sizes, shapes are dimensions."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = -(-len(MEASURES) // _COLUMNS)
    figure = Figure(figsize=(4 * _COLUMNS, 3.6 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, _COLUMNS, squeeze=False).ravel()
    for panel, measure in zip(panels, MEASURES, strict=False):
        _fill(panel, report, measure)
    for panel in panels[len(MEASURES) :]:
        panel.axis("off")
    handles, labels = panels[1].get_legend_handles_labels()
    panels[-1].legend(handles, labels, loc="center", title="vectors")
    figure.savefig(path, dpi=110)


def _fill(panel: Axes, report: Report, measure: Measure) -> None:
    """The figures of one measure."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    known = {side for each in report.measured for side in each.rounds}
    sides = ["floor", "embstore", *(each.name for each in PEERS if each.name in known)]
    counts = sorted({count for _, count in report.sizes()})
    dims = sorted({dim for dim, _ in report.sizes()})
    for dim, count in report.sizes():
        cells = Cells(report, dim, count)
        found = {side: cells.figures(side, measure) for side in sides}
        points = [
            (_value(measure, figures[0]), sides.index(side))
            for side, figures in found.items()
            if figures is not None
        ]
        panel.plot(
            [x for x, _ in points],
            [y for _, y in points],
            _MARKERS[dims.index(dim) % len(_MARKERS)],
            color=_COLOURS[counts.index(count) % len(_COLOURS)],
            alpha=0.75,
            label=f"{count:,} of {dim}",
        )
    panel.set_xscale("log")
    # Whole numbers instead of powers, and few between: panels of less than a decade have them too.
    panel.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    panel.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{float(f'{value:.2g}'):,.10g}")
    )
    panel.xaxis.set_minor_formatter(NullFormatter())
    panel.set_ylim(-0.5, len(sides) - 0.5)
    panel.set_yticks(range(len(sides)), sides)
    panel.invert_yaxis()
    panel.grid(visible=True, axis="x", which="both", alpha=0.25)
    better = "more is better" if measure.unit == "texts/s" else "less is better"
    unit = "" if measure.unit == "x" else f"{measure.unit}, "
    panel.set_title(f"{measure.title}\n({unit}{better})", fontsize="medium")


def _value(measure: Measure, seconds: float) -> float:
    return 1 / seconds if measure.unit == "texts/s" else seconds * _FACTORS[measure.unit]
