"""Runs that are kept of a few rows already."""

from __future__ import annotations

import pytest

from embstore.backends.disk import runs
from tests.index.kept import KEPT_ROWS


@pytest.fixture(autouse=True)
def few_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT_ROWS", KEPT_ROWS)
