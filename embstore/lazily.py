"""Modules that are imported when they are first used.

``import embstore`` is to cost little more than numpy: asyncio alone takes 20 ms, and most who look
up vectors never need it.
"""

from __future__ import annotations

import importlib
from typing import Any


class Lazily:
    """A module in the making: its attributes import it.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        found = getattr(importlib.import_module(self._name), attribute)
        setattr(self, attribute, found)
        return found
