"""The progress bar counts texts, and says how many were there already."""

from __future__ import annotations

import logging
import re
from typing import Any

import pytest

from embstore import CachedEncoder, EmbeddingStore

TEXTS = [f"text number {number}" for number in range(20)]


@pytest.fixture
def encoder(static: Any, store: EmbeddingStore) -> CachedEncoder:
    return CachedEncoder(static, store)


def shown(capfd: pytest.CaptureFixture[str]) -> list[tuple[int, int, int]]:
    """(done, total, hits) of each state of the bar that was written to stderr."""
    states = re.findall(r"([\d,]+)/([\d,]+).*?hits=([\d,]+)", capfd.readouterr().err)
    return [tuple(int(number.replace(",", "")) for number in state) for state in states]  # type: ignore[misc]


def test_all_new(encoder: CachedEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS, show_progress_bar=True, batch_size=4)
    states = shown(capfd)
    assert states[-1] == (20, 20, 0)
    assert [done for done, _, _ in states] == sorted(done for done, _, _ in states)


def test_some_hits_and_repeats(encoder: CachedEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS[:5], show_progress_bar=False)
    assert shown(capfd) == []
    encoder.encode([*TEXTS, *TEXTS[10:13]], show_progress_bar=True)
    states = shown(capfd)
    assert states[0] == (8, 23, 8)
    assert states[-1] == (23, 23, 8)


def test_all_hits(encoder: CachedEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    encoder.encode(TEXTS)
    encoder.encode(TEXTS, show_progress_bar=True)
    assert shown(capfd)[-1] == (20, 20, 20)


@pytest.mark.parametrize("level", [logging.INFO, logging.DEBUG, logging.WARNING])
def test_unless_told_as_upstreams_logger_says(
    encoder: CachedEncoder, capfd: pytest.CaptureFixture[str], level: int
) -> None:
    logger = logging.getLogger("sentence_transformers.sentence_transformer.model")
    before = logger.level
    try:
        logger.setLevel(level)
        encoder.encode(TEXTS)
    finally:
        logger.setLevel(before)
    assert bool(shown(capfd)) == (level < logging.WARNING)


@pytest.mark.parametrize("method", ["encode_query", "encode_document"])
def test_queries_and_documents(
    encoder: CachedEncoder, capfd: pytest.CaptureFixture[str], method: str
) -> None:
    getattr(encoder, method)(TEXTS, show_progress_bar=True)
    assert shown(capfd)[-1] == (20, 20, 0)
