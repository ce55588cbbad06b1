"""Each peer that is installed returns what was stored, in this process and in another."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.peers.catalogue import EMBSTORE, PEERS, Entry
from benchmarks.peers.crowd import Crowd
from benchmarks.peers.measures import fill
from benchmarks.peers.report import Report
from benchmarks.peers.run import Grid
from benchmarks.peers.stage import Stage
from benchmarks.peers.table import tables

ALL = pytest.mark.parametrize("entry", [EMBSTORE, *PEERS], ids=lambda entry: entry.name)
pytestmark = pytest.mark.filterwarnings("default")  # what the peers' libraries warn of is theirs


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@ALL
def test_returns_what_was_stored(entry: Entry, tmp_path: Path) -> None:
    """500 vectors, asked for in another order, with repeats, and one by one."""
    if reason := entry.missing():
        pytest.skip(reason)
    stage = Stage(tmp_path, 16, 500)
    place = stage.place(entry)
    peer = entry.open(place, stage.dim)
    fill(peer, stage, close=entry.persistent)
    if entry.persistent:
        peer = entry.open(place, stage.dim)
    for texts in (stage.some(500), stage.texts[:3] * 2, stage.texts[-1:]):
        stage.check(peer.get(texts), texts)
    with pytest.raises(Exception, match=r".*"):
        peer.get(["never stored"])
    peer.close()
    if entry.persistent:
        with Crowd(entry, place, stage, [stage.some(100, seed) for seed in (1, 2)]) as crowd:
            crowd.ask()


def test_a_small_grid(tmp_path: Path) -> None:
    """A whole run, with what can always be run; its JSON gives the same tables."""
    report = Report(["machine: any"])
    told: list[str] = []
    for _ in Grid(tmp_path, PEERS[:2], 60, report, told.append).run([8], [300]):
        report.save(tmp_path / "report.json")
    text = list(tables(report))
    assert list(tables(Report.load([tmp_path / "report.json"]))) == text
    assert not report.skipped, told
    assert any(line.startswith("| lru_cache") for line in text)
    assert {path.name for path in tmp_path.iterdir()} == {"report.json"}
