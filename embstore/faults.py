"""The policy for a store that fails: one warning and on with the work, or an error."""

from __future__ import annotations

import errno
import logging
import time
import warnings
from collections.abc import Callable
from typing import TypeVar

from embstore import hooks
from embstore.errors import StoreError, StoreRefusedError, StoreWarning

T = TypeVar("T")

_LOG = logging.getLogger(__name__)

_CAUSES = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.EIO: "I/O",
    "SQLITE_FULL": "full",
    "SQLITE_BUSY": "locked",
    "SQLITE_IOERR": "I/O",
    "SQLITE_READONLY": "permission",
    "SQLITE_CANTOPEN": "permission",
}


class Warnings:
    """Says each cause once.

    One cause has many faces: a full disk is one error to SQLite and another to the system, at
    opening and at writing.
    """

    def __init__(self) -> None:
        self._said: set[str] = set()

    def warn(self, message: str, error: BaseException | None = None) -> None:
        """Warn with a StoreWarning, and in the log, unless that was done before for the same cause.

        Args:
            message: what happened, and what follows from it.
            error: what was raised, if anything was.
        """
        cause = message if error is None else _cause(error)
        if cause not in self._said:
            self._said.add(cause)
            _LOG.warning("%s", hooks.one_line(message))
            warnings.warn(message, StoreWarning, stacklevel=5)


def _cause(error: BaseException) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, StoreError) and link.cause:
            return link.cause
        name = getattr(link, "sqlite_errorname", "")
        for one in (getattr(link, "errno", None), "_".join(name.split("_")[:2])):
            if one in _CAUSES:
                return _CAUSES[one]
        link = link.__cause__
    return str(error)


class Rest:
    """Leaves alone for a while what has failed: what makes its users wait may take no more than a
    fifth of their time.

    Args:
        least: seconds that it is left alone, at least.
    """

    def __init__(self, least: float = 0.0) -> None:
        self._least = least
        self._until = 0.0

    @property
    def is_over(self) -> bool:
        """Whether it may be asked again."""
        return not self._until or time.monotonic() >= self._until

    def begin(self, start: float) -> None:
        """It has failed; it was asked at the ``time.monotonic()`` given."""
        now = time.monotonic()
        self._until = now + max(self._least, 4 * (now - start))


class Faults:
    """Runs a store's work under ``on_error``.

    Args:
        location: the store, for the message.
        on_error: "warn" or "raise".

    Attributes:
        location: the store.
        warnings: says what is wrong.
        seed_is_old: whether the store was found to have been begun anew, with another seed.

    Raises:
        ValueError: if ``on_error`` is anything else.
    """

    def __init__(self, location: str, on_error: str) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error is "warn" or "raise", not {on_error!r}')
        self.warnings = Warnings()
        self.location = location
        self.seed_is_old = False
        self._raises = on_error == "raise"

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
            self.seed_is_old |= getattr(error, "cause", "") == "seed"
            hooks.failed(self.location, error)
            if self._raises:
                raise
            self.warnings.warn(
                f"embstore cannot use {self.location}: {error}; embeddings are computed anew",
                error,
            )
            return otherwise
