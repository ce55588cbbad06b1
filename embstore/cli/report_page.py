"""The page of ``embstore report``: a store, as its owner's colleagues may be shown it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from html import escape
from typing import Any

from embstore import __version__
from embstore.backends.base import Day
from embstore.backends.disk.vectors import FORMAT
from embstore.batching import Sweep
from embstore.batching.report import html_table
from embstore.cli import charts
from embstore.cli.stores import ID_SHOWN, settings_of
from embstore.cli.survey import Growth, Space, Survey, hit_rate, printable
from embstore.stats import format_bytes

TITLE = "embstore: what is stored"
_OPEN = 50
"""Namespaces that are shown without being asked for."""
_MOST_DAYS = 120
"""Days in a chart: as many columns as can be told apart."""


def page(found: Survey, measured: Sweep | None = None) -> str:
    """The body of the page, as HTML in which everything is escaped.

    Args:
        found: the store.
        measured: what ``embstore bench batch-size`` has measured; None leaves it out.
    """
    parts = [_head(found), _charts(found), _spaces(found)]
    parts += [_batch_sizes(found.batch_sizes)] if found.batch_sizes else []
    parts += [_sweep(measured)] if measured is not None else []
    return "\n".join([*parts, _foot(found)])


# --- the figures --------------------------------------------------------------------------------


def _head(found: Survey) -> str:
    rate = hit_rate(found.hits, found.misses)
    ratio = f"{found.bytes / found.raw:.2f} x the bare numbers" if found.raw else ""
    health = f'<span class="bad">{escape(found.health)}</span>'
    tiles = [
        ("vectors", f"{found.entries:,}", f"in {len(found.spaces):,} namespaces"),
        ("on disk", format_bytes(found.bytes), ratio),
        (
            "hit rate",
            "-" if rate is None else f"{rate:.1%}",
            f"{found.hits:,} of {found.hits + found.misses:,} texts",
        ),
        ("computing saved", _duration(found.seconds_saved), "hits times mean cost"),
    ]
    shown = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}<small>{escape(more)}</small></dd></div>\n"
        for name, value, more in tiles
    )
    taken = datetime.fromtimestamp(found.taken, UTC).strftime("%Y-%m-%d %H:%M UTC")
    wrong = f"<p>{health}</p>" if found.problems else ""
    return f"""<header>
<h1>{TITLE}</h1>
<div class="note">{escape(printable(found.location))}, {taken}</div>
{wrong}</header>
<main>
<dl class="tiles">
{shown}</dl>"""


def _foot(found: Survey) -> str:
    mount = "unknown" if found.mount is None else f"{found.mount.kind} at {found.mount.point}"
    workers = found.now.workers
    lines = {
        "health": found.health,
        "file system": printable(mount),
        "format": f"{FORMAT}, read by embstore {__version__}",
        "processes at work": "not known" if workers is None else f"{workers:,}",
        "texts being computed": "not known" if workers is None else f"{found.now.claimed or 0:,}",
    }
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>\n" for name, value in lines.items())
    return f"<section>\n<h2>The store</h2>\n<dl>\n{listed}</dl>\n</section>\n</main>"


# --- over time ----------------------------------------------------------------------------------


def _charts(found: Survey) -> str:
    days = _every_day(found.days, datetime.fromtimestamp(found.taken, UTC).date())
    shown = [_growth(found.growth, found.taken)] if found.growth else []
    if days:
        shown += [_rates(days), _volumes(days)]
    if not shown:
        return ""
    listed = ""
    if found.days:
        cells = [("day (UTC)", "hits", "misses", "hit rate", "vectors")] + [
            (
                each.date.isoformat(),
                f"{each.hits:,}",
                f"{each.misses:,}",
                _percent(hit_rate(each.hits, each.misses)),
                f"{each.entries:,}",
            )
            for each in reversed(found.days)
        ]
        listed = (
            f"<details><summary>Day by day</summary>"
            f'<div class="wide" tabindex="0">{html_table(cells)}</div></details>'
        )
    return f"""<section>
