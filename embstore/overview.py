"""What a store shows of itself: its figures, and what a notebook makes of them."""

from __future__ import annotations

from html import escape

from embstore.backends.base import Backend, NamespaceInfo
from embstore.faults import Faults
from embstore.notebook import table
from embstore.stats import Counters, Stats, format_bytes

_MOST = 20
"""Namespaces shown, those with the most vectors first."""

_COLUMNS = ("model", "settings", "vectors", "numbers", "size", "hit rate, all processes")


def overview(location: str, backend: Backend | None, done: Stats) -> str:
    """A store as HTML: where it is, its namespaces, and what this process looked up.

    Never raises: what cannot be read now is said. Nobody is warned, as nothing was lost.

    Args:
        location: of the store.
        backend: what it holds; None if that could not be opened.
        done: what was looked up.
    """
    parts = [f"<strong>EmbeddingStore</strong> <code>{escape(location)}</code>"]
    try:
        if backend is None:
            raise ValueError("it could not be opened")
        infos = sorted(backend.namespaces(), key=lambda info: -info.entries)
        entries = sum(info.entries for info in infos)
        size = format_bytes(backend.size())
        parts.append(f"<div>{len(infos):,} namespaces, {entries:,} vectors, {size}</div>")
        if infos:
            parts.append(table(map(_row, infos[:_MOST]), _COLUMNS))
        if len(infos) > _MOST:
            parts.append(f"<div>and {len(infos) - _MOST:,} more: store.namespaces()</div>")
    except Exception as error:  # a cell that shows a store is not to fail for it
        parts.append(f"<div>cannot be read now: {escape(str(error))}</div>")
    if bar := done.bar():
        parts.append(f"<div>looked up since it was opened here:</div>{bar}")
    return f"<div>{''.join(parts)}</div>"


def stats_of(backend: Backend | None, faults: Faults, counters: Counters) -> Stats:
    """What this process looked up, and what is stored now.

    Args:
        backend: what is stored; None if that could not be opened.
        faults: what happens if it cannot be read.
        counters: what was looked up.
    """
    if backend is None:
        return counters.snapshot()
    nothing: list[NamespaceInfo] = []
    infos = faults.guard(backend.namespaces, nothing)
    return counters.snapshot(
        entries=sum(info.entries for info in infos),
        bytes=faults.guard(backend.size, 0),
        corrupt=backend.corrupt,
        seconds_saved=sum(
            counters.hits(info.namespace.id) * info.encode_seconds / info.computed
            for info in infos
            if info.computed
        ),
    )


def _row(info: NamespaceInfo) -> tuple[str, ...]:
    total = info.hits + info.misses
    return (
        info.namespace.model_name,
        _settings(info),
        f"{info.entries:,}",
        _together(f"{info.dim} × {info.dtype}"),  # noqa: RUF001
        _together(format_bytes(info.bytes)),
        f"{info.hits / total:.1%} of {total:,}" if total else "",
    )


def _together(words: str) -> str:
    return words.replace(" ", "\N{NO-BREAK SPACE}")


def _settings(info: NamespaceInfo) -> str:
    """What tells the namespaces of a model apart, for people."""
    space = info.namespace
    named = {
        "prompt": space.prompt,
        "task": space.task,
        "truncate_dim": space.truncate_dim,
        **space.extra,
    }
    told = [f"{name}={value!r}" for name, value in named.items() if value is not None]
    if space.normalize:
        told.insert(0, "normalized")
    # The start of what tells weights from weights, or a function's version.
    told.append(space.fingerprint[:20])
    return ", ".join(filter(None, told))
