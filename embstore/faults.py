"""The policy for a store that fails: one warning and on with the work, or an error."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TypeVar

from embstore.errors import StoreError, StoreRefusedError, StoreWarning

T = TypeVar("T")


class Faults:
    """Runs a store's work under ``on_error``.

    Args:
        location: the store, for the message.
        on_error: "warn" or "raise".

    Raises:
        ValueError: if ``on_error`` is anything else.
    """

    def __init__(self, location: str, on_error: str) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error is "warn" or "raise", not {on_error!r}')
        self._location = location
        self._raises = on_error == "raise"
        self._warned: set[str] = set()

    def guard(self, work: Callable[[], T], otherwise: T) -> T:
        """Do ``work``. If the store fails, raise that, or warn once of it and give ``otherwise``.

        Raises:
            StoreRefusedError: always: that is for the user to decide.
            StoreError: if ``on_error`` is "raise".
        """
        try:
            return work()
        except StoreRefusedError:
            raise
        except (StoreError, OSError, MemoryError) as error:
            if self._raises:
                raise
            message = f"embstore cannot use {self._location}: {error}; embeddings are computed anew"
            if message not in self._warned:
                self._warned.add(message)
                warnings.warn(message, StoreWarning, stacklevel=4)
            return otherwise
