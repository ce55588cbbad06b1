"""A client of Chroma's, and embedding functions that nobody has asked yet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import chromadb
import pytest
from chromadb.api import ClientAPI
from chromadb.config import Settings

from tests.integrations.chroma.models import (
    Signs,
)


@pytest.fixture(autouse=True)
def _anew() -> None:
    Signs.made = 0
    Signs.asked.clear()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[ClientAPI]:
    settings = Settings(anonymized_telemetry=False)
    with chromadb.PersistentClient(tmp_path / "chroma", settings=settings) as client:
        yield client
