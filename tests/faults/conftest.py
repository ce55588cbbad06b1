"""A place where hundreds of stores can be broken quickly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.damage import in_memory


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one."""
    with in_memory(tmp_path) as directory:
        yield directory
