"""``@cached``: a plain function, sync or async, whose embeddings are kept."""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

from embstore.keys import Namespace
from embstore.lookup import Lookup
from embstore.store import EmbeddingStore

F = TypeVar("F", bound=Callable[..., Any])


def cached(
    store: EmbeddingStore,
    *,
    model_name: str,
    version: str | None = None,
    batch_size: int = 256,
    on_miss: str = "encode",
) -> Callable[[F], F]:
    """Keep what a function from texts to vectors returns.

    The function is called with the distinct texts that are not stored, ``batch_size`` at a time,
    each call's vectors being committed before the next. Keyword arguments are handed to it and
    belong to the key.

    Args:
        store: where embeddings are kept.
        model_name: names the vectors: two functions whose vectors differ must not share one.
        version: change it when the function's vectors change.
        batch_size: most texts in one call of the function.
        on_miss: "encode" calls the function, "raise" raises CacheMissError.

    Returns:
        A decorator. The decorated function takes a list of n texts and returns (n, dim), or a
        single text and returns (dim,): the caller's own array.

    Raises:
        ModelOutputError: (when called) if the function does not return one vector per text.
        NamespaceError: (when called) if a keyword argument is not a JSON value.

    >>> import tempfile
    >>> @cached(EmbeddingStore(tempfile.mkdtemp()), model_name="lengths")
    ... def embed(texts):
    ...     return [[float(len(text))] for text in texts]
    >>> embed("four")
    array([4.], dtype=float32)
    """
    if on_miss not in ("encode", "raise"):
        raise ValueError(f'on_miss is "encode" or "raise", not {on_miss!r}')

    def decorate(function: F) -> F:
        def look_up(texts: Any, arguments: dict[str, Any]) -> tuple[Lookup, list[str], list[Any]]:
            listed = [texts] if isinstance(texts, str) else list(texts)
            namespace = Namespace(
                model_name, "" if version is None else f"version:{version}", extra=arguments
            )
            lookup = Lookup(store, namespace, listed)
            if on_miss == "raise":
                lookup.raise_if_missing()
            chunks = [
                lookup.missing[start : start + batch_size]
                for start in range(0, len(lookup.missing), batch_size)
            ]
            return lookup, listed, chunks

        def answer(lookup: Lookup, texts: Any) -> Any:
            vectors = lookup.vectors()
            return vectors[0] if isinstance(texts, str) else vectors

        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def asynchronous(texts: Any, **arguments: Any) -> Any:
                lookup, listed, chunks = look_up(texts, arguments)
                for chunk in chunks:
                    began = time.perf_counter()
                    output = await function([listed[place] for place in chunk], **arguments)
                    lookup.complete(chunk, output, time.perf_counter() - began)
                return answer(lookup, texts)

            return cast(F, asynchronous)

        @functools.wraps(function)
        def synchronous(texts: Any, **arguments: Any) -> Any:
            lookup, listed, chunks = look_up(texts, arguments)
            for chunk in chunks:
                began = time.perf_counter()
                output = function([listed[place] for place in chunk], **arguments)
                lookup.complete(chunk, output, time.perf_counter() - began)
            return answer(lookup, texts)

        return cast(F, synchronous)

    return decorate
