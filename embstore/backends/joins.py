"""Two answers to one look-up, of which the second has what the first lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from embstore.backends.base import Found
from embstore.backends.rows import Array

Answer = tuple[Array, Found]
"""Vectors, (n, dim), with zeros where nothing was found; and which were found, (n,) bool."""


def nothing(digests: Sequence[bytes]) -> Answer:
    """The answer of whoever has nothing."""
    return np.zeros((len(digests), 0), np.float32), np.zeros(len(digests), np.bool_)


def absent(digests: Sequence[bytes], found: Found) -> Sequence[bytes]:
    """Those that were not found."""
    if not found.any():
        return digests
    return [digests[place] for place in np.flatnonzero(~found).tolist()]


def once(digests: Sequence[bytes], ask: Callable[[Sequence[bytes]], Answer]) -> Answer:
    """The answer to digests of which each is asked for once, however often it stands there."""
    distinct = list(dict.fromkeys(digests))
    vectors, found = ask(distinct)
    if len(distinct) == len(digests):
        return vectors, found
    place = {digest: number for number, digest in enumerate(distinct)}
    places = [place[digest] for digest in digests]
    return vectors[places], found[places]


def fit(one: Array, other: Array) -> bool:
    """Whether vectors are of one kind. Those of nothing go with all."""
    kinds = (one.dtype, one.shape[1]), (other.dtype, other.shape[1])
    return kinds[0] == kinds[1] or 0 in (one.shape[1], other.shape[1])


def join(first: Answer, second: Answer) -> Answer:
    """What was found, and what was found of the rest: (n, dim) and (k, dim), of one kind."""
    (vectors, found), (more, there) = first, second
    if not found.any():
        return second
    if there.any():
        places = np.flatnonzero(~found)
        found = found.copy()
        found[places] = there
        vectors[places[there]] = more[there]
    return vectors, found
