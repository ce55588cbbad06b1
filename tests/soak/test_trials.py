"""The short forms of the soak trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers import ROOT
from tests.soak.__main__ import TRIALS
from tests.soak.trial import Trial


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.name)
def test_trial(trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trials' own processes import what they run by name."""
    monkeypatch.syspath_prepend(str(ROOT))
    outcome = trial.run(tmp_path, trial.short)
    assert not outcome.failures, f"{outcome.failures}\n{outcome.figures}"
