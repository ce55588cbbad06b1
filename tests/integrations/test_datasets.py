"""Hugging Face datasets, as they are installed: map, its cache files, processes and formats."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset, List, Value, load_from_disk
from datasets.fingerprint import Hasher

from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.datasets import EmbedColumn

WORDS = ["one", "three", "eleven", "one", ""]
VECTORS = [[3.0, 1.0], [5.0, 1.0], [6.0, 1.0], [3.0, 1.0], [0.0, 1.0]]


def lengths(texts: list[str]) -> list[list[float]]:
    """A model of two dimensions."""
    return [[float(len(text)), 1.0] for text in texts]


class Logged:
    """The same, which notes what it is asked for in a file, from whatever process."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, texts: list[str]) -> list[list[float]]:
        with self.path.open("a") as file:
            file.write("".join(f"{json.dumps(text)}\n" for text in texts))
        return lengths(texts)

    def asked(self) -> list[str]:
        """All texts, in the order they were asked for."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]


@pytest.fixture
def encoder(store: EmbeddingStore) -> CachedEncoder:
    return CachedEncoder(lengths, store, model_name="lengths")


@pytest.fixture
def words() -> Dataset:
    return Dataset.from_dict({"number": list(range(5)), "text": WORDS})


class TestMap:
    @pytest.mark.parametrize("batched", [True, False])
    def test_adds_a_column(self, words: Dataset, encoder: CachedEncoder, batched: bool) -> None:
        done = words.map(EmbedColumn(encoder), batched=batched)
        assert done.features["embedding"] == List(Value("float32"))
        assert done["embedding"][:] == VECTORS
        assert done.column_names == ["number", "text", "embedding"]

    def test_of_a_fixed_length(self, words: Dataset, encoder: CachedEncoder) -> None:
        embed = EmbedColumn(encoder, "text", "vector")
        done = words.map(embed, batched=True, batch_size=2, features=embed.features(words))
        assert done.features["vector"] == List(Value("float32"), length=2)
        assert done["vector"][:] == VECTORS
        assert encoder.stats().misses == 4

    def test_replaces_a_column(self, words: Dataset, encoder: CachedEncoder) -> None:
        embed = EmbedColumn(encoder, into="text")
        assert words.map(embed, batched=True)["text"][:] == VECTORS
        arrow = words.with_format("arrow").map(embed, batched=True).with_format(None)
        assert arrow["text"][:] == VECTORS

    @pytest.mark.parametrize("kind", ["numpy", "torch", "pandas", "polars", "arrow"])
    @pytest.mark.parametrize("fixed", [True, False])
    def test_keeps_a_format(
        self, words: Dataset, encoder: CachedEncoder, kind: str, fixed: bool
    ) -> None:
        formatted = words.with_format(kind)
        embed = EmbedColumn(encoder)
        features = embed.features(formatted) if fixed else None
        done = formatted.map(embed, batched=True, batch_size=2, features=features)
        assert done.format["type"] == kind
        assert done.features["embedding"].feature == Value("float32")
        if fixed:
            assert done.features["embedding"].length == 2
            assert done.features["text"] == Value("string")
        plain = done.with_format(None)
        assert plain["embedding"][:] == VECTORS
        assert plain["text"][:] == WORDS
        assert plain["number"][:] == list(range(5))

    @pytest.mark.parametrize("known", [True, False])
    def test_of_a_stream(self, words: Dataset, encoder: CachedEncoder, known: bool) -> None:
        stream = (
            words.to_iterable_dataset()
            if known
            else IterableDataset.from_generator(lambda: ({"text": word} for word in WORDS))
        )
        embed = EmbedColumn(encoder)
        for features in (None, embed.features(stream)):
            rows = list(stream.map(embed, batched=True, batch_size=2, features=features))
            assert [row["text"] for row in rows] == WORDS
            assert np.array([row["embedding"] for row in rows]).tolist() == VECTORS
        assert encoder.stats().misses == 4

    def test_in_two_processes_computes_no_text_twice(
        self, tmp_path: Path, store: EmbeddingStore
    ) -> None:
        texts = [f"text {number}" for number in range(150)]
        model = Logged(tmp_path / "asked")
        embed = EmbedColumn(CachedEncoder(model, store, model_name="lengths"))
        # Both processes are given the same texts, in the same order.
        twice = Dataset.from_dict({"text": texts + texts})
        done = twice.map(embed, batched=True, batch_size=50, num_proc=2)
        assert done["embedding"][:] == lengths(texts + texts)
        assert sorted(model.asked()) == sorted(texts)

    @pytest.mark.parametrize("loaded", [True, False])
    def test_in_two_processes_with_a_real_model(
        self, static: Any, model_path: str, store: EmbeddingStore, texts: list[str], loaded: bool
    ) -> None:
        encoder = CachedEncoder(static if loaded else model_path, store, device="cpu")
        embed = EmbedColumn(encoder)
        done = Dataset.from_dict({"text": texts[:8]}).map(
            embed, batched=True, batch_size=4, num_proc=2
        )
        vectors = np.array(done["embedding"][:], np.float32)
        assert (encoder.encode(texts[:8]) == vectors).all()
        assert store.stats().misses == 0  # of this process
        assert np.abs(vectors - encoder.model.encode(texts[:8])).max() < 1e-6


class TestTheHash:
    def test_is_the_same_for_what_is_equal(
        self, tmp_path: Path, encoder: CachedEncoder, store: EmbeddingStore
    ) -> None:
        embed = EmbedColumn(encoder)
        expected = Hasher.hash(embed)
        embed({"text": WORDS})
        elsewhere = EmbeddingStore(tmp_path / "elsewhere", memory_limit=0)
        other = CachedEncoder(lambda texts: [], elsewhere, model_name="lengths", on_miss="raise")
        for equal in (
            embed,
            EmbedColumn(encoder, "text", "embedding", batch_size=7),
            EmbedColumn(other),
            pickle.loads(pickle.dumps(embed)),
        ):
            assert Hasher.hash(equal) == expected
        wrapped = [Hasher.hash(lambda batch, embed=each: embed(batch)) for each in (embed, embed)]
        assert wrapped[0] == wrapped[1]
        assert Hasher.hash({"nested": [embed]}) == Hasher.hash({"nested": [EmbedColumn(other)]})

    def test_is_another_for_what_differs(self, store: EmbeddingStore) -> None:
        def made(name: str = "lengths", version: str | None = None, **settings: Any) -> str:
            encoder = CachedEncoder(lengths, store, model_name=name, version=version)
            return Hasher.hash(EmbedColumn(encoder, **settings))

        rounded = CachedEncoder(lengths, store, model_name="lengths", storage_dtype="float16")
        hashes = [
            *(made(), made("other"), made(version="2"), Hasher.hash(EmbedColumn(rounded))),
            *(made(column="body"), made(into="vector"), made(column="embedding", into="text")),
            *(made(task="query"), made(task="document"), made(prompt="query: ")),
            *(made(normalize_embeddings=True), made(truncate_dim=1)),
        ]
        assert len(set(hashes)) == len(hashes)

    def test_is_that_of_the_namespace_used(self, own_minilm: Any, store: EmbeddingStore) -> None:
        own_minilm.prompts = {"query": "query: ", "passage": "passage: "}
        encoder = CachedEncoder(own_minilm, store)
        plain, query, document = (
            EmbedColumn(encoder, task=task) for task in (None, "query", "document")
        )
        for each in (plain, query, document):
            each({"text": ["a text"]})
        used = {info.namespace.id for info in store.namespaces()}
        assert used == {
            encoder.namespace().id,
            encoder.namespace(task="query", prompt="query: ").id,
            encoder.namespace(task="document", prompt="passage: ").id,
        }
        named = [each.identity()["namespace"]["prompt"] for each in (plain, query, document)]
        assert named == [None, "query: ", "passage: "]
        before = Hasher.hash(plain)
        with torch.no_grad():
            own_minilm[0].auto_model.embeddings.LayerNorm.weight.add_(1)
        assert Hasher.hash(plain) != before

    def test_is_the_same_loaded_or_not_in_any_process(
        self, minilm: Any, model_path: str, store: EmbeddingStore, run_python: Callable[..., str]
    ) -> None:
        script = """
