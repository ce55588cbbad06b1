"""Haystack without its telemetry."""

from __future__ import annotations

import os

# Before any import of haystack, which reads it.
os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"

import pytest

from tests.integrations.haystack.models import ASKED


@pytest.fixture(autouse=True)
def nothing_asked() -> None:
    """Each test counts what itself asks the models for."""
    ASKED.clear()
