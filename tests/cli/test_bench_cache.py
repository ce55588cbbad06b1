"""``embstore bench cache`` and ``bench hit-rate``, small, with the real model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import Result

from embstore.batching import CacheBenchmark, HitRates
from embstore.batching.impacts import Impact

Run = Callable[..., Result]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A file of texts that repeat themselves."""
    path = tmp_path / "log.txt"
    path.write_text("".join(f"question {number % 7}\n" for number in range(20)))
    return path


def test_cache_prints_two_tables_and_writes_picture_and_page(
    run: Run, log: Path, tmp_path: Path
) -> None:
    picture, page = tmp_path / "out.png", tmp_path / "out.html"
    options = ("--rounds", 1, "--plot", picture, "--html", page)
    result = run("bench", "cache", log, *options)
    assert result.exit_code == 0, result.stderr
    assert "sentence-transformers/all-MiniLM-L6-v2" in result.stdout
    assert "log.txt: warm, new process" in result.stdout
    assert "| batching + caching |" in result.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert page.read_text().count("<img") == 2


def test_cache_as_json_is_one_document(run: Run, log: Path, model_path: str) -> None:
    result = run("bench", "cache", log, "--rounds", 1, "--model", model_path, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    measured = CacheBenchmark.from_json(json.dumps(document["cache"]))
    table = Impact.from_json(json.dumps(document["impact"]))
    [texts] = measured.runs
    assert (texts.name, texts.texts, texts.distinct) == ("log.txt", 20, 7)
    assert [row.texts for row in table.rows] == [7, 7, 7]


def test_cache_without_a_file_measures_sentences_and_paragraphs(
    run: Run, static: Any, tmp_path: Path
) -> None:
    static.save(str(tmp_path / "static"))
    options = ("--model", tmp_path / "static", "--rounds", 1, "--limit", 10, "--json")
    result = run("bench", "cache", *options)
    assert result.exit_code == 0, result.stderr
    document = json.dumps(json.loads(result.stdout)["cache"])
    notebook, paragraphs = CacheBenchmark.from_json(document).runs
    assert (notebook.name, notebook.texts, notebook.distinct) == ("notebook", 500, 420)
    assert (paragraphs.name, paragraphs.texts) == ("docstrings", 10)
    assert not paragraphs.torch_imported


def test_hit_rate_of_a_file(run: Run, log: Path, tmp_path: Path) -> None:
    picture = tmp_path / "out.svg"
    result = run("bench", "hit-rate", log, "--sizes", "6,7", "--plot", picture, "--json")
    assert result.exit_code == 0, result.stderr
    rates = HitRates.from_json(result.stdout)
    assert (rates.stream, rates.texts, rates.distinct) == ("log.txt", 20, 7)
    assert [sum(trace.hits) for trace in rates.traces] == [0, 13]
    assert "<svg" in picture.read_text()


def test_hit_rate_of_stdin_and_of_nothing(run: Run) -> None:
    result = run("bench", "hit-rate", "-", "--sizes", 1, input="a\na\n")
    assert "standard input: 2 texts, 1 distinct" in result.stdout
    result = run("bench", "hit-rate")
    assert "draws from" in result.stdout


@pytest.mark.parametrize(
    "command, says",
    [
        (("hit-rate", "--sizes", "1,x"), "numbers with commas"),
        (("hit-rate", "--sizes", "0"), "sizes are numbers from 1 on"),
        (("hit-rate", "--plot", "out.pdf"), "saved as .png or .svg"),
        (("cache", "--plot", "/nowhere/out.png"), "there is no directory"),
        (("cache", "--html", "/nowhere/out.html"), "there is no directory"),
        (("cache", "missing.txt"), "missing.txt: No such file"),
    ],
)
def test_what_cannot_work_is_said_at_once(run: Run, command: tuple[str, ...], says: str) -> None:
    result = run("bench", *command)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""
