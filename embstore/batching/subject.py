"""A model that is to be measured: bare, and behind a cache that is thrown away afterwards."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from embstore.backends.rows import Array
from embstore.batching.fresh import Call, call_in_new_process
from embstore.encoder import CachedEncoder
from embstore.lookup import as_vectors
from embstore.store import EmbeddingStore
from embstore.token_batches import UPSTREAM_BATCH


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: what the model is called in the store.
        bare: the model's own ``encode`` with upstream's defaults, batches of 32 texts; a function
            gets such batches too.
        encoder: the same model on a store in a temporary directory.
        load_seconds: what loading it took, in seconds, torch's import included if that was new;
            None if it was given loaded, or is a function.
        in_new_process: the same call by a new process; None where that could not load the model.
    """

    name: str
    bare: Callable[[list[str]], Array]
    encoder: CachedEncoder
    load_seconds: float | None
    in_new_process: Callable[[list[str]], Call] | None


@contextmanager
def opened(
    model: Any, *, model_name: str | None = None, device: str | None = None
) -> Iterator[Subject]:
    """Load a model and make an empty store for it; the store is removed at the end.

    Args:
        model: as in :class:`CachedEncoder`; of one of these, its model.
        model_name: as in :class:`CachedEncoder`.
        device: as in :class:`CachedEncoder`.
    """
    if isinstance(model, CachedEncoder):
        model = model.model
    path = os.fspath(model) if isinstance(model, (str, os.PathLike)) else None
    with (
        tempfile.TemporaryDirectory(prefix="embstore-bench-") as folder,
        EmbeddingStore(folder, on_error="raise") as store,
    ):
        encoder = CachedEncoder(model, store, model_name=model_name, device=device)
        started = time.perf_counter()
        loaded = encoder.model
        seconds = time.perf_counter() - started
        name = encoder.namespace().model_name
        yield Subject(
            name=name,
            bare=_bare(loaded, name),
            encoder=encoder,
            load_seconds=None if path is None else seconds,
            in_new_process=None
            if path is None
            else partial(
                call_in_new_process,
                location=folder,
                model=path,
                model_name=model_name,
                device=device,
            ),
        )


def _bare(model: Any, name: str) -> Callable[[list[str]], Array]:
    def encode(texts: list[str]) -> Array:
        vectors: Array = model.encode(texts, show_progress_bar=False)
        return vectors

    def call(texts: list[str]) -> Array:
        batches = [
            texts[start : start + UPSTREAM_BATCH] for start in range(0, len(texts), UPSTREAM_BATCH)
        ]
        return np.concatenate([as_vectors(model(batch), len(batch), name) for batch in batches])

    return encode if hasattr(model, "encode") else call
