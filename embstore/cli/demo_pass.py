"""One pass of the demo, in a process of its own: ``python -m embstore.cli.demo_pass``.

The job comes as JSON on stdin and the report goes as JSON to stdout, so that the two passes share
nothing but the store.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np

from embstore import CachedEncoder, EmbeddingStore
from embstore.cli.errors import USER_ERRORS, explain


@dataclass(frozen=True)
class Job:
    """What a pass is to do.

    Attributes:
        texts: what to embed.
        model: name or directory of the model.
        location: of the store.
        progress: whether to show a progress bar on stderr.
    """

    texts: list[str]
    model: str
    location: str
    progress: bool


@dataclass(frozen=True)
class Pass:
    """What a pass did.

    Attributes:
        texts: texts embedded, repeats included.
        unique: distinct texts among them.
        memory_hits: texts that the memory tier answered.
        disk_hits: texts that the disk tier answered.
        deduplicated: repeats within the call; a repeat of a stored text is a hit of its tier too.
        misses: distinct texts that the model computed.
        model_seconds: time in the model, in seconds.
        encode_seconds: time in ``encode()``, loading the model included, in seconds.
        torch_imported: whether the process imported torch.
        shape: of the array returned.
        dtype: of the array returned.
        sha256: of the bytes of the array returned.
        stored_vectors: vectors in the store after the pass.
        stored_bytes: what they take on disk, in bytes.
        raw_bytes: what they would take as bare arrays, in bytes.
        location: of the store.
        process_seconds: the life of the process as its parent saw it, imports included, in seconds.
    """

    texts: int
    unique: int
    memory_hits: int
    disk_hits: int
    deduplicated: int
    misses: int
    model_seconds: float
    encode_seconds: float
    torch_imported: bool
    shape: tuple[int, ...]
    dtype: str
    sha256: str
    stored_vectors: int
    stored_bytes: int
    raw_bytes: int
    location: str
    process_seconds: float = 0.0


def run(job: Job) -> Pass:
    """Embed the texts of ``job`` through its store."""
    with EmbeddingStore(job.location, on_error="raise") as store:
        encoder = CachedEncoder(job.model, store)
        started = time.perf_counter()
        vectors = encoder.encode(job.texts, show_progress_bar=job.progress)
        seconds = time.perf_counter() - started
        stats = encoder.stats()
        return Pass(
            texts=len(job.texts),
            unique=len(set(job.texts)),
            memory_hits=stats.memory_hits,
            disk_hits=stats.disk_hits,
            deduplicated=stats.deduplicated,
            misses=stats.misses,
            model_seconds=stats.encode_seconds,
            encode_seconds=seconds,
            torch_imported="torch" in sys.modules,
            shape=vectors.shape,
            dtype=vectors.dtype.name,
            sha256=hashlib.sha256(vectors.tobytes()).hexdigest(),
            stored_vectors=stats.entries,
            stored_bytes=stats.bytes,
            raw_bytes=sum(
                info.entries * info.dim * np.dtype(info.dtype).itemsize
                for info in store.namespaces()
            ),
            location=store.location,
        )


if __name__ == "__main__":
    try:
        print(json.dumps(asdict(run(Job(**json.load(sys.stdin))))))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except USER_ERRORS as error:
        raise SystemExit(f"error: {explain(error)}") from None
