"""What an encoder takes as still true from one call to the next, and what it looks at again."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from embstore.watch import Watch

TEXT = "a text of some more words than eight, so that cutting it off is seen in its vector"


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with each look at a loaded model."""
    seen: list[Any] = []
    real = Watch.same
    monkeypatch.setattr(Watch, "same", lambda *each: seen.append(each) or real(*each))
    return seen


def test_a_model_that_nobody_else_has_is_not_looked_at(
    model_path: str, store: EmbeddingStore, looks: list[Any]
) -> None:
    encoder = CachedEncoder(model_path, store, device="cpu")
    encoder.encode([TEXT])
    before = len(looks)
    for _ in range(3):
        encoder.encode(TEXT)
        encoder.encode_query([TEXT, TEXT])
    assert len(looks) == before
    assert encoder.max_seq_length == 256  # from here on it might be changed
    encoder.encode(TEXT)
    assert len(looks) > before


@pytest.mark.parametrize(
    "change",
    [
        lambda encoder: setattr(encoder, "max_seq_length", 8),
        lambda encoder: setattr(encoder[0], "max_seq_length", 8),
        lambda encoder: setattr(next(iter(encoder)), "max_seq_length", 8),
        lambda encoder: setattr(encoder.model, "max_seq_length", 8),
    ],
    ids=["through the encoder", "by index", "by iteration", "the model itself"],
)
def test_a_change_of_a_model_that_was_given_away_is_seen(
    model_path: str, store: EmbeddingStore, change: Any
) -> None:
    encoder = CachedEncoder(model_path, store, device="cpu")
    before = encoder.encode(TEXT)
    namespace = encoder.namespace()
    change(encoder)
    after = encoder.encode(TEXT)
    assert encoder.namespace() != namespace
    assert np.abs(before - after).max() > 1e-3


def test_changes_between_two_calls_are_seen_one_by_one(own_minilm: Any, store: Any) -> None:
    encoder = CachedEncoder(own_minilm, store)
    seen = {encoder.namespace().id}

    def changed() -> None:
        encoder.encode(TEXT)
        assert encoder.namespace().id not in seen
        seen.add(encoder.namespace().id)

    encoder.encode(TEXT)
    assert encoder.namespace().id in seen
    own_minilm[1].include_prompt = not own_minilm[1].include_prompt
    changed()
    own_minilm.max_seq_length = 32
    changed()
    own_minilm.truncate_dim = 16
    changed()
    own_minilm.prompts["default"] = "passage: "
    own_minilm.default_prompt_name = "default"
    changed()
    own_minilm.prompts["default"] = "query: "
    changed()
    next(iter(own_minilm.parameters())).data[0, 0] += 1
    next(iter(own_minilm.parameters())).data.mul_(1.5)
    changed()


def test_arguments_that_are_equal_and_not_the_same(minilm: Any, store: Any) -> None:
    encoder = CachedEncoder(minilm, store)
    encoder.encode([TEXT], batch_size=32)
    with pytest.raises(TypeError):
        encoder.encode([TEXT], batch_size=32.0)  # type: ignore[arg-type]
    encoder.encode([TEXT], truncate_dim=1)
    for dim in (np.int64(1), True):
        assert encoder.encode(TEXT, truncate_dim=dim).shape == (1,)
    for _ in range(2):
        with pytest.raises(ValueError, match="batch_size"):
            encoder.encode([TEXT], batch_size=0)
        with pytest.raises(ValueError, match="not found"):
            encoder.encode([TEXT], prompt_name="no such prompt")
        with pytest.raises(ValueError, match="does not use"):
            encoder.encode([TEXT], no_such_argument=1)
        assert encoder.encode(TEXT, device=["cpu"][0]).shape == (384,)


def test_torch_switches_between_two_calls(minilm: Any, store: Any) -> None:
    import torch

    encoder = CachedEncoder(minilm, store)
    encoder.encode(TEXT)
    encoder.encode(TEXT)
    torch.set_float32_matmul_precision("medium")
    try:
        encoder.encode(TEXT)
    finally:
        torch.set_float32_matmul_precision("highest")
    assert encoder.stats().misses == 2


class TestFilesOfAModelThatIsNotLoaded:
    @pytest.fixture
    def folder(self, model_path: str, tmp_path: Path, store: EmbeddingStore) -> Path:
        """A copy of the model, of which the store knows one text."""
        folder = tmp_path / "model"
        shutil.copytree(model_path, folder, symlinks=False)
        CachedEncoder(str(folder), store, device="cpu").encode(TEXT)
        return folder

    def unloaded(self, folder: Path, store: EmbeddingStore) -> CachedEncoder:
        encoder = CachedEncoder(str(folder), store, device="cpu")
        for _ in range(3):
            encoder.encode(TEXT)
        return encoder

    def test_are_looked_at_in_each_call(self, folder: Path, store: EmbeddingStore) -> None:
        encoder = self.unloaded(folder, store)
        name = encoder.namespace().id
        changed = folder / "sentence_bert_config.json"
        changed.write_text(changed.read_text().replace("256", "16"))
        assert encoder.namespace().id != name

    def test_that_come_are_seen(self, folder: Path, store: EmbeddingStore) -> None:
        encoder = self.unloaded(folder, store)
        misses = encoder.stats().misses
        (folder / "adapter_config.json").write_text("{}")
        with pytest.raises(Exception):  # noqa: B017, PT011  # upstream's: no such adapter
            encoder.encode(TEXT)
        (folder / "adapter_config.json").unlink()
        encoder.encode(TEXT)
        assert encoder.stats().misses == misses

    def test_whose_folder_was_exchanged(
        self, folder: Path, store: EmbeddingStore, tmp_path: Path
    ) -> None:
        link = tmp_path / "current"
        link.symlink_to(folder)
        other = tmp_path / "other"
        shutil.copytree(folder, other)
        config = other / "sentence_bert_config.json"
        config.write_text(config.read_text().replace("256", "16"))
        CachedEncoder(str(link), store, device="cpu").encode(TEXT)
        encoder = self.unloaded(link, store)
        name = encoder.namespace().id
        link.unlink()
        link.symlink_to(other)
        assert encoder.namespace().id != name
