"""Pieces of HTML for notebooks: a table, and a bar of what something is made of.

No style sheet, script or library, as a notebook's page belongs to others. Words take the page's own
colour; the bar's colours stand out from white and from black (WCAG's 3 to 1), and can be told apart
by those who are colour-blind (they are Okabe and Ito's, the lighter ones darkened).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_COLOURS = ("#0072B2", "#009E73", "#B35C8C", "#B98000", "#808080")
_WIDTH, _HEIGHT, _GAP = 480, 14, 2

Parts = Sequence[tuple[str, int]]
"""At most five: what a part is, and its number."""


def table(rows: Iterable[Sequence[str]], columns: Sequence[str] = ()) -> str:
    """A table whose first column names its rows. Everything is escaped.

    Args:
        rows: of texts.
        columns: what stands at their heads.
    """
    head = "".join(
        f"<th scope='col' style='text-align:left'>{escape(each)}</th>" for each in columns
    )
    body = "".join(
        f"<tr><th scope='row' style='text-align:left'>{escape(name)}</th>"
        + "".join(f"<td style='text-align:left'>{escape(each)}</td>" for each in others)
        + "</tr>"
        for name, *others in rows
    )
    return (
        f"<table>{f'<thead><tr>{head}</tr></thead>' if head else ''}<tbody>{body}</tbody></table>"
    )


def bar(title: str, parts: Parts) -> str:
    """A bar divided among parts, with its legend; "" if all are 0.

    Args:
        title: what is divided, for those who do not see it too.
        parts: what it is divided into.
    """
    total = sum(count for _, count in parts)
    if not total:
        return ""
    shown = [
        (f"{name} {count:,} ({count / total:.1%})", count, colour)
        for (name, count), colour in zip(parts, _COLOURS, strict=False)
        if count
    ]
    # A pixel for the smallest part: one miss in a million hits is the one that is looked for.
    room = _WIDTH - (_GAP + 1) * len(shown) + _GAP
    start, bars, legend = 0.0, "", ""
    for label, count, colour in shown:
        width = 1 + room * count / total
        bars += (
            f"<rect x='{start:.2f}' width='{width:.2f}' height='{_HEIGHT}' fill='{colour}'>"
            f"<title>{escape(label)}</title></rect>"
        )
        legend += (
            f"<span style='white-space:nowrap;margin-right:1.2em'>"
            f"<span style='color:{colour}' aria-hidden='true'>&#9632;</span> {escape(label)}"
            "</span> "
        )
        start += width + _GAP
    described = escape(f"{title}: {', '.join(label for label, _, _ in shown)}")
    return (
        f"<div style='margin:.4em 0'><svg xmlns='http://www.w3.org/2000/svg' role='img' "
        f"aria-label='{described}' viewBox='0 0 {_WIDTH} {_HEIGHT}' width='{_WIDTH}' "
        f"style='max-width:100%;display:block'><title>{described}</title>{bars}</svg>"
        f"<div>{legend}</div></div>"
    )
