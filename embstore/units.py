"""Sizes and times as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
_SECONDS = {"": 1, "S": 1, "MIN": 60, "H": 3600, "D": 86400, "W": 7 * 86400}


def _parse(value: str, units: dict[str, int]) -> float | None:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if match is None or match[2].upper() not in units:
        return None
    return float(match[1]) * units[match[2].upper()]


def parse_bytes(size: int | str | None) -> int | None:
    """A number of bytes from 256, "256MB" (10**6) or "256MiB" (2**20); None is no limit.

    Raises:
        ValueError: if ``size`` is negative or not a size.

    >>> parse_bytes("1.5kB"), parse_bytes("1 GiB"), parse_bytes(None)
    (1500, 1073741824, None)
    """
    if size is None:
        return None
    if isinstance(size, str):
        count = _parse(size, _BYTES)
        if count is not None and count < float("inf"):
            return int(count)
    elif isinstance(size, int) and not isinstance(size, bool) and size >= 0:
        return size
    raise ValueError(f'a size is a number of bytes or a text like "256MB" or "1GiB", not {size!r}')


def parse_seconds(span: float | str | timedelta) -> float:
    """A number of seconds from 90, "90s", "15min", "12h", "30d", "2w" or a ``timedelta``.

    Raises:
        ValueError: if ``span`` is negative or no span of time.

    >>> parse_seconds("1.5h"), parse_seconds(timedelta(days=1))
    (5400.0, 86400.0)
    """
    seconds: float | None = None
    if isinstance(span, timedelta):
        seconds = span.total_seconds()
    elif isinstance(span, str):
        seconds = _parse(span, _SECONDS)
    elif isinstance(span, int | float) and not isinstance(span, bool):
        seconds = float(span)
    if seconds is None or not 0 <= seconds < float("inf"):
        raise ValueError(
            f'a time is a number of seconds or a text like "30d" or "12h", not {span!r}'
        )
    return seconds
