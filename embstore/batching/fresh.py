"""A cached call of ``encode``, timed: in this process, or in a new one that shares but the store.

A new process gets its job as JSON on stdin and gives its report as JSON on stdout.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.errors import EmbstoreError
from embstore.store import EmbeddingStore


@dataclass(frozen=True)
class Call:
    """What one call of ``encode()`` did.

    Attributes:
        seconds: what it took, in seconds.
        hits: texts answered without computing.
        misses: texts computed.
        deduplicated: repeats in the call; they are hits.
        sha256: of the vectors; see :func:`digest`.
        torch_imported: whether the process had imported torch by then.
        process_seconds: of a new process, all of it as its parent saw it, from its start to its
            end, in seconds.
    """

    seconds: float
    hits: int
    misses: int
    deduplicated: int
    sha256: str
    torch_imported: bool
    process_seconds: float = 0.0


def call(encoder: CachedEncoder, texts: list[str]) -> tuple[Call, Array]:
    """Time ``encoder.encode(texts)``; also returns the vectors, (n, dim)."""
    before = encoder.stats()
    started = time.perf_counter()
    vectors = encoder.encode(texts, show_progress_bar=False)
    seconds = time.perf_counter() - started
    after = encoder.stats()
    done = Call(
        seconds=seconds,
        hits=after.hits - before.hits,
        misses=after.misses - before.misses,
        deduplicated=after.deduplicated - before.deduplicated,
        sha256=digest(vectors),
        torch_imported="torch" in sys.modules,
    )
    return done, vectors


def call_in_new_process(
    texts: Sequence[str],
    location: str,
    model: str,
    *,
    model_name: str | None = None,
    device: str | None = None,
) -> Call:
    """Time ``encode`` of a new encoder, in a new process, on the store at ``location``.

    Args:
        texts: what to embed.
        location: of the store.
        model: its name or path.
        model_name: as in :class:`CachedEncoder`.
        device: as in :class:`CachedEncoder`.

    Raises:
        EmbstoreError: if the process fails; why, it says itself on stderr.
    """
    encoder = {"model": model, "model_name": model_name, "device": device}
    job = {"texts": list(texts), "location": location, "encoder": encoder}
    # -c and not -m: with -m, the package would import this module before it is run. -P, lest a file
    # of the working directory be taken for a module.
    command = [sys.executable, "-P", "-c", f"from {__name__} import main; main()"]
    started = time.perf_counter()
    child = subprocess.run(
        command, input=json.dumps(job), stdout=subprocess.PIPE, text=True, check=False
    )
    seconds = time.perf_counter() - started
    if child.returncode:
        raise EmbstoreError(f"a new process ended with exit code {child.returncode}; see above")
    return replace(Call(**json.loads(child.stdout)), process_seconds=seconds)


def main() -> None:
    """What a new process runs."""
    job = json.load(sys.stdin)
    with EmbeddingStore(job["location"], on_error="raise") as store:
        done, _ = call(CachedEncoder(store=store, **job["encoder"]), job["texts"])
    json.dump(asdict(done), sys.stdout)


def digest(vectors: Array) -> str:
    """64 hex digits that two arrays share only if shape, dtype and all bits are the same."""
    layout = f"{vectors.shape} {vectors.dtype.str} ".encode()
    return hashlib.sha256(layout + np.ascontiguousarray(vectors).tobytes()).hexdigest()
