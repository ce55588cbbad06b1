"""Measured figures as people write them."""

from __future__ import annotations


def format_seconds(seconds: float) -> str:
    """A duration in about three digits.

    >>> format_seconds(12.34), format_seconds(1.8231), format_seconds(0.0041), format_seconds(2e-5)
    ('12.3 s', '1.82 s', '4.10 ms', '20.0 µs')
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{_three_digits(seconds / size)} {unit}"
    return f"{_three_digits(seconds * 1e6)} µs"


def format_factor(factor: float) -> str:
    """How many times as fast.

    >>> format_factor(0.98), format_factor(1.1949), format_factor(38.2), format_factor(1234.5)
    ('0.98 x', '1.19 x', '38.2 x', '1,234 x')
    """
    return f"{_three_digits(factor)} x"


def _three_digits(value: float) -> str:
    return f"{value:,.{2 if value < 10 else 1 if value < 100 else 0}f}"