<h2>Over time</h2>
<div class="charts">
{"".join(map(str, shown))}
</div>
<p class="note">All processes together, as far as it was noted: look-ups by the day, in UTC; growth
since the stored vectors were last compacted, and by the day before. Which of the hits came from
memory, each process knows of its own only (<code>store.stats()</code>).</p>
{listed}
</section>"""


def _growth(growth: Growth, now: float) -> charts.Chart:
    top = charts.nice(max(count for _, count in growth))
    first = min(growth[0][0], now)
    return charts.Chart(
        title="Vectors stored",
        described=f"Vectors stored, from {growth[0][1]:,} on {_day(first)} to {growth[-1][1]:,}",
        picture=charts.steps(_scaled(growth, now, top)),
        top=charts.short(top),
        middle=charts.short(top / 2),
        below=_moments(first, now),
    )


def _rates(days: Sequence[Day]) -> charts.Chart:
    rated = [
        (number, rate)
        for number, day in enumerate(days)
        if (rate := hit_rate(day.hits, day.misses)) is not None
    ]
    titles = [f"{days[number].date}: {rate:.1%}" for number, rate in rated]
    return charts.Chart(
        title="Hit rate",
        described=f"Hit rate by day, from {rated[0][1]:.0%} to {rated[-1][1]:.0%}"
        if rated
        else "No look-ups",
        picture=charts.dots([((number + 0.5) / len(days), rate) for number, rate in rated], titles)
        if rated
        else "",
        top="100%",
        middle="50%",
        below=_dates(days),
    )


def _volumes(days: Sequence[Day]) -> charts.Chart:
    top = charts.nice(max(day.hits + day.misses for day in days))
    return charts.Chart(
        title="Texts asked for",
        described=f"Texts asked for by day, at most {int(top):,}",
        picture=charts.bars(
            [(day.hits / top, day.misses / top) for day in days],
            [f"{day.date}: {day.hits:,} hits, {day.misses:,} misses" for day in days],
        ),
        top=charts.short(top),
        middle=charts.short(top / 2),
        below=_dates(days),
        legend=(("first", "hits"), ("second", "misses")),
    )


def _every_day(days: Sequence[Day], today: date) -> list[Day]:
    """The days from the first one with look-ups until today, those without among them."""
    known = {day.date: day for day in days if day.date <= today}
    if not known:
        return []
    count = min(_MOST_DAYS, (today - min(known)).days + 1)
    dates = [today - timedelta(days=back) for back in reversed(range(count))]
    return [known.get(each, Day(each, 0, 0, 0)) for each in dates]


def _scaled(growth: Growth, now: float, top: float) -> list[tuple[float, float]]:
    first = min(growth[0][0], now)
    span = max(now - first, 1.0)
    return [((min(when, now) - first) / span, max(0, count) / top) for when, count in growth]


def _dates(days: Sequence[Day]) -> list[str]:
    shown = [days[0], days[len(days) // 2], days[-1]] if len(days) > 2 else days
    return [f"{day.date.day} {day.date:%b}" for day in shown]


def _moments(first: float, now: float) -> list[str]:
    if now - first < 2 * 86_400:
        begun = datetime.fromtimestamp(first, UTC)
        return [f"{begun.day} {begun:%b %H:%M}", "now"]
    return [_day(first), _day((first + now) / 2), "now"]


def _day(seconds: float) -> str:
    moment = datetime.fromtimestamp(seconds, UTC)
    return f"{moment.day} {moment:%b}"


# --- namespaces ---------------------------------------------------------------------------------


def _spaces(found: Survey) -> str:
    if not found.spaces:
        return "<section><h2>Namespaces</h2><p>Nothing is stored yet.</p></section>"
    largest = max(space.info.bytes for space in found.spaces)
    rows = [_row(space, largest, found.taken) for space in found.spaces]
    more = ""
    if others := rows[_OPEN:]:
        more = f"<details><summary>{len(others):,} smaller ones</summary>{_table(others)}</details>"
    return f"""<section>
