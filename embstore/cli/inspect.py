"""``embstore inspect``: a store on one screen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console

from embstore.backends.disk.vectors import FORMAT
from embstore.cli import options as opt
from embstore.cli.output import print_json, print_table, progress_bar
from embstore.cli.stores import ID_SHOWN, Which, select, settings_of
from embstore.cli.survey import Growth, Space, Survey, hit_rate, printable, survey
from embstore.stats import format_bytes

_SHOWN = 20
"""Namespaces on one screen."""

_BLOCKS, _ASCII = "▁▂▃▄▅▆▇█", "_.-:=+*#"
_WIDTH = 16

Deep = Annotated[
    bool, typer.Option("--deep", help="Check every row too, as 'embstore verify' does.")
]


def inspect(
    location: opt.Store = None, namespace: Which = None, deep: Deep = False, json: opt.Json = False
) -> None:
    """Show a store on one screen: its namespaces, how they grew and were used, who is at work, and
    whether it is sound. Exit code 1 if it is not. Writes nothing.

    [bold]Example:[/bold] embstore inspect --namespace all-MiniLM-L6-v2
    """
    with ExitStack() as stack:

        def begin(rows: int) -> Callable[[int], object]:
            update: Callable[[int], object] = stack.enter_context(progress_bar(rows, "rows")).update
            return update

        found = survey(location, begin if deep else None)
    spaces = found.spaces
    if namespace is not None:
        wanted = {info.namespace for info in select([s.info for s in spaces], namespace)}
        spaces = tuple(space for space in spaces if space.info.namespace in wanted)
    if json:
        shown = found.to_dict()
        print_json(shown | {"namespaces": [space.to_dict() for space in spaces]})
    elif namespace is None:
        _print_store(found)
    else:
        for number, space in enumerate(spaces):
            print(end="\n" if number else "")
            _print_space(space, found.taken)
    if found.problems:
        raise typer.Exit(1)


def _print_store(found: Survey) -> None:
    ratio = f", {found.bytes / found.raw:.2f} of the bare numbers" if found.raw else ""
    mount = "unknown" if found.mount is None else f"{found.mount.kind} at {found.mount.point}"
    _print_lines(
        ("store", f"{found.location}, format {FORMAT}, with its own seed"),
        ("file system", mount),
        ("vectors", f"{found.entries:,} in {len(found.spaces):,} namespaces"),
        ("size", f"{format_bytes(found.bytes)}{ratio}"),
        ("hits", _hits(found.hits, found.misses)),
        ("saved", f"{found.seconds_saved:,.1f} s of computing"),
        ("at work", _at_work(found)),
        ("health", found.health),
    )
    if not found.spaces:
        return
    print_table(
        ("id", "model", "settings", "vectors", "size", "hits", "saved", "used", "written", "grew"),
        (_row(space, found.taken) for space in found.spaces[:_SHOWN]),
        left=3,
    )
    if (more := len(found.spaces) - _SHOWN) > 0:
        print(f"and {more:,} smaller ones: 'embstore namespaces' lists them all")


def _row(space: Space, now: float) -> tuple[str, ...]:
    info = space.info
    rate = space.hit_rate
    return (
        info.namespace.id.hex()[:ID_SHOWN],
        printable(info.namespace.model_name),
        settings_of(info),
        f"{info.entries:,} x {info.dim} {info.dtype}",
        format_bytes(info.bytes),
        "-" if rate is None else f"{rate:.1%}",
        f"{info.seconds_saved:,.1f} s",
        space.last_used or "-",
        "-" if space.last_written is None else moment(space.last_written, now)[:10],
        sparkline(space.history.growth, now, blocks=_blocks()),
    )


def _print_space(space: Space, now: float) -> None:
    info, growth = space.info, space.history.growth
    written = "not known" if space.last_written is None else moment(space.last_written, now)
    mean = f", {1000 * info.encode_seconds / info.computed:,.2f} ms each" if info.computed else ""
    since = f" since {moment(growth[0][0], now)}" if growth else "not known"
    _print_lines(
        ("namespace", info.namespace.id.hex()),
        ("model", printable(info.namespace.model_name)),
        ("settings", settings_of(info) or "none"),
        ("fingerprint", printable(info.namespace.fingerprint) or "none"),
        ("vectors", f"{info.entries:,} x {info.dim} {info.dtype}"),
        ("size", f"{format_bytes(info.bytes)}, {format_bytes(space.raw)} as bare numbers"),
        ("computed", f"{info.computed:,} in {info.encode_seconds:,.1f} s{mean}"),
        ("hits", _hits(info.hits, info.misses)),
        ("saved", f"{info.seconds_saved:,.1f} s of computing"),
        ("last used", space.last_used or "not known"),
        ("last written", written),
        ("grew", sparkline(growth, now, width=40, blocks=_blocks()) + since),
    )
    if space.history.days:
        print_table(
            ("day (UTC)", "hits", "misses", "hit rate", "vectors"),
            (
                (
                    day.date.isoformat(),
                    f"{day.hits:,}",
                    f"{day.misses:,}",
                    _rate(day.hits, day.misses),
                    f"{day.entries:,}",
                )
                for day in space.history.days[-_SHOWN:]
            ),
        )


def _print_lines(*lines: tuple[str, str]) -> None:
    width = max(len(name) for name, _ in lines)
    for name, value in lines:
        print(f"{name:<{width}}  {value}")


def _hits(hits: int, misses: int) -> str:
    return f"{hits:,} of {hits + misses:,} texts ({_rate(hits, misses)})"


def _rate(hits: int, misses: int) -> str:
    rate = hit_rate(hits, misses)
    return "-" if rate is None else f"{rate:.1%}"


def _at_work(found: Survey) -> str:
    workers, claimed = found.now.workers, found.now.claimed
    if workers is None:
        return "not known: this user may not look"
    if not workers:
        return "nobody computes"
    return f"{workers:,} processes, {claimed or 0:,} texts being computed"


def _blocks() -> str:
    return _BLOCKS if Console().encoding.lower().startswith("utf") else _ASCII


def moment(seconds: float, now: float) -> str:
    """A time as people write it, in UTC. (The store's own may be ahead of the clock.)"""
    return datetime.fromtimestamp(min(seconds, now), UTC).strftime("%Y-%m-%d %H:%M")


def sparkline(growth: Growth, now: float, width: int = _WIDTH, blocks: str = _BLOCKS) -> str:
    """How something grew from its first time until now, as ``width`` characters; "" if that is not
    known.

    >>> sparkline([(0.0, 1), (50.0, 4), (75.0, 8)], 100.0, width=4)
    '▁▁▄█'
    """
    if not growth:
        return ""
    first = min(growth[0][0], now)
    most = max(count for _, count in growth)
    shown, place, count = "", 0, growth[0][1]
    for number in range(1, width + 1):
        until = first + (now - first) * number / width
        while place < len(growth) and min(growth[place][0], now) < until:
            count = growth[place][1]
            place += 1
        if number == width:
            count = growth[-1][1]
        shown += blocks[max(0, -(-count * len(blocks) // max(1, most)) - 1)]
    return shown
