"""Every error and warning of embstore, under one root.

Errors carry what they are about as attributes and survive pickling, so that one raised in a worker
process arrives whole in its parent.
"""

from __future__ import annotations

import functools
from typing import Any


class EmbstoreError(Exception):
    """Root of all errors that embstore raises on its own account."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.__dict__.update(details)

    def __reduce__(self) -> tuple[Any, ...]:
        # The default would call the class with the message alone and lose the attributes.
        return functools.partial(type(self), **self.__dict__), self.args


class StoreError(EmbstoreError):
    """The store could not do what was asked of it (disk full, locked, unreadable, closed).

    Attributes:
        path: where the store lies, as a string.
        cause: what is wrong, in a word, where one fault has many messages ("away", "full"); or "".
    """

    path: str = ""
    cause: str = ""


class StoreRefusedError(StoreError):
    """The store may not be used as it is: it belongs to another user, is a symbolic link, was made
    by a newer embstore, or does not exist where an existing one was asked for. Always raised,
    whatever ``on_error`` says: nothing was lost, and only the user can decide."""


class StoreDamagedError(StoreError):
    """The ledger of a store contradicts itself: it is rebuilt from the vector files."""


class NamespaceError(EmbstoreError, ValueError):
    """What was given does not fit the namespace (another dim or dtype, or fields that JSON cannot
    hold).

    Attributes:
        namespace: the namespace it was meant for.
    """

    namespace: Any = None


class ModelOutputError(EmbstoreError, ValueError):
    """A model returned something that is not one vector per text.

    Attributes:
        model_name: the model that did.
    """

    model_name: str = ""


class CacheMissError(EmbstoreError, LookupError):
    """``on_miss="raise"`` and some texts are not in the store.

    Attributes:
        missing: number of distinct texts that are not stored.
        total: number of texts asked for, repeats included.
        first: up to five of the missing texts, in the order they were asked for.
        indices: the positions of these in what was asked for.
        namespace: the namespace that was searched.
    """

    missing: int = 0
    total: int = 0
    first: tuple[str, ...] = ()
    indices: tuple[int, ...] = ()
    namespace: Any = None


class StoreWarning(UserWarning):
    """A fault of the store that cost a recomputation, and nothing else."""
