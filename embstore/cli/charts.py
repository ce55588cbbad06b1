"""Small charts as HTML and SVG: no library, no script, no size of their own.

The picture is stretched to the width there is; words and numbers stand beside it as text, so that
they are as large on a phone as elsewhere. Colours are classes of the page, for light and dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 1000.0, 300.0

Points = Sequence[tuple[float, float]]
"""x and y, both from 0 to 1; x in order."""


@dataclass(frozen=True)
class Chart:
    """A picture with its axes.

    Attributes:
        title: what is shown.
        described: the same in a sentence, for those who do not see it.
        picture: SVG elements, as the functions below make them.
        top: what stands at the top of the axis, as text; so do the others:
        middle: half way up;
        below: along the lower edge, from left to right.
        legend: classes of the colours, and what they mean.
    """

    title: str
    described: str
    picture: str
    top: str
    middle: str
    below: Sequence[str]
    legend: Sequence[tuple[str, str]] = ()

    def __str__(self) -> str:
        below = "".join(f"<span>{escape(label)}</span>" for label in self.below)
        legend = "".join(
            f'<span><svg viewBox="0 0 10 10" aria-hidden="true"><rect class="{name}" width="10" '
            f'height="10"/></svg> {escape(meaning)}</span>'
            for name, meaning in self.legend
        )
        lines = "".join(
            f'<path class="grid" d="M0 {y * _HEIGHT:g}H{_WIDTH:g}"/>' for y in (0, 0.5, 1)
        )
        return f"""<figure>
<figcaption>{escape(self.title)}<span class="legend">{legend}</span></figcaption>
<div class="plot">
<div class="up" aria-hidden="true"><span>{escape(self.top)}</span>
<span>{escape(self.middle)}</span><span>0</span></div>
<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" role="img"
 aria-label="{escape(self.described)}">{lines}{self.picture}</svg>
<div class="along" aria-hidden="true">{below}</div>
</div>
</figure>"""


def steps(points: Points) -> str:
    """What stays as it is until the next point, filled down to the axis."""
    if not points:
        return ""
    x, y = _at(points[0])
    line = f"M{x:.1f} {y:.1f}"
    for point in points[1:]:
        x, y = _at(point)
        line += f"H{x:.1f}V{y:.1f}"
    line += f"H{_WIDTH:g}"
    first = _at(points[0])[0]
    area = f"{line}V{_HEIGHT:g}H{first:.1f}Z"
    return f'<path class="area" d="{area}"/><path class="line" d="{line}"/>'


def dots(points: Points, titles: Iterable[str]) -> str:
    """Points with a line through them; each says its title when it is pointed at."""
    places = [_at(point) for point in points]
    line = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    # A line of no length with round ends: a circle would be stretched with the picture.
    marks = "".join(
        f'<path class="dot" d="M{x:.1f} {y:.1f}h0"><title>{escape(title)}</title></path>'
        for (x, y), title in zip(places, titles, strict=True)
    )
    return f'<path class="line" d="{line}"/>{marks}'


def bars(stacks: Sequence[tuple[float, float]], titles: Sequence[str]) -> str:
    """Columns side by side over the whole width, each of two parts: the first at the bottom."""
    step = _WIDTH / max(1, len(stacks))
    width = max(min(step * 0.8, 60.0), step * 0.5)
    drawn = []
    for number, ((first, second), title) in enumerate(zip(stacks, titles, strict=True)):
        if not first and not second:
            continue
        left, low = (number + 0.5) * step - width / 2, _HEIGHT * (1 - first)
        high = low - _HEIGHT * second
        drawn.append(
            f"<g><title>{escape(title)}</title>"
            f'<rect class="first" x="{left:.1f}" y="{low:.1f}" width="{width:.1f}" '
            f'height="{_HEIGHT - low:.1f}"/>'
            f'<rect class="second" x="{left:.1f}" y="{high:.1f}" width="{width:.1f}" '
            f'height="{low - high:.1f}"/></g>'
        )
    return "".join(drawn)


def sparkline(points: Points) -> str:
    """:func:`steps`, as small as a word."""
    return (
        f'<svg class="spark" viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" preserveAspectRatio="none" '
        f'aria-hidden="true">{steps(points)}</svg>'
    )


def share(part: float) -> str:
    """A bar as long as ``part`` of 1."""
    return (
        '<svg class="share" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="first" width="{100 * part:.1f}" height="10"/></svg>'
    )


def nice(most: float) -> float:
    """Where an axis may end that has to reach ``most``: at a round number.

    >>> [nice(most) for most in (0, 3, 17, 5000, 70_000)]
    [1, 3, 20, 5000, 80000]
    """
    if most <= 1:
        return 1
    power: float = 10 ** math.floor(math.log10(most))
    ends = (1, 1.2, 1.5, 2, 3, 4, 5, 6, 8, 10)
    return next(power * step for step in ends if most <= power * step)


def short(number: float) -> str:
    """A number for an axis.

    >>> [short(number) for number in (0.5, 4, 1500, 20_000, 3_000_000)]
    ['0.5', '4', '1,500', '20 k', '3 M']
    """
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= 10 * size or (number >= size and unit != "k"):
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.4g}" if number < 1000 else f"{number:,.0f}"


def _at(point: tuple[float, float]) -> tuple[float, float]:
    return point[0] * _WIDTH, (1 - point[1]) * _HEIGHT