import sys
from datasets.fingerprint import Hasher
from embstore import EmbeddingStore
from embstore.integrations.datasets import EmbedColumn
path, location = sys.argv[1:]
print(Hasher.hash(EmbedColumn(path, store=EmbeddingStore(location))), "torch" in sys.modules)
"""
        loaded = CachedEncoder(model_path, store, device="cpu")
        loaded.encode("a text")
        expected = Hasher.hash(EmbedColumn(loaded))
        assert Hasher.hash(EmbedColumn(CachedEncoder(minilm, store))) == expected
        printed = run_python(script, model_path, store.location).split()
        assert printed[0] == expected

    def test_lets_another_process_take_the_file_that_map_has_written(
        self, tmp_path: Path, words: Dataset, run_python: Callable[..., str]
    ) -> None:
        words.save_to_disk(tmp_path / "words")
        script = """
import sys
from datasets import load_from_disk
from embstore import CachedEncoder, EmbeddingStore
from embstore.integrations.datasets import EmbedColumn
def refuse(texts):
    raise RuntimeError("computed")
words, store = sys.argv[1:]
encoder = CachedEncoder(refuse, EmbeddingStore(store), model_name="lengths")
done = load_from_disk(words).map(EmbedColumn(encoder), batched=True)
print(done["embedding"][:], encoder.stats().total)
"""
        encoder = CachedEncoder(lengths, EmbeddingStore(tmp_path / "one"), model_name="lengths")
        load_from_disk(tmp_path / "words").map(EmbedColumn(encoder), batched=True)
        assert encoder.stats().misses == 4
        # In a store of its own, which has nothing: it is not even asked.
        printed = run_python(script, tmp_path / "words", tmp_path / "another")
        assert printed.split("\n")[0] == f"{VECTORS} 0"


class TestWhatIsWrong:
    def test_a_missing_text(self, encoder: CachedEncoder) -> None:
        dataset = Dataset.from_dict({"text": ["a", None, "b"]})
        with pytest.raises(TypeError, match=r"at position 1, a missing value"):
            dataset.map(EmbedColumn(encoder), batched=True)

    @pytest.mark.parametrize("kind", [None, "pandas", "polars", "arrow", "numpy"])
    def test_a_missing_column(self, words: Dataset, encoder: CachedEncoder, kind: Any) -> None:
        with pytest.raises(KeyError, match=r"there is no column 'body': give column="):
            words.with_format(kind).map(EmbedColumn(encoder, "body"), batched=True)

    def test_no_rows(self, words: Dataset, encoder: CachedEncoder) -> None:
        empty = words.select([])
        with pytest.raises(ValueError, match="without rows"):
            EmbedColumn(encoder).features(empty)
        assert len(empty.map(EmbedColumn(encoder), batched=True)) == 0

    def test_arguments(self, encoder: CachedEncoder, store: EmbeddingStore) -> None:
        with pytest.raises(ValueError, match='task is "query", "document" or None'):
            EmbedColumn(encoder, task="passage")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="give no other"):
            EmbedColumn(encoder, store=store)

    def test_without_the_library(self, run_python: Callable[..., str]) -> None:
        printed = run_python("""
import sys
for name in ("datasets", "mteb"):
    sys.modules[name] = None
    try:
        __import__(f"embstore.integrations.{name}")
    except ImportError as error:
        print(error)
""")
        assert "pip install 'embstore[datasets]'" in printed
        assert "pip install 'embstore[mteb]'" in printed
