"""Spawned processes import the workers by name."""

from __future__ import annotations

import pytest

from tests.helpers import ROOT


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
