"""Runs that are kept of a few rows already, and a store that has two."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from embstore.backends.disk import runs
from tests.index.kept import KEPT_ROWS, build


@pytest.fixture(autouse=True)
def few_rows_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT_ROWS", KEPT_ROWS)
    monkeypatch.setattr(runs, "_EAGER", 1)  # so that there are several


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two runs, to be copied."""
    location = tmp_path_factory.mktemp("whole") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "KEPT_ROWS", KEPT_ROWS)
        patch.setattr(runs, "_EAGER", 1)
        build(location)
    return location


@pytest.fixture
def location(whole: Path, fast_path: Path) -> Path:
    shutil.copytree(whole, fast_path / "store")
    return fast_path / "store"
