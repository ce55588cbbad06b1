"""The demo, small, with the real model and real processes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from embstore.batching.corpus import sample, stdlib_paragraphs
from embstore.cli.demo import _check
from embstore.cli.demo_pass import Pass

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def paragraphs() -> list[str]:
    return stdlib_paragraphs()


class TestCorpus:
    def test_is_real_and_repeats_itself(self, paragraphs: list[str]) -> None:
        assert len(paragraphs) > 10_000
        assert 0.02 < 1 - len(set(paragraphs)) / len(paragraphs) < 0.2
        assert all(text == text.strip() != "" for text in paragraphs)

    def test_is_the_same_again(self, paragraphs: list[str]) -> None:
        assert stdlib_paragraphs(500) == sample(paragraphs, 500)

    @pytest.mark.parametrize("limit", [0, 1, 500, 10**9])
    def test_a_sample_keeps_order_and_repeats(self, paragraphs: list[str], limit: int) -> None:
        taken = sample(paragraphs, limit)
        assert len(taken) == min(limit, len(paragraphs))
        remaining = iter(paragraphs)
        assert all(text in remaining for text in taken)
        whole, part = Counter(paragraphs), Counter(taken)
        # The limit may cut through the repeats of one text (or of two that share a checksum).
        assert sum(part[text] != whole[text] for text in part) <= 2


class TestDemo:
    def test_the_second_process_answers_from_disk(
        self, run: Run, model_path: str, tmp_path: Path
    ) -> None:
        result = run("demo", "--limit", 60, "--store", tmp_path / "s", "--json")
        assert result.exit_code == 0
        report = json.loads(result.stdout)
        first, second = report["first"], report["second"]
        assert report["model"] == model_path
        assert report["problems"] == []
        assert (first["texts"], second["texts"]) == (60, 60)
        assert first["misses"] == first["unique"]
        assert (second["misses"], second["torch_imported"]) == (0, False)
        assert second["memory_hits"] + second["disk_hits"] == 60
        assert first["sha256"] == second["sha256"]
        assert first["encode_seconds"] > second["encode_seconds"] > 0

    def test_a_file_of_ones_own(self, run: Run, model_path: str, tmp_path: Path) -> None:
        source = tmp_path / "mine.csv"
        source.write_text('body,n\n"a\nb",1\nc,2\nc,3\n')
        options = ("--column", "body", "--model", model_path, "--store", tmp_path / "s")
        result = run("demo", "--file", source, *options)
        assert result.exit_code == 0
        assert f"3 texts of {source}" in result.stdout
        assert "bit for bit the same" in result.stdout
        assert str(tmp_path / "s") in result.stdout

        again = run("demo", "--file", source, *options)
        assert again.exit_code == 0
        assert "the first process was not cold" in again.stdout

    def test_an_unknown_model_is_one_message(self, run: Run, tmp_path: Path) -> None:
        result = run("demo", "--limit", 5, "--model", tmp_path / "none", "--store", tmp_path / "s")
        assert result.exit_code == 2
        assert "Traceback" not in result.stderr


def test_what_the_checks_find() -> None:
    first = Pass(
        texts=2,
        unique=2,
        memory_hits=0,
        disk_hits=0,
        deduplicated=0,
        misses=2,
        model_seconds=1.0,
        encode_seconds=2.0,
        torch_imported=True,
        shape=(2, 3),
        dtype="float32",
        sha256="a",
        stored_vectors=2,
        stored_bytes=24,
        raw_bytes=24,
        location="x",
    )
    assert len(_check(first, first)) == 2  # computed again, and imported torch
    assert _check(first, Pass(**{**vars(first), "misses": 0, "torch_imported": False})) == []
    [problem] = _check(
        first, Pass(**{**vars(first), "misses": 0, "torch_imported": False, "sha256": "b"})
    )
    assert "other vectors" in problem
