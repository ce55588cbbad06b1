"""The benchmark commands, with few texts and the real model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embstore.batching import Sweep

Run = Callable[..., Result]

QUICK = ("--limit", 8, "--batch-sizes", "1,4", "--rounds", 1)


class TestBatchSize:
    def test_prints_table_environment_and_reasons(self, run: Run) -> None:
        result = run("bench", "batch-size", *QUICK, "--budget-ms", 1e6)
        assert result.exit_code == 0
        assert "all-MiniLM-L6-v2 on cpu. Texts: 8, rounds: 1" in result.stdout
        assert "| batch size |" in result.stdout
        assert "- Search engines (latency): Batch size 4 is the largest" in result.stdout
        assert "torch threads: " in result.stdout

    def test_json_is_a_sweep_and_what_it_recommends(self, run: Run, tmp_path: Path) -> None:
        source = tmp_path / "texts.txt"
        source.write_text("a\nbb\nccc\n")
        result = run("bench", "batch-size", source, "--rounds", 2, "--goal", "balanced", "--json")
        assert result.exit_code == 0
        assert "sizes above the 3 texts are left out" in result.stderr
        document = json.loads(result.stdout)
        [found] = document["recommendations"]
        assert (found["goal"], found["batch_size"]) == ("balanced", 1)
        measured = Sweep.from_json(result.stdout)
        assert [len(timing.round_seconds) for timing in measured.timings] == [2]

    def test_writes_picture_and_page(self, run: Run, tmp_path: Path) -> None:
        plot, html = tmp_path / "a.svg", tmp_path / "a.html"
        assert run("bench", "batch-size", *QUICK, "--plot", plot, "--html", html).exit_code == 0
        assert "Throughput, texts/s" in plot.read_text()
        assert "Batch sizes" in html.read_text()

    def test_a_budget_that_nothing_fits_is_exit_code_1(self, run: Run) -> None:
        result = run("bench", "batch-size", *QUICK, "--goal", "latency", "--budget-ms", 0.01)
        assert result.exit_code == 1
        assert "No batch size keeps within 0.01 ms." in result.stdout

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (("--batch-sizes", "1,x"), "--batch-sizes takes numbers"),
            (("--batch-sizes", "0"), "batch sizes go from 1"),
            (("--plot", "a.jpg"), ".png or .svg"),
            (("--plot", "none/a.png"), "there is no directory"),
            (("--html", "none/a.html"), "there is no directory"),
            (("none.txt",), "none.txt: No such file"),
            (("--model", "./none"), "none"),
        ],
    )
    def test_errors_are_one_message(
        self,
        run: Run,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        result = run("bench", "batch-size", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        "arguments", [("--goal", "speed"), ("--rounds", 0), ("--budget-ms", 0), ("--limit", 0)]
    )
    def test_options_out_of_range(self, run: Run, arguments: tuple[object, ...]) -> None:
        assert run("bench", "batch-size", *arguments).exit_code == 2


class TestEverything:
    def test_without_anything_is_help(self, run: Run) -> None:
        assert "batch-size" in run("bench").output

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (("--rounds", "1"), "--html"),
            (("--html", "a.html", "batch-size"), "behind the command, batch-size"),
            (("--html", "none/a.html"), "there is no directory"),
        ],
    )
    def test_options_that_lead_nowhere(
        self, run: Run, arguments: tuple[str, ...], message: str
    ) -> None:
        result = run("bench", *arguments)
        assert result.exit_code == 2
        assert message in result.stderr

    def test_all_of_it_is_on_one_page(self, run: Run, static: Any, tmp_path: Path) -> None:
        static.save(str(tmp_path / "fast"))
        html = tmp_path / "a.html"
        result = run("bench", "--html", html, "--model", tmp_path / "fast", "--rounds", 1)
        assert result.exit_code == 0
        page = html.read_text()
        assert page.count("<section>") == page.count("<img ") == page.count("<table>") == 4
        for title in re.findall("<h2>(.*)</h2>", page):
            assert title in result.stdout