<h2>Namespaces</h2>
{_table(rows[:_OPEN])}
{more}
<p class="note">A namespace is a model with the settings that decide a vector. Computing saved is
estimated: each hit counts as much as computing a vector of its namespace took on average.</p>
</section>"""


def _table(rows: Sequence[str]) -> str:
    names = ("model and settings", "vectors", "size", "hit rate", "saved", "growth", "last used")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<table class="spaces">\n<thead><tr>{head}</tr></thead>\n<tbody>\n{"".join(rows)}</tbody>'
        "\n</table>"
    )


def _row(space: Space, largest: int, now: float) -> str:
    info, growth = space.info, space.history.growth
    name = escape(printable(info.namespace.model_name))
    settings = escape(printable(settings_of(info)))
    top = max((count for _, count in growth), default=0)
    cells = (
        ("vectors", f"{info.entries:,} x {info.dim}<code>{escape(info.dtype)}</code>"),
        ("size", f"{format_bytes(info.bytes)}{charts.share(info.bytes / largest)}"),
        ("hit rate", _percent(space.hit_rate)),
        ("saved", f"{_duration(info.seconds_saved)}<code>{_mean_cost(space)}</code>"),
        ("growth", charts.sparkline(_scaled(growth, now, max(1, top))) if growth else "-"),
        ("last used", space.last_used or "-"),
    )
    listed = "".join(f'<td data-label="{label}">{value}</td>' for label, value in cells)
    return (
        f'<tr><th scope="row"><b>{name}</b>{settings} '
        f"<code>{info.namespace.id.hex()[:ID_SHOWN]}</code></th>{listed}</tr>\n"
    )


def _mean_cost(space: Space) -> str:
    info = space.info
    if not info.computed or not info.encode_seconds:
        return ""
    return f"{1000 * info.encode_seconds / info.computed:,.3g} ms each"


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def _duration(seconds: float) -> str:
    """A time as people say it.

    >>> [_duration(seconds) for seconds in (0.25, 90, 5400, 200_000)]
    ['0.2 s', '1.5 min', '1.5 h', '2.3 days']
    """
    for unit, size in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= size * (2 if unit == "days" else 1):
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:,.1f} s"


# --- batch sizes --------------------------------------------------------------------------------


def _batch_sizes(found: Sequence[dict[str, Any]]) -> str:
    cells = [("model", "on", "a batch holds", "settled", "speeds tried")]
    for each in found:
        speeds = ", ".join(
            f"{size}: {speed:.2f}"
            for size, speed in sorted(each["speeds"].items(), key=lambda pair: int(pair[0]))
        )
        cells.append(
            (
                printable(str(each.get("model") or "not named")),
                printable(str(each.get("on") or "not named")),
                f"{each['size']:,} {printable(str(each.get('unit', '')))}",
                "yes" if each.get("settled") is True else "not yet",
                speeds,
            )
        )
    return f"""<section>
<h2>Batch sizes found</h2>
<div class="wide found" tabindex="0">{html_table(cells)}</div>
<p class="note">By <code>batch_size="auto"</code>, on texts that had to be computed anyway. Speeds
are relative to the size that was known before.</p>
</section>"""


def _sweep(measured: Sweep) -> str:
    section = measured.section()
    timings = measured.timings
    top = charts.nice(max(each.throughput for each in timings))
    last = max(1, len(timings) - 1)
    chart = charts.Chart(
        title="Texts per second, by batch size",
        described=f"Texts per second by batch size, at most {int(top):,}",
        picture=charts.dots(
            [(number / last, each.throughput / top) for number, each in enumerate(timings)],
            [f"{each.batch_size}: {each.throughput:,.0f} texts/s" for each in timings],
        ),
        top=charts.short(top),
        middle=charts.short(top / 2),
        below=[str(each.batch_size) for each in timings],
    )
    conclusions = "".join(f"<li>{escape(each)}</li>\n" for each in section.conclusions)
    environment = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>\n"
        for name, value in section.environment.items()
    )
    return f"""<section>
<h2>{escape(section.title)}, measured</h2>
<p>{escape(section.setup)}</p>
{chart}
<ul>
{conclusions}</ul>
<div class="wide" tabindex="0">{html_table(section.cells)}</div>
<details><summary>Measured on</summary><dl>
{environment}</dl></details>
</section>"""
