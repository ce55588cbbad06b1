"""With a name or path and every text stored, no model is loaded and torch is not imported."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore

TEXTS = ["the cat sat", "on the mat", "Grüße, 世界", "the cat sat"]

LIBRARIES = ("torch", "sentence_transformers", "transformers")

WARM = """
import json, sys, warnings
warnings.simplefilter("error")
from embstore import CachedEncoder, EmbeddingStore
job = json.loads(sys.argv[1])
encoder = CachedEncoder(job["model"], EmbeddingStore("store"), **job["loading"])
results = [getattr(encoder, method)(texts, **more) for method, texts, more in job["calls"]]
print(json.dumps({
    "imported": [name for name in ("torch", "sentence_transformers", "transformers")
                 if name in sys.modules],
    "misses": encoder.stats().misses,
    "results": [[str(result.dtype), list(result.shape), result.tobytes().hex()]
                for result in results],
}))
"""

CALLS: list[tuple[str, Any, dict[str, Any]]] = [
    ("encode", TEXTS, {}),
    ("encode", TEXTS[0], {}),
    ("encode", [], {}),
    ("encode", TEXTS, {"normalize_embeddings": True, "truncate_dim": 16}),
    ("encode", TEXTS, {"prompt": "query: ", "batch_size": 2, "device": "cpu"}),
    ("encode", TEXTS, {"precision": None, "show_progress_bar": False}),
    ("encode_query", TEXTS, {}),
    ("encode_document", tuple(TEXTS), {}),
]


def warm(
    run_python: Callable[..., str], model: str, calls: Any = CALLS, **loading: Any
) -> dict[str, Any]:
    """What a new process says: libraries imported, misses, and the vectors' bytes."""
    job = json.dumps({"model": model, "calls": calls, "loading": loading})
    return dict(json.loads(run_python(WARM, job).splitlines()[-1]))


def described(results: list[Any]) -> list[Any]:
    return [[str(array.dtype), list(array.shape), array.tobytes().hex()] for array in results]


def run(encoder: CachedEncoder, calls: Any = CALLS) -> list[Any]:
    return [getattr(encoder, method)(texts, **arguments) for method, texts, arguments in calls]


def test_importing_embstore_imports_no_model_library(run_python: Callable[..., str]) -> None:
    script = f"import sys, embstore; print([name for name in {LIBRARIES} if name in sys.modules])"
    assert run_python(script).strip() == "[]"


def test_everything_stored(
    model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
) -> None:
    expected = described(run(CachedEncoder(model_path, store, device="cpu")))
    store.close()
    said = warm(run_python, model_path)
    assert said == {"imported": [], "misses": 0, "results": expected}


def test_loaded_and_lazy_share_a_namespace(
    minilm: Any, model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
) -> None:
    loaded = CachedEncoder(minilm, store)
    expected = described(run(loaded))
    # The folder is not known yet: it is loaded once to know it, and nothing is computed.
    before = store.stats().misses
    lazy = CachedEncoder(model_path, store, device="cpu")
    assert described(run(lazy)) == expected
    assert store.stats().misses == before
    assert lazy.namespace() == loaded.namespace()
    # From now on it is.
    assert warm(run_python, model_path)["imported"] == []
    # And the other way round: what the lazy one stores, the loaded one finds.
    lazy.encode(["new"])
    after = store.stats().misses
    loaded.encode(["new"])
    assert store.stats().misses == after


def test_a_miss_loads_and_computes(
    minilm: Any, model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
) -> None:
    CachedEncoder(model_path, store, device="cpu").encode(TEXTS)
    store.close()
    said = warm(run_python, model_path, [("encode", [*TEXTS, "new"], {})], device="cpu")
    # One miss of five: what is loaded there has the fingerprint of what was loaded here.
    assert (said["imported"], said["misses"]) == (list(LIBRARIES), 1)
    got = np.frombuffer(bytes.fromhex(said["results"][0][2]), np.float32).reshape(5, 384)
    np.testing.assert_allclose(got, minilm.encode([*TEXTS, "new"]), rtol=0, atol=1e-6)


LOADINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "prompts": {"prompts": {"query": "query: "}},
    "default_prompt": {"prompts": {"any": "any: "}, "default_prompt_name": "any"},
    "truncated": {"truncate_dim": 32},
    "half": {"model_kwargs": {"dtype": "float16"}},
    "named": {"model_name": "mine"},
    "versioned": {"version": "7"},
}


def test_how_it_is_loaded_tells_models_apart(
    model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
) -> None:
    from sentence_transformers import SentenceTransformer

    calls = [CALLS[0], ("encode_query", TEXTS, {})]
    expected, namespaces = {}, set()
    for name, loading in LOADINGS.items():
        encoder = CachedEncoder(model_path, store, device="cpu", **loading)
        expected[name] = run(encoder, calls)
        namespaces.add(encoder.namespace().id)
        own = {"model_name", "version"}
        upstream = {key: value for key, value in loading.items() if key not in own}
        bare = SentenceTransformer(model_path, device="cpu", **upstream)
        for got, call in zip(expected[name], calls, strict=True):
            reference = getattr(bare, call[0])(call[1])
            tolerance = 1e-6 if reference.dtype == np.float32 else 2e-3
            assert got.dtype == reference.dtype
            np.testing.assert_allclose(got, reference, rtol=0, atol=tolerance)
    # Prompts that no default applies leave the vectors of a plain call as they are.
    assert len(namespaces) == len(LOADINGS) - 1
    store.close()
    for name, loading in LOADINGS.items():
        said = warm(run_python, model_path, calls, **loading)
        assert said == {"imported": [], "misses": 0, "results": described(expected[name])}, name


