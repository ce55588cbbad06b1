"""Other weights under one path, or one name: never a vector of the old ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from embstore import CachedEncoder, EmbeddingStore, snapshot

TEXTS = ["the cat sat", "on the mat", "Grüße, 世界"]
NEW = ["a new text", "and another"]


@pytest.fixture
def folder(model_path: str, tmp_path: Path) -> Path:
    """A copy of MiniLM's folder that a test may change."""
    return Path(shutil.copytree(model_path, tmp_path / "model"))


@pytest.fixture(params=["settled", "just_written"])
def age(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the files are old enough for their metadata to be trusted, or read every time."""
    if request.param == "settled":
        monkeypatch.setattr(snapshot, "_SETTLED", 0.0)


def edited(weights: bytes) -> bytes:
    """A safetensors file of the same size, whose word embeddings are others."""
    length = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + length])
    start, end = header["embeddings.word_embeddings.weight"]["data_offsets"]
    numbers = np.frombuffer(weights[8 + length + start : 8 + length + end], np.float32)
    changed = (numbers[::-1]).tobytes()
    return weights[: 8 + length + start] + changed + weights[8 + length + end :]


def replaced(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(edited(file.read_bytes()))
    stat = file.stat()
    os.utime(other, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(other, file)


def overwritten(file: Path) -> None:
    stat = file.stat()
    with open(file, "r+b") as opened:
        opened.write(edited(file.read_bytes()))
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


SWAPS = [replaced, overwritten]


def bare(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu")


def assert_swapped(folder: Path, old: Any, encoder: CachedEncoder, texts: list[str]) -> None:
    expected = bare(folder).encode(texts)
    assert not np.allclose(expected, old.encode(texts), atol=1e-2)
    np.testing.assert_allclose(encoder.encode(texts), expected, rtol=0, atol=1e-6)


@pytest.mark.usefixtures("age")
class TestSwapped:
    @pytest.mark.parametrize("swap", SWAPS)
    def test_same_size_and_time(
        self, minilm: Any, folder: Path, store: EmbeddingStore, swap: Callable[[Path], None]
    ) -> None:
        weights = folder / "model.safetensors"
        before = weights.stat()
        first = CachedEncoder(folder, store, device="cpu")
        first.encode(TEXTS)
        CachedEncoder(folder, store, device="cpu").encode(TEXTS)
        assert store.stats().misses == len(TEXTS)

        old = first.namespace()  # later, a mapped file may have changed the loaded weights too
        swap(weights)
        after = weights.stat()
        assert (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
        second = CachedEncoder(folder, store, device="cpu")
        assert_swapped(folder, minilm, second, TEXTS)
        assert second.namespace().id != old.id
        assert len(store.namespaces()) == 2

    def test_between_two_calls_of_an_encoder_that_never_loaded(
        self, minilm: Any, folder: Path, store: EmbeddingStore
    ) -> None:
        CachedEncoder(folder, store, device="cpu").encode(TEXTS)
        encoder = CachedEncoder(folder, store, device="cpu")
        np.testing.assert_allclose(encoder.encode(TEXTS), minilm.encode(TEXTS), rtol=0, atol=1e-6)
        replaced(folder / "model.safetensors")
        # Hits of the old weights and misses of the new must not end up in one array.
        assert_swapped(folder, minilm, encoder, [*TEXTS, *NEW])
        assert store.stats().misses == len(TEXTS) + len([*TEXTS, *NEW])

    def test_a_loaded_model_keeps_its_weights(
        self, minilm: Any, folder: Path, store: EmbeddingStore
    ) -> None:
        encoder = CachedEncoder(folder, store, device="cpu")
        encoder.encode(TEXTS)
        replaced(folder / "model.safetensors")
        mixed = encoder.encode([*TEXTS, *NEW])
        np.testing.assert_allclose(mixed, minilm.encode([*TEXTS, *NEW]), rtol=0, atol=1e-6)
        # What it computed since belongs to the weights it has, not to those in the folder.
        assert_swapped(folder, minilm, CachedEncoder(folder, store, device="cpu"), [*TEXTS, *NEW])

    def test_back_again(self, minilm: Any, folder: Path, store: EmbeddingStore) -> None:
        weights = folder / "model.safetensors"
        original = weights.read_bytes()
        first = CachedEncoder(folder, store, device="cpu").encode(TEXTS)
        replaced(weights)
        CachedEncoder(folder, store, device="cpu").encode(TEXTS)
        weights.write_bytes(original)
        back = CachedEncoder(folder, store, device="cpu", on_miss="raise").encode(TEXTS)
        assert back.tobytes() == first.tobytes()

    def test_fine_tuned_and_saved_under_its_path(
        self, minilm: Any, folder: Path, store: EmbeddingStore
    ) -> None:
        CachedEncoder(folder, store, device="cpu").encode(TEXTS)
        model = bare(folder)
        live = CachedEncoder(model, store)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        for _ in range(3):
            output = model(model.preprocess(TEXTS))["sentence_embedding"]
            loss = (output @ output.T).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        tuned = live.encode(TEXTS)
        np.testing.assert_allclose(tuned, model.encode(TEXTS), rtol=0, atol=1e-6)
        assert not np.allclose(tuned, minilm.encode(TEXTS), atol=1e-3)
        model.save(str(folder))
        lazy = CachedEncoder(folder, store, device="cpu")
        np.testing.assert_allclose(lazy.encode(TEXTS), tuned, rtol=0, atol=1e-6)
        lazy.encode(NEW)
        np.testing.assert_allclose(lazy.encode(NEW), model.encode(NEW), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "file, changes",
    [
        ("sentence_bert_config.json", {"max_seq_length": 8}),
        (
            "1_Pooling/config.json",
            {"pooling_mode_mean_tokens": False, "pooling_mode_max_tokens": True},
        ),
        (
            "config_sentence_transformers.json",
            {"prompts": {"a": "a: "}, "default_prompt_name": "a"},
        ),
        ("tokenizer_config.json", {"do_lower_case": False}),
        ("config.json", {"num_hidden_layers": 3}),
    ],
    ids=str,
)
def test_other_settings_in_the_folder(
    folder: Path, store: EmbeddingStore, file: str, changes: dict[str, Any]
) -> None:
    texts = [*TEXTS, "A long text in WORDS " * 10]
    before = CachedEncoder(folder, store, device="cpu").encode(texts)
    settings = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(settings | changes))
    expected = bare(folder).encode(texts)
    assert not np.allclose(expected, before, atol=1e-3)
    got = CachedEncoder(folder, store, device="cpu").encode(texts)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_two_models_of_one_name(minilm: Any, unnormalized: Any, store: EmbeddingStore) -> None:
    encoders = [CachedEncoder(model, store, model_name="one") for model in (minilm, unnormalized)]
    for encoder, model in zip(encoders * 2, [minilm, unnormalized] * 2, strict=True):
        np.testing.assert_allclose(encoder.encode(TEXTS), model.encode(TEXTS), rtol=0, atol=1e-6)
    assert len({info.namespace.id for info in store.namespaces()}) == 2
