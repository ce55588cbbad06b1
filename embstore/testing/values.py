"""Digests, and vectors that any process can check."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from embstore.backends.rows import Array
from embstore.keys import DIGEST_SIZE, Namespace

DTYPES = ("float16", "float32", "float64", "int8", "uint8")
"""The dtypes that every backend must keep, as numpy names them."""

A = Namespace("conformance", fingerprint="a")
B = Namespace("conformance", fingerprint="b")


def make_digests(count: int, first: int = 0) -> list[bytes]:
    """``count`` digests of 16 bytes, the same ones every time, numbered from ``first`` on."""
    return [
        hashlib.blake2b(b"%d" % number, digest_size=DIGEST_SIZE).digest()
        for number in range(first, first + count)
    ]


def true_vectors(
    namespace: Namespace,
    keys: Sequence[bytes],
    dim: int = 8,
    dtype: npt.DTypeLike = "float32",
) -> Array:
    """The vectors that belong to keys: a pure function of namespace and key.

    Any process can so check any vector, whoever wrote it and whatever happened since.

    Args:
        namespace: the namespace.
        keys: n byte strings: digests, or whatever else identifies a text.
        dim: numbers in a vector.
        dtype: floating point (all numbers are between -1 and 1) or integer.

    Returns:
        (n, dim) of ``dtype``, C-contiguous.
    """
    raw = b"".join(hashlib.shake_128(namespace.id + key).digest(8 * dim) for key in keys)
    numbers = np.frombuffer(raw, "<i8").reshape(len(keys), dim)
    if np.dtype(dtype).kind == "f":
        return (numbers / 2.0**63).astype(dtype)
    return numbers.astype(dtype)


def assert_same(vectors: Array, expected: Array) -> None:
    """Assert that two arrays have one dtype, one shape and the same bits."""
    assert vectors.dtype == expected.dtype
    assert vectors.shape == expected.shape
    assert vectors.tobytes() == expected.tobytes()
