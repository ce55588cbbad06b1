"""Hooks: who wants to know what embstore does, while it does it.

    class Slow(hooks.Hook):
        def ended(self, operation):
            if operation.seconds > 1:
                print(operation)

    hooks.add(Slow())

Hooks belong to the process, as handlers of ``logging`` do: a store that is pickled takes none
along, a forked child inherits all, and a worker that is spawned adds its own where it sets up its
logging. While there are none, nothing is timed and nothing is made for them.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Literal

from embstore.keys import Namespace
from embstore.locks import COUNTERS

Name = Literal["encode", "lookup", "compute", "commit"]

SECONDS = (
    *(3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2),
    *(0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0),
)
"""Bounds for histograms of :attr:`Operation.seconds`: a look-up takes 3 µs and more, a chunk of
texts on a slow machine minutes."""


class Operation:
    """Something that embstore does, from its beginning to its end. To be read by hooks.

    Its figures are complete when it has ended. Of a "lookup", ``texts`` is the sum of
    ``memory_hits``, ``disk_hits``, ``repeats`` and ``misses``.

    Attributes:
        name: "encode", a whole call of an encoder or of a ``@cached`` function; or a step of one: a
            "lookup"; a "compute", which is one chunk of texts given to the model; a "commit", which
            stores one. Look-ups and commits may also stand alone.
        location: of the store.
        namespace: of the texts; None while an "encode" has not found out yet.
        texts: how many, repeats included.
        memory_hits: texts that the memory tier answered.
        disk_hits: texts that the backend answered.
        repeats: texts that are missing, and were in the same call before.
        misses: distinct texts that are not stored.
        stored: vectors that were new to the store.
        seconds: what it took, in seconds.
        error: the class of what it raised; None if it did not. (What errors say may quote a text.)
    """

    __slots__ = (
        *("name", "location", "namespace", "texts", "memory_hits", "disk_hits", "repeats"),
        *("misses", "stored", "seconds", "error", "_log", "_told", "_began"),
    )

    def __init__(
        self,
        name: Name,
        location: str,
        namespace: Namespace | None,
        texts: int,
        log: logging.Logger | None = None,
    ) -> None:
        self.name: Name = name
        self.location = location
        self.namespace = namespace
        self.texts = texts
        self.memory_hits = self.disk_hits = self.repeats = self.misses = self.stored = 0
        self.seconds = 0.0
        self.error: type[BaseException] | None = None
        self._log = log
        self._told: list[Hook] = []

    @property
    def model_name(self) -> str:
        """The model, as the namespace has it; "" while that is not known."""
        return "" if self.namespace is None else self.namespace.model_name

    def __enter__(self) -> Operation:
        for hook in active:
            if _tell(hook, hook.began, self):
                self._told.append(hook)
        self._began = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._began
        self.error = kind
        # The last one that began ends first, as whatever they opened is nested.
        while self._told:
            hook = self._told.pop()
            _tell(hook, hook.ended, self)
        if self._log is not None:
            self._log.debug("%s", self, stacklevel=2)

    def __str__(self) -> str:
        figures = {
            "from memory": self.memory_hits,
            "from disk": self.disk_hits,
            "repeated": self.repeats,
            "missing": self.misses,
            "stored": self.stored,
        }
        parts = [f"{count:,} {what}" for what, count in figures.items() if count]
        if self.error is not None:
            parts.append(f"raised {self.error.__name__}")
        told = f": {', '.join(parts)}" if parts else ""
        texts = f"{self.texts:,} text{'' if self.texts == 1 else 's'}"
        # By repr: a model's name may have line breaks, and a log has lines.
        return f"{self.name} of {texts} for {self.model_name!r}{told}, in {self.seconds:.6f} s"


class Hook:
    """Is told what embstore does: to be derived from, with any of these methods.

    They are called in the thread of the work, which waits for them. A hook that raises is left out
    from then on, with one warning, and the work goes on.
    """

    _raised = False

    def began(self, operation: Operation) -> None:
        """An operation begins."""

    def ended(self, operation: Operation) -> None:
        """An operation that this hook saw begin has ended, well or with an error: in the same
        thread and context, and before the one around it."""

    def failed(self, location: str, error: Exception) -> None:
        """A store failed, and that is raised or, by default, a reason to go on without it."""


active: tuple[Hook, ...] = ()
"""The hooks of this process, for :func:`add` and :func:`remove` to change."""


def add(hook: Hook) -> None:
    """Have a hook told of everything from now on, in this process.

    Raises:
        TypeError: if it is no :class:`Hook`.
    """
    global active
    if not isinstance(hook, Hook):
        raise TypeError(
            f"a hook is an object of a class derived from embstore.hooks.Hook, not {hook!r}"
        )
    with COUNTERS:
        if not any(other is hook for other in active):
            active = (*active, hook)
        hook._raised = False


def remove(hook: Hook) -> None:
    """Tell a hook nothing more, but for the end of what it saw begin. Nothing happens if it was not
    there."""
    global active
    with COUNTERS:
        active = tuple(other for other in active if other is not hook)


_UNWATCHED: AbstractContextManager[None] = nullcontext()


def watched(
    log: logging.Logger | None,
    name: Name,
    location: str,
    namespace: Namespace | None,
    texts: int,
) -> AbstractContextManager[Operation | None]:
    """Around what may be watched: an :class:`Operation` for hooks, and for ``log`` at DEBUG, or
    None if there are neither."""
    if log is not None and not log.isEnabledFor(logging.DEBUG):
        log = None
    if active or log is not None:
        return Operation(name, location, namespace, texts, log)
    return _UNWATCHED


def failed(location: str, error: Exception) -> None:
    """Tell all hooks that a store failed."""
    for hook in active:
        _tell(hook, hook.failed, location, error)


def _tell(hook: Hook, method: Callable[..., None], *what: Any) -> bool:
    """Whether a hook could be told."""
    if hook._raised:
        return False
    try:
        method(*what)
    except Exception as error:
        remove(hook)
        hook._raised = True
        message = f"{hook!r} raised {error!r}: it is told nothing more"
        logging.getLogger(__name__).warning("%s", one_line(message))
        warnings.warn(message, RuntimeWarning, stacklevel=4)
        return False
    return True


def one_line(message: str) -> str:
    """A message as a log may have it, where a line break would begin an entry of somebody else's.

    >>> one_line("a model\\nof two lines")
    'a model\\\\nof two lines'
    """
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in message)
