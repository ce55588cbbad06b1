"""Several stores into one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from embstore import EmbeddingStore, Namespace, NamespaceError, StoreError, StoreRefusedError
from embstore.moving import bake, export_store, merge
from tests.helpers import MODEL, OTHER, check, put, texts_of, vectors_of
from tests.moving.stores import ALL, LAYOUTS, SEED, fill, found_in
from tests.test_read_only import listing


@pytest.fixture
def workers(tmp_path: Path) -> list[Path]:
    """Three stores of 100 vectors each; half of each has the next one too."""
    (tmp_path / "workers").mkdir()
    places = [tmp_path / "workers" / str(number) for number in range(3)]
    for number, place in enumerate(places):
        with EmbeddingStore(place, seed=SEED, on_error="raise") as store:
            texts = texts_of(100, 50 * number)
            vectors = vectors_of(MODEL, texts)
            store.keep(MODEL, store.digests(texts), vectors, seconds=10.0 * (number + 1))
            put(store, Namespace("of one", str(number)), ["a"], 3, "float16")
    return places


def test_all_of_three_stores(workers: list[Path], tmp_path: Path) -> None:
    before = [listing(worker) for worker in workers]
    heard: list[int] = []
    report = merge(tmp_path / "all", *workers, progressed=heard.append)
    assert (report.namespaces, report.rows, report.stored, report.damaged) == (4, 303, 203, 0)
    assert sum(heard) == 303
    assert [listing(worker) for worker in workers] == before
    with EmbeddingStore(tmp_path / "all", seed=SEED, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(200)))
        for number in range(3):
            assert all(check(store, Namespace("of one", str(number)), ["a"], 3, "float16"))
        assert store.verify().ok
        # What is new in each, at that store's pace.
        (info,) = (one for one in store.namespaces() if one.namespace == MODEL)
        assert (info.entries, info.computed) == (200, 200)
        assert info.encode_seconds == pytest.approx(100 * 0.1 + 50 * 0.2 + 50 * 0.3)
    assert merge(tmp_path / "all", *workers).stored == 0


def test_rows_are_copied_as_they_are(tmp_path: Path) -> None:
    merge(tmp_path / "copy", fill(tmp_path / "source"))
    assert found_in(tmp_path / "copy") == ALL
    for place in ("source", "copy"):
        export_store(tmp_path / place, tmp_path / f"{place}.safetensors")
    exported = [tmp_path / f"{place}.safetensors" for place in ("source", "copy")]
    assert exported[0].read_bytes() == exported[1].read_bytes()


def test_the_target_comes_first_then_the_order(workers: list[Path], tmp_path: Path) -> None:
    ones = np.ones((1, 8), np.float32)
    for number, place in enumerate(workers):
        with EmbeddingStore(place, on_error="raise") as store:
            store.put_many(OTHER, ["both", "here"], np.vstack([ones, ones]) * number)
    with EmbeddingStore(tmp_path / "all", seed=SEED, on_error="raise") as store:
        store.put_many(OTHER, ["here"], ones * 7)
        assert merge(store, *reversed(workers), namespaces=OTHER).namespaces == 1
        assert store.get_many(OTHER, ["both", "here"])[0][:, 0].tolist() == [2, 7]
        assert len(store.namespaces()) == 1


def test_a_namespace_that_not_all_have(workers: list[Path], tmp_path: Path) -> None:
    of_one = Namespace("of one", "1")
    assert merge(tmp_path / "all", *workers, namespaces=of_one).rows == 1
    with pytest.raises(NamespaceError, match=r"workers/0, .* has no vectors under a/model"):
        merge(tmp_path / "all", *workers, namespaces=[MODEL, OTHER])


def test_other_seeds_are_refused(workers: list[Path], tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "alien", on_error="raise") as alien:
        put(alien, MODEL, texts_of(5))
        with pytest.raises(StoreRefusedError, match=r"alien has another seed .* seed=") as caught:
            merge(tmp_path / "all", *workers, alien)
        assert str(SEED) not in str(caught.value)
        assert not (tmp_path / "all").exists()
        for target in (alien, alien.location):
            with pytest.raises(StoreRefusedError, match="alien has another seed"):
                merge(target, *workers)
        assert alien.stats().entries == 5


def test_layouts_that_differ_are_refused_before_anything_is_copied(
    workers: list[Path], tmp_path: Path
) -> None:
    with EmbeddingStore(workers[2], on_error="raise") as store:
        put(store, Namespace("of one", "0"), ["b"], 4, "float16")
    with pytest.raises(NamespaceError, match=r"2 has vectors of 4 x float16, and .*0 of 3 x"):
        merge(tmp_path / "all", *workers)
    with EmbeddingStore(tmp_path / "all", read_only=True) as store:
        assert store.namespaces() == []


def test_what_makes_no_sense(workers: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="name the stores"):
        merge(tmp_path / "all")
    (tmp_path / "link").symlink_to(workers[0].parent)
    with pytest.raises(ValueError, match="cannot be a source"):
        merge(workers[0], workers[1], tmp_path / "link" / "0")
    with pytest.raises(StoreRefusedError, match="holds no store"):
        merge(tmp_path / "all", tmp_path / "nowhere")
    with (
        EmbeddingStore(workers[0], read_only=True) as store,
        pytest.raises(StoreError, match="read-only"),
    ):
        merge(store, workers[1])


def test_an_interrupted_merge_is_just_repeated(workers: list[Path], tmp_path: Path) -> None:
    def interrupt(rows: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(tmp_path / "all", *workers, progressed=interrupt)
    assert merge(tmp_path / "all", *workers).namespaces == 4
    with EmbeddingStore(tmp_path / "all", on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(200)))
        assert store.stats().entries == 203


def test_what_is_copied_does_not_count_as_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a size limit would drop what people use, and keep what was backed up last."""
    now = 1_800_000_000.0
    monkeypatch.setattr("time.time", lambda: now)
    with EmbeddingStore(tmp_path / "s", seed=SEED, on_error="raise") as store:
        put(store, MODEL, texts_of(10))
    now += 1000
    with EmbeddingStore(tmp_path / "s", on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(3)))
    now += 1000
    with EmbeddingStore(tmp_path / "s", on_error="raise") as store:
        merge(tmp_path / "merged", store)
        export_store(store, tmp_path / "x.npz")
        bake(store, tmp_path / "baked")
        assert store.prune(older_than=1500) == 7


def test_of_all_layouts(tmp_path: Path) -> None:
    fill(tmp_path / "a")
    fill(tmp_path / "b")
    assert merge(tmp_path / "all", tmp_path / "a", tmp_path / "b").stored == ALL
    assert found_in(tmp_path / "all") == ALL
    assert len(LAYOUTS) == 7
