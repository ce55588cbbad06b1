"""Caches that LangChain's own CacheBackedEmbeddings wrote, moved into a store."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_classic.storage import LocalFileStore
from typer.testing import CliRunner, Result

from embstore import EmbeddingStore, NamespaceError
from embstore.cli import migrate as command
from embstore.cli.errors import Commands
from embstore.integrations.langchain import CachedEmbeddings
from embstore.moving.langchain_cache import (
    KEY_ENCODERS,
    MigrationReport,
    count_files,
    migrate,
    namespace_of,
    prefixes,
)
from tests.integrations.langchain.models import Counting, vector

pytestmark = pytest.mark.filterwarnings("ignore:Using default key encoder. SHA-1:UserWarning")

TEXTS = ["the cat sat", "on the mat", "", "naïve ☃ text"]
NAME = "text-embedding-3-small"
TARGET = namespace_of(NAME)


def fill(path: Path, texts: list[str] = TEXTS, **how: Any) -> dict[str, Path]:
    """Have LangChain embed texts into a cache; the file of each."""
    how = {"namespace": NAME, **how}
    embeddings = CacheBackedEmbeddings.from_bytes_store(Counting(), LocalFileStore(path), **how)
    files = {}
    for text in texts:
        before = set(path.rglob("*"))
        embeddings.embed_documents([text])
        files[text] = next(file for file in set(path.rglob("*")) - before if file.is_file())
    return files


def moved(store: EmbeddingStore, path: Path, **how: Any) -> MigrationReport:
    return migrate(path, TEXTS, store, TARGET, **{"prefix": NAME, **how})


class TestEndToEnd:
    @pytest.mark.parametrize("key_encoder", ["sha1", "blake2b", "sha256", "sha512"])
    def test_nothing_is_computed_afterwards(
        self, tmp_path: Path, store: EmbeddingStore, key_encoder: str
    ) -> None:
        fill(tmp_path / "cache", key_encoder=key_encoder)
        report = moved(store, tmp_path / "cache")
        assert report == MigrationReport(
            texts=4,
            moved=4,
            missing=0,
            unreadable=(),
            wrong_dim=(),
            dim=3,
            key_encoders={key_encoder: 4},
        )
        model = Counting()
        found = CachedEmbeddings(model, store, model_name=NAME).embed_documents(TEXTS)
        assert model.calls == []
        assert found == np.float32([vector(text) for text in TEXTS]).tolist()

    def test_queries(self, tmp_path: Path, store: EmbeddingStore) -> None:
        cache = LocalFileStore(tmp_path / "queries")
        embeddings = CacheBackedEmbeddings.from_bytes_store(
            Counting(), LocalFileStore(tmp_path / "documents"), query_embedding_cache=cache
        )
        for text in TEXTS:
            embeddings.embed_query(text)
        migrate(tmp_path / "queries", TEXTS, store, namespace_of(NAME, "query"))
        model = Counting()
        cached = CachedEmbeddings(model, store, model_name=NAME)
        assert cached.embed_query(TEXTS[0]) == np.float32(vector(TEXTS[0], "query")).tolist()
        assert not model.asked
        cached.embed_documents(TEXTS[:1])
        assert model.asked == {f"document {TEXTS[0]}": 1}

    def test_versions_and_settings(self, tmp_path: Path, store: EmbeddingStore) -> None:
        fill(tmp_path)
        further: dict[str, Any] = {"version": "2", "settings": {"dimensions": 3, "b": [1, None]}}
        migrate(tmp_path, TEXTS, store, namespace_of(NAME, **further), prefix=NAME)
        model = Counting()
        CachedEmbeddings(model, store, model_name=NAME, **further).embed_documents(TEXTS)
        assert model.calls == []

    def test_a_key_encoder_of_one_s_own(self, tmp_path: Path, store: EmbeddingStore) -> None:
        def encode(text: str) -> str:
            return f"mine/{hashlib.md5(text.encode()).hexdigest()}.json"

        fill(tmp_path, namespace="", key_encoder=encode)
        assert moved(store, tmp_path, prefix="").moved == 0
        assert moved(store, tmp_path, prefix="", key_encoder=encode).moved == 4

    def test_namespaces_with_folders(self, tmp_path: Path, store: EmbeddingStore) -> None:
        fill(tmp_path, namespace="BAAI/bge-small-en-v1.5")
        fill(tmp_path, namespace="BAAI/bge-m3", key_encoder="sha256")
        assert prefixes(tmp_path) == {"BAAI/bge-small-en-v1.5": 4, "BAAI/bge-m3": 4}
        assert moved(store, tmp_path, prefix="BAAI/bge-m3").key_encoders == {"sha256": 4}

    def test_again(self, tmp_path: Path, store: EmbeddingStore) -> None:
        fill(tmp_path)
        assert moved(store, tmp_path) == moved(store, tmp_path)
        assert [info.entries for info in store.namespaces()] == [4]


class TestWhatIsNotMoved:
    def test_texts_without_a_file(self, tmp_path: Path, store: EmbeddingStore) -> None:
        fill(tmp_path, TEXTS[:1])
        texts = ["other", TEXTS[0], "other", "\ud800"]
        report = migrate(tmp_path, texts, store, TARGET, prefix=NAME)
        assert (report.texts, report.moved, report.missing) == (3, 1, 2)

    @pytest.mark.parametrize(
        "raw",
        [
            b"",
            b"garbage",
            b"\xff\xfe\x00",
            b"[]",
            b"{}",
            b"null",
            b"1.0",
            b'["1.0", "2.0", "3.0"]',
            b"[true, false, true]",
            b"[[1.0, 2.0, 3.0]]",
            b"[1.0, NaN, 2.0]",
            b"[1.0, Infinity, 2.0]",
            b"[1.0, 1e300, 2.0]",
            b"[1, 2, 1" + b"0" * 400 + b"]",
            b"[1, 2, 1" + b"0" * 5000 + b"]",
            b"[" * 100_000,
            b"\x80\x04\x95cposix\nsystem\n",
        ],
        ids=range(17),
    )
    def test_files_that_hold_no_vector(
        self, tmp_path: Path, store: EmbeddingStore, raw: bytes
    ) -> None:
        file = fill(tmp_path)[TEXTS[1]]
        file.write_bytes(raw)
        report = moved(store, tmp_path)
        assert (report.moved, report.unreadable) == (3, (file.name,))
        assert store.get_many(TARGET, TEXTS)[1].tolist() == [True, False, True, True]

    def test_another_file_of_the_text_is_taken(self, tmp_path: Path, store: EmbeddingStore) -> None:
        fill(tmp_path)[TEXTS[1]].write_bytes(b"")
        fill(tmp_path, key_encoder="sha512")
        report = moved(store, tmp_path)
        assert report.key_encoders == {"sha1": 3, "sha512": 1}
        assert report.unreadable == ()

    def test_something_else_in_the_place_of_a_file(
        self, tmp_path: Path, store: EmbeddingStore
    ) -> None:
        first, second, *_ = fill(tmp_path).values()
        first.unlink()
        os.mkfifo(first)  # to be opened, it would be waited for
        second.unlink()
        second.mkdir()
        report = moved(store, tmp_path)
        assert (report.moved, report.missing) == (2, 2)

    def test_vectors_of_another_length(self, tmp_path: Path, store: EmbeddingStore) -> None:
        file = fill(tmp_path)[TEXTS[0]]
        file.write_text("[1.0, 2.0]")
        report = moved(store, tmp_path)
        assert (report.dim, report.moved, report.wrong_dim) == (3, 3, (file.name,))

    def test_the_length_in_the_store_counts(self, tmp_path: Path, store: EmbeddingStore) -> None:
        store.put_many(TARGET, ["stored"], np.ones((1, 2), np.float32))
        file = fill(tmp_path)[TEXTS[0]]
        file.write_text("[1.0, 2.0]")
        report = moved(store, tmp_path)
        assert (report.dim, report.moved, len(report.wrong_dim)) == (2, 1, 3)

    def test_another_precision_in_the_store(self, tmp_path: Path, store: EmbeddingStore) -> None:
        store.put_many(TARGET, ["stored"], np.ones((1, 3), np.float64))
        fill(tmp_path)
        with pytest.raises(NamespaceError, match="float64"):
            moved(store, tmp_path)

    @pytest.mark.parametrize("prefix", ["../cache/", "/etc/", "a/../../", "with space", "a:b"])
    def test_names_that_no_cache_has(
        self, tmp_path: Path, store: EmbeddingStore, prefix: str
    ) -> None:
        fill(tmp_path / "cache")
        with pytest.raises(ValueError, match="check the namespace"):
            moved(store, tmp_path / "cache", prefix=prefix)

    def test_nothing_is_changed_in_the_cache(self, tmp_path: Path, store: EmbeddingStore) -> None:
        files = fill(tmp_path / "cache")
        before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in files.values()}
        moved(store, tmp_path / "cache")
        found = {path for path in (tmp_path / "cache").rglob("*") if path.is_file()}
        assert before == {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in found}


def test_what_counts_as_a_file_of_the_cache(tmp_path: Path) -> None:
    (tmp_path / "README").write_text("no vector")
    assert prefixes(tmp_path) == {}
    names = ("", "e5", "deadbeef-")
    for name in (*names, "a" * 70):
        for encode in KEY_ENCODERS.values():
            (tmp_path / f"{name}{encode('text')}").write_text("[1.0]")
    assert {name: count_files(tmp_path, name) for name in names} == dict.fromkeys(names, 4)
    assert count_files(tmp_path, "a" * 70) == 4
    assert prefixes(tmp_path) == {**dict.fromkeys(names, 4), "a" * 70: 3, "a" * 6: 1}


def test_no_such_folder(tmp_path: Path, store: EmbeddingStore) -> None:
    with pytest.raises(NotADirectoryError, match="none"):
        moved(store, tmp_path / "none")


def test_progress_is_told(tmp_path: Path, store: EmbeddingStore) -> None:
    fill(tmp_path)
    heard: list[int] = []
    texts = TEXTS + [f"missing {number}" for number in range(600)] + TEXTS
    migrate(tmp_path, texts, store, TARGET, prefix=NAME, progressed=heard.append)
    assert sum(heard) == 604
    assert len(heard) == 3


class TestCommand:
    @pytest.fixture
    def run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
        """Runs ``embstore migrate langchain``; the default store is ``tmp_path / "store"``."""
        monkeypatch.setenv("EMBSTORE_HOME", str(tmp_path / "store"))
        app = typer.Typer(cls=Commands)
        app.callback()(root)
        app.add_typer(command.app, name="migrate")

        def run(*arguments: object) -> Result:
            everything = ["migrate", "langchain", *map(str, arguments)]
            return CliRunner().invoke(app, everything)

        return run

    @pytest.fixture
    def cache(self, tmp_path: Path) -> Path:
        fill(tmp_path / "cache")
        return tmp_path / "cache"

    @pytest.fixture
    def chunks(self, tmp_path: Path) -> Path:
        path = tmp_path / "chunks.jsonl"
        lines = [json.dumps({"text": text}) for text in [*TEXTS, "another"]]
        path.write_text("\n".join(lines))
        return path

    def test_moves(
        self, run: Callable[..., Result], cache: Path, chunks: Path, store: EmbeddingStore
    ) -> None:
        result = run(cache, chunks, "--model", NAME, "--column", "text")
        assert result.exit_code == 0, result.output
        assert f"{store.location}: 4 vectors of 3 numbers for 5 texts" in result.stdout
        assert "1 texts have no file; the cache has 4" in result.stdout
        model = Counting()
        CachedEmbeddings(model, store, model_name=NAME).embed_documents(TEXTS)
        assert model.calls == []

    def test_under_other_names(
        self, run: Callable[..., Result], cache: Path, chunks: Path, store: EmbeddingStore
    ) -> None:
        how = ("-m", "new", "-n", NAME, "--queries", "--version", "2", "--settings", '{"d": 1}')
        result = run(cache, chunks, *how)
        assert result.exit_code == 0, result.output
        (info,) = store.namespaces()
        assert info.namespace == namespace_of("new", "query", version="2", settings={"d": 1})

    def test_json(self, run: Callable[..., Result], cache: Path, chunks: Path) -> None:
        unreadable = next(path for path in cache.iterdir())
        unreadable.write_text("no vector")
        printed = json.loads(run(cache, chunks, "-m", NAME, "--json").stdout)
        assert printed == {
            "store": str(cache.parent / "store"),
            "files": 4,
            "texts": 5,
            "moved": 3,
            "missing": 1,
            "unreadable": [unreadable.name],
            "wrong_dim": [],
            "dim": 3,
            "key_encoders": {"sha1": 3},
        }

    def test_files_that_are_no_good_are_named(
        self, run: Callable[..., Result], cache: Path, chunks: Path
    ) -> None:
        unreadable, wrong, *_ = cache.iterdir()
        unreadable.write_text("no vector")
        wrong.write_text("[1.0]")
        result = run(cache, chunks, "-m", NAME)
        assert result.exit_code == 0
        assert f"1 files hold no vector: {unreadable.name}" in result.stderr
        assert f"of another length than 3: {wrong.name}" in result.stderr

    def test_another_namespace(
        self, run: Callable[..., Result], cache: Path, chunks: Path, tmp_path: Path
    ) -> None:
        result = run(cache, chunks, "-m", "gte")
        assert result.exit_code == 2
        assert "no files of the LangChain namespace 'gte'; say with --namespace" in result.stderr
        assert f"'{NAME}' (4 files)" in result.stderr
        assert not (tmp_path / "store").exists()

    def test_other_texts(self, run: Callable[..., Result], cache: Path, chunks: Path) -> None:
        chunks.write_text('"one"\n"two"\n')
        result = run(cache, chunks, "-m", NAME)
        assert result.exit_code == 2
        assert "the cache has none of these 2 texts" in result.stderr

    @pytest.mark.parametrize("settings", ["dimensions=3", "[3]", '"a"', "3"])
    def test_settings_that_are_none(
        self, run: Callable[..., Result], cache: Path, chunks: Path, settings: str
    ) -> None:
        result = run(cache, chunks, "-m", NAME, "--settings", settings)
        assert result.exit_code == 2
        assert "--settings" in result.stderr

    @pytest.mark.parametrize("there", [True, False])
    def test_no_cache(
        self, run: Callable[..., Result], chunks: Path, tmp_path: Path, there: bool
    ) -> None:
        empty = tmp_path / "empty"
        if there:
            empty.mkdir()
        result = run(empty, chunks, "-m", NAME)
        assert result.exit_code == 2
        assert ("it has none at all" if there else "no folder") in result.stderr


def root(debug: bool = False) -> None:
    """What ``Commands`` asks its context for."""