def test_answers_only_from_the_store(
    model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
) -> None:
    CachedEncoder(model_path, store, device="cpu").encode(TEXTS)
    store.close()
    script = """
import sys
from embstore import CachedEncoder, CacheMissError, EmbeddingStore
encoder = CachedEncoder(sys.argv[1], EmbeddingStore("store"), on_miss="raise")
assert encoder.encode(["on the mat"]).shape == (1, 384)
try:
    encoder.encode(["on the mat", "new", "newer", "new"])
except CacheMissError as error:
    print(error.missing, error.total, error.first, error.indices, "torch" in sys.modules)
"""
    assert run_python(script, model_path).strip() == "2 4 ('new', 'newer') (1, 2) False"


def test_lazy_encoder_in_a_pickle(
    model_path: str, store: EmbeddingStore, tmp_path: Path, run_python: Callable[..., str]
) -> None:
    import pickle

    encoder = CachedEncoder(Path(model_path), store, device="cpu")
    expected = encoder.encode(TEXTS)
    (tmp_path / "pickle").write_bytes(pickle.dumps(encoder))
    script = """
import pickle, sys
encoder = pickle.load(open("pickle", "rb"))
print(encoder.encode(sys.argv[1:]).tobytes().hex(), "torch" in sys.modules)
"""
    assert run_python(script, *TEXTS).split() == [expected.tobytes().hex(), "False"]


def test_one_folder_by_other_paths(
    minilm: Any, model_path: str, store: EmbeddingStore, tmp_path: Path
) -> None:
    (tmp_path / "model").symlink_to(model_path)
    paths = [model_path, model_path + "/", os.path.relpath(model_path), str(tmp_path / "model")]
    namespaces = {CachedEncoder(path, store, device="cpu").namespace().id for path in paths}
    assert namespaces == {CachedEncoder(minilm, store).namespace().id}


def test_a_path_with_nothing_in_it_is_refused_as_upstream_does(
    store: EmbeddingStore, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(Exception) as expected:  # noqa: PT011 - compared with upstream's
            SentenceTransformer(str(path))
        with pytest.raises(expected.type):
            CachedEncoder(str(path), store).encode(TEXTS)


class TestHub:
    """A hub's cache as the hub's library lays it out, offline."""

    NAME = "sentence-transformers/all-MiniLM-L6-v2"

    @pytest.fixture
    def cache(self, model_path: str, tmp_path: Path) -> Path:
        self.add(tmp_path / "hub", model_path, "a" * 40)
        return tmp_path / "hub"

    def add(self, cache: Path, folder: str | Path, commit: str) -> Path:
        root = cache / ("models--" + self.NAME.replace("/", "--"))
        shutil.copytree(folder, root / "snapshots" / commit)
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / "main").write_text(commit)
        return root / "snapshots" / commit

    @pytest.mark.parametrize("name", [NAME, "all-MiniLM-L6-v2"])
    def test_by_name(
        self, minilm: Any, store: EmbeddingStore, cache: Path, run_python: Any, name: str
    ) -> None:
        loading = {"cache_folder": str(cache)}
        encoder = CachedEncoder(name, store, device="cpu", **loading)
        expected = run(encoder, CALLS[:1])
        np.testing.assert_allclose(expected[0], minilm.encode(TEXTS), rtol=0, atol=1e-6)
        store.close()
        said = warm(run_python, name, CALLS[:1], **loading)
        assert said == {"imported": [], "misses": 0, "results": described(expected)}

    def test_another_commit(
        self, minilm: Any, own_minilm: Any, store: EmbeddingStore, cache: Path, tmp_path: Path
    ) -> None:
        loading = {"cache_folder": str(cache), "device": "cpu"}
        first = CachedEncoder(self.NAME, store, **loading)
        first.encode(TEXTS)
        own_minilm[0].auto_model.encoder.layer[0].output.dense.weight.data.mul_(1.5)
        own_minilm.save(str(tmp_path / "changed"))
        self.add(cache, tmp_path / "changed", "b" * 40)
        now, then = (
            CachedEncoder(self.NAME, store, revision=revision, **loading)
            for revision in (None, "a" * 40)
        )
        changed, before = own_minilm.encode(TEXTS), minilm.encode(TEXTS)
        assert not np.allclose(changed, before, atol=1e-3)
        np.testing.assert_allclose(now.encode(TEXTS), changed, rtol=0, atol=1e-6)
        np.testing.assert_allclose(then.encode(TEXTS), before, rtol=0, atol=1e-6)
        assert then.namespace() == first.namespace()
