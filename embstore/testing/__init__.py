"""The conformance suite: what every backend must do, embstore's own and yours.

Subclass :class:`BackendConformance` in a test module and say how your backend is opened; pytest
collects the rest::

    from embstore.testing import BackendConformance

    class TestMyBackend(BackendConformance):
        def open(self, place):
            return MyBackend(place)

This is the only part of the package that needs pytest.
"""

from __future__ import annotations

from embstore.testing.conformance import BackendConformance
from embstore.testing.values import DTYPES, assert_same, make_digests, true_vectors

__all__ = ["DTYPES", "BackendConformance", "assert_same", "make_digests", "true_vectors"]
