"""One store, encoder or cached function in every kind of worker that Python programs have.

Each of these ends within its own timeouts, finds what others computed, computes what nobody has,
and leaves its parent's store as good as it was.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from tests.helpers import MODEL, ROOT, texts_of, vectors_of
from tests.processes.workers import Collate, Items, Noting

KNOWN = texts_of(5)
TEXTS = texts_of(24, 100)

JOBLIB = """
import asyncio, sys
from pathlib import Path
import joblib
from joblib.externals.loky import get_reusable_executor
from embstore import CachedEncoder, EmbeddingStore, cached
from tests.helpers import *
from tests.processes.workers import Noting

location = Path(sys.argv[1])
store = EmbeddingStore(location, on_error="raise")
compute = Noting(location.with_name("computed"))
encoder = CachedEncoder(lambda texts: compute(texts), store, model_name="function")

@cached(store, model_name="sync")
def embed(texts):
    return compute(texts)

@cached(store, model_name="async")
async def aembed(texts):
    return compute(texts)

def work(name):
    def texts(way):
        return [f"{name} {way} {number}" for number in range(5)]
    got = [
        encoder.encode(texts("encode")),
        asyncio.run(encoder.aencode(texts("aencode"))),
        embed(texts("sync")),
        asyncio.run(aembed(texts("async"))),
    ]
    put(store, MODEL, texts("put"))
    assert all(check(store, MODEL, texts("put")))
    for way, vectors in zip(("encode", "aencode", "sync", "async"), got):
        assert vectors.tobytes() == vectors_of(MODEL, texts(way)).tobytes()
    return name

if __name__ == "__main__":
    work("before")
    names = []
    for backend in ("loky", "threading", "multiprocessing"):
        mine = [f"{backend} {number}" for number in range(4)]
        assert joblib.Parallel(2, backend, timeout=60)(map(joblib.delayed(work), mine)) == mine
        names += mine
    get_reusable_executor().shutdown(wait=True)
    before = compute.computed()
    assert len(before) == 20 * (1 + len(names)), len(before)
    assert set(before.values()) == {1}, "a text was computed twice"
    for name in names:
        assert work(name) == name
    assert compute.computed() == before, "what they computed is found here"
    assert store.verify().ok
    print("done")
"""
"""What is defined in the program itself goes to joblib's workers by value."""


@pytest.fixture(scope="module")
def static_path(static: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the small model."""
    folder = tmp_path_factory.mktemp("model")
    static.save(str(folder))
    return str(folder)


def run(arguments: list[str], **variables: str) -> None:
    """Run a Python program, which must print that it is done and nothing else: no warnings, no
    semaphores that leaked, no exceptions in threads and destructors."""
    done = subprocess.run(
        [sys.executable, "-W", "error", *arguments],
        cwd=ROOT,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr, done.returncode) == ("done\n", "", 0)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_pools_and_executors(method: str, static_path: str, tmp_path: Path) -> None:
    """Handed over in every way: by import, at a worker's start, with each task."""
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        CachedEncoder(static_path, store, device="cpu").encode(KNOWN)
    variables = {"EMBSTORE_HOME": str(location), "EMBSTORE_TEST_MODEL": static_path}
    run(["-m", "tests.processes.job", method], **variables)
    assert sorted(path.name for path in location.iterdir()) == [
        "cache.db",
        "lock",
        "vectors",
        "workers",
    ]


def test_joblib(tmp_path: Path) -> None:
    run(["-c", JOBLIB, str(tmp_path / "store")])


class TestDataLoader:
    """With workers that are kept, and so meet each text a second time."""

    def epochs(self, **arguments: Any) -> list[bytes]:
        """What each of two epochs gives, in order."""
        from torch.utils.data import DataLoader

        loader = DataLoader(
            batch_size=4, num_workers=2, persistent_workers=True, timeout=60, **arguments
        )
        return [b"".join(np.asarray(batch).tobytes() for batch in loader) for _ in range(2)]

    @pytest.mark.parametrize("kind", ["loaded", "path"])
    def test_a_model_after_a_fork(
        self, kind: str, static: Any, static_path: str, store: EmbeddingStore
    ) -> None:
        """A loaded model is inherited; by its path, each worker loads it for itself."""
        model = static if kind == "loaded" else static_path
        device = None if kind == "loaded" else "cpu"
        encoder = CachedEncoder(model, store, device=device)
        if kind == "loaded":
            encoder.encode(KNOWN)
        first, second = self.epochs(dataset=Items(encoder, TEXTS), multiprocessing_context="fork")
        known = len(KNOWN) if kind == "loaded" else 0
        assert first == second
        assert store.namespaces()[0].computed == known + len(TEXTS)
        there = CachedEncoder(model, store, device=device, on_miss="raise")
        assert there.encode(TEXTS).tobytes() == first
        np.testing.assert_allclose(there.encode(TEXTS), static.encode(TEXTS), rtol=0, atol=1e-6)
        assert encoder.encode("after").tobytes() == there.encode("after").tobytes()

    @pytest.mark.parametrize("method", ["fork", "spawn"])
    def test_texts_embedded_as_they_are_collated(
        self, method: str, static_path: str, store: EmbeddingStore, tmp_path: Path
    ) -> None:
        compute = Noting(tmp_path / "computed")
        encoder = CachedEncoder(compute, store, model_name="function")
        warm = CachedEncoder(static_path, store, device="cpu")
        model_gave = warm.encode(TEXTS)
        first, second = self.epochs(
            dataset=TEXTS, collate_fn=Collate(encoder, warm), multiprocessing_context=method
        )
        assert first == second == np.hstack([vectors_of(MODEL, TEXTS), model_gave]).tobytes()
        assert dict(compute.computed()) == dict.fromkeys(TEXTS, 1)
        encoder.encode(TEXTS)
        assert dict(compute.computed()) == dict.fromkeys(TEXTS, 1)
