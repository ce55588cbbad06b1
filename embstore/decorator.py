"""``@cached``: a plain function, sync or async, whose embeddings are kept."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, cast

from embstore import columns, hooks
from embstore.backends.rows import Array
from embstore.commits import Commits
from embstore.keys import STORAGE_DTYPE, Namespace, check_storage_dtype, version_fingerprint
from embstore.lookup import Lookup
from embstore.online import Gatherer, OnlineBatching
from embstore.share import Work, share_of
from embstore.store import StoreLike, as_store
from embstore.threads import PerLoop

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class _Group:
    """Requests whose texts may go into one call of the function."""

    id: bytes
    namespace: Namespace = field(compare=False)
    arguments: dict[str, Any] = field(compare=False)


def cached(
    store: StoreLike,
    *,
    model_name: str,
    version: str | None = None,
    batch_size: int = 256,
    on_miss: str = "encode",
    coalesce: bool = True,
    storage_dtype: Literal["float16"] | None = None,
    online: OnlineBatching | None = None,
) -> Callable[[F], F]:
    """Keep what a function from texts to vectors returns.

    The function is called with the distinct texts that are not stored, ``batch_size`` at a time,
    each call's vectors being committed before the next. Keyword arguments are handed to it and
    belong to the key. What an async function is called with are the missing texts of all requests
    that are awaited at the same time, gathered as :class:`~embstore.online.OnlineBatching` says.

    Args:
        store: where embeddings are kept, or its location; None is the default location.
        model_name: names the vectors: two functions whose vectors differ must not share one.
        version: change it when the function's vectors change.
        batch_size: most texts in one call of the function.
        on_miss: "encode" calls the function, "raise" raises CacheMissError.
        coalesce: whether a text that another thread or process is computing is left to it.
        storage_dtype: as in :class:`~embstore.encoder.CachedEncoder`.
        online: how concurrent requests to an async function are gathered; by default ``batch_size``
            texts in a call, and 4 calls at a time.

    Returns:
        A decorator. The decorated function takes a list of n texts and returns (n, dim), or a
        single text and returns (dim,): the caller's own array.

    Raises:
        ModelOutputError: (when called) if the function does not return one vector per text.
        NamespaceError: (when called) if a keyword argument is not a JSON value.

    >>> import tempfile
    >>> @cached(tempfile.mkdtemp(), model_name="lengths")
    ... def embed(texts):
    ...     return [[float(len(text))] for text in texts]
    >>> embed("four")
    array([4.], dtype=float32)
    """
    if on_miss not in ("encode", "raise"):
        raise ValueError(f'on_miss is "encode" or "raise", not {on_miss!r}')
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, not {batch_size}")

    kept_in = as_store(store)
    check_storage_dtype(storage_dtype)
    rounded = {} if storage_dtype is None else {STORAGE_DTYPE: storage_dtype}
    limits = online or OnlineBatching(max_batch=batch_size, concurrency=4)

    def decorate(function: F) -> F:
        def namespace_of(arguments: dict[str, Any]) -> Namespace:
            return Namespace(
                model_name, version_fingerprint(version), extra={**arguments, **rounded}
            )

        def look_up(texts: list[str], namespace: Namespace) -> Lookup:
            lookup = Lookup.find(kept_in, namespace, texts)
            if on_miss == "raise":
                lookup.raise_if_missing()
            return lookup

        def watched(
            name: hooks.Name, texts: list[str], namespace: Namespace
        ) -> AbstractContextManager[object]:
            return hooks.watched(None, name, kept_in.location, namespace, len(texts))

        def share(lookup: Lookup, texts: list[str]) -> AbstractContextManager[Work]:
            return share_of(lookup, lookup.missing, texts, coalesce=coalesce)

        if inspect.iscoroutinefunction(function):

            async def compute(group: _Group, texts: list[str], digests: list[bytes]) -> Array:
                lookup = Lookup.absent(kept_in, group.namespace, texts, digests)
                with share(lookup, texts) as work:
                    while chunk := await work.take_async(batch_size):
                        these = [texts[place] for place in chunk]
                        began = time.perf_counter()
                        with watched("compute", these, group.namespace):
                            output = await function(these, **group.arguments)
                        seconds = time.perf_counter() - began
                        owner = work.owner_that_ends()
                        kept = lookup.complete(chunk, output, seconds, owner)
                        work.took(chunk, seconds, kept=kept and owner is not None)
                return lookup.vectors()

            gatherers = PerLoop(lambda: Gatherer(compute, limits))

            @functools.wraps(function)
            async def asynchronous(texts: Any, **arguments: Any) -> Any:
                listed, namespace = _listed(texts), namespace_of(arguments)
                with watched("encode", listed, namespace):
                    lookup = look_up(listed, namespace)
                    group = _Group(namespace.id, namespace, arguments)
                    await lookup.complete_together(gatherers.here(), group)
                    vectors = lookup.vectors()
                return vectors[0] if isinstance(texts, str) else vectors

            return cast(F, asynchronous)

        def compute_all(texts: list[str], lookup: Lookup, arguments: dict[str, Any]) -> None:
            with share(lookup, texts) as work, Commits(lookup, work) as commits:
                while chunk := work.take(batch_size):
                    these = [texts[place] for place in chunk]
                    compute = functools.partial(function, these, **arguments)
                    commits.add(chunk, *commits.timed(len(these), compute))

        @functools.wraps(function)
        def synchronous(texts: Any, **arguments: Any) -> Any:
            listed, namespace = _listed(texts), namespace_of(arguments)
            with watched("encode", listed, namespace):
                lookup = look_up(listed, namespace)
                if lookup.missing:
                    compute_all(listed, lookup, arguments)
                vectors = lookup.vectors()
            return vectors[0] if isinstance(texts, str) else vectors

        return cast(F, synchronous)

    return decorate


def _listed(texts: Any) -> list[str]:
    return [texts] if isinstance(texts, str) else columns.listed(texts)
