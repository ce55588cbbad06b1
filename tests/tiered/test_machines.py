"""Several machines, each with a disk of its own, in front of one store."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, Namespace
from embstore.backends.disk import DiskBackend
from embstore.backends.tiered import open_tiered
from embstore.errors import NamespaceError, StoreError, StoreRefusedError
from embstore.faults import Rest, Warnings

MODEL = Namespace("letters")
TEXTS = [f"text {number}" for number in range(300)]

Machine = Callable[..., EmbeddingStore]


class Letters:
    """A model that counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, texts: list[str]) -> np.ndarray:
        self.asked.update(texts)
        return np.array([[len(text), text.count("1"), 1.0] for text in texts], np.float32)


def vectors_of(texts: list[str]) -> np.ndarray:
    return Letters()(texts)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Opens the store of a machine by its name."""

    def machine(name: str, **how: object) -> EmbeddingStore:
        arguments = {"upstream": tmp_path / "shared", "on_error": "raise", **how}
        return EmbeddingStore(tmp_path / name, **arguments)

    return machine


def encoder(store: EmbeddingStore, model: Letters) -> CachedEncoder:
    return CachedEncoder(model, store, model_name="letters")


def test_what_one_machine_computed_the_others_find(machine: Machine) -> None:
    model = Letters()
    here, there = encoder(machine("a"), model), encoder(machine("b"), model)
    first = here.encode(TEXTS)
    assert (there.encode(TEXTS[::-1])[::-1] == first).all()
    assert set(model.asked.values()) == {1}
    stats = there.stats()
    assert (stats.hits, stats.misses, stats.upstream_hits) == (300, 0, 300)


def test_repeats_are_fetched_once(machine: Machine) -> None:
    encoder(machine("a"), Letters()).encode(TEXTS[:3])
    there = machine("b")
    repeated = [TEXTS[number % 3] for number in range(200)]
    vectors, found = there.get_many(MODEL, [*repeated, "new"])
    assert found.tolist() == [True] * 200 + [False]
    assert (vectors[:200] == vectors_of(repeated)).all()
    assert there.stats().upstream_hits == 3


def test_what_was_fetched_is_kept(machine: Machine, tmp_path: Path) -> None:
    encoder(machine("a"), Letters()).encode(TEXTS)
    with machine("b") as there:
        encoder(there, Letters()).encode(TEXTS[:200])
    with EmbeddingStore(tmp_path / "b", on_error="raise") as alone:
        vectors, found = alone.get_many(MODEL, TEXTS)
        assert found.tolist() == [True] * 200 + [False] * 100
        assert (vectors[:200] == vectors_of(TEXTS[:200])).all()
    with machine("b") as there:
        encoder(there, Letters()).encode(TEXTS[:200])
        assert there.stats().upstream_hits == 0


def test_rows_are_copied_unchanged(machine: Machine, tmp_path: Path) -> None:
    with machine("a") as here:
        here.put_many(MODEL, TEXTS, vectors_of(TEXTS))
    with machine("b") as there:
        there.get_many(MODEL, TEXTS)
    places = [tmp_path / name / "vectors" for name in ("a", "b", "shared")]
    files = [next(place.glob("*.vec")).read_bytes() for place in places]
    assert len(files[0]) > 300 * 36
    assert files[0][4096:] == files[1][4096:] == files[2][4096:]


def test_seconds_that_others_took_are_saved_here(machine: Machine) -> None:
    here, there = machine("a"), machine("b")
    here.keep(MODEL, here.digests(TEXTS), vectors_of(TEXTS), seconds=30.0)
    there.get_many(MODEL, TEXTS[:10])
    there.get_many(MODEL, TEXTS[:10])
    assert there.stats().seconds_saved == pytest.approx(20 * 0.1)


def test_the_shared_store_knows_what_it_was_asked(machine: Machine, tmp_path: Path) -> None:
    with machine("a") as here, machine("b") as there:
        encoder(here, Letters()).encode(TEXTS[:200])
        encoder(there, Letters()).encode(TEXTS[:300])
        encoder(there, Letters()).encode(TEXTS[:300])
    with EmbeddingStore(tmp_path / "shared") as shared:
        [info] = shared.namespaces()
        assert (info.computed, info.hits, info.misses) == (300, 200, 300)


def test_machines_divide_what_they_both_lack(machine: Machine) -> None:
    here, there = machine("a"), machine("b")
    digests, me, you = here.digests(TEXTS), b"m" * 16, b"y" * 16
    claimed = here.claims.claim(MODEL, digests, me, 100)
    assert claimed is not None
    assert claimed.mine.sum() == 100
    others = there.claims.claim(MODEL, digests, you, 300)
    assert others is not None
    assert others.theirs.tolist() == claimed.mine.tolist()
    assert others.others == 1
    assert here.claims.claimed(MODEL, digests).all()
    here.keep(MODEL, digests[:100], vectors_of(TEXTS[:100]), 1.0, me)
    assert there.claims.claimed(MODEL, digests).tolist() == [False] * 100 + [True] * 200
    there.claims.release(MODEL, you)
    assert not here.claims.claimed(MODEL, digests).any()


def test_of_two_vectors_all_machines_have_the_first(machine: Machine) -> None:
    here, there = machine("a"), machine("b")
    ours, theirs = vectors_of(TEXTS), vectors_of(TEXTS) + 1
    here.put_many(MODEL, TEXTS[:100], ours[:100])
    there.put_many(MODEL, TEXTS, theirs)
    expected = np.concatenate([ours[:100], theirs[100:]])
    for store in (here, there, machine("c")):
        assert (store.get_many(MODEL, TEXTS)[0] == expected).all()


def test_deleting_reaches_the_shared_store(machine: Machine) -> None:
    with machine("a") as here:
        here.put_many(MODEL, TEXTS, vectors_of(TEXTS))
        assert here.delete_many(MODEL, TEXTS[:5]) == 5
        assert not here.get_many(MODEL, TEXTS[:5])[1].any()
        assert machine("b").get_many(MODEL, TEXTS)[1].sum() == 295
        assert here.clear(MODEL) == 295
    assert not machine("c").get_many(MODEL, TEXTS)[1].any()


def test_a_disk_that_is_cleared_by_itself_is_filled_again(machine: Machine, tmp_path: Path) -> None:
    machine("a").put_many(MODEL, TEXTS, vectors_of(TEXTS))
    with EmbeddingStore(tmp_path / "a", on_error="raise") as alone:
        alone.prune(max_size=0)
    again = machine("a")
    assert (again.get_many(MODEL, TEXTS)[0] == vectors_of(TEXTS)).all()
    assert again.stats().upstream_hits == 300


def test_a_limit_holds_for_this_machine_alone(machine: Machine) -> None:
    small = machine("a", size_limit=200_000)
    for start in range(0, 12_000, 1000):
        texts = [f"text {number}" for number in range(start, start + 1000)]
        small.put_many(MODEL, texts, vectors_of(texts))
    assert small.namespaces()[0].entries < 6000
    every = [f"text {number}" for number in range(12_000)]
    assert machine("b").get_many(MODEL, every)[1].all()


@pytest.mark.parametrize("first", ["a", "shared"])
def test_seeds_are_taken_over_from_whichever_was_first(
    machine: Machine, tmp_path: Path, first: str
) -> None:
    with EmbeddingStore(tmp_path / first, on_error="raise") as alone:
        alone.put_many(MODEL, TEXTS, vectors_of(TEXTS))
        seed = alone.backend.seed
    store = machine("a")
    assert store.backend.seed == seed
    assert store.get_many(MODEL, TEXTS)[1].all()
    assert machine("b").backend.seed == seed


def test_other_seeds_are_refused(machine: Machine, tmp_path: Path) -> None:
    for name in ("a", "shared"):
        EmbeddingStore(tmp_path / name).close()
    with pytest.raises(StoreRefusedError, match="seed"):
        machine("a", on_error="warn")


def test_a_read_only_disk_fetches_and_keeps_nothing(machine: Machine, tmp_path: Path) -> None:
    machine("a").put_many(MODEL, TEXTS, vectors_of(TEXTS))
    machine("b").put_many(MODEL, TEXTS[:1], vectors_of(TEXTS[:1]))
    with machine("b", read_only=True) as reader:
        for _ in range(2):
            assert (reader.get_many(MODEL, TEXTS)[0] == vectors_of(TEXTS)).all()
        assert reader.stats().upstream_hits == 598
        with pytest.raises(StoreError, match="read-only"):
            reader.delete_many(MODEL, TEXTS)
    with EmbeddingStore(tmp_path / "b") as alone:
        assert alone.get_many(MODEL, TEXTS)[1].sum() == 1


def test_what_is_known_of_models_is_shared(machine: Machine, tmp_path: Path) -> None:
    machine("a").put_identity(b"k" * 16, {"fingerprint": "f"})
    with machine("b") as there:
        assert there.get_identity(b"k" * 16) == {"fingerprint": "f"}
        assert there.get_identity(b"x" * 16) is None
    with EmbeddingStore(tmp_path / "b") as alone:
        assert alone.get_identity(b"k" * 16) == {"fingerprint": "f"}


def test_vectors_of_another_kind_are_not_mixed(machine: Machine, tmp_path: Path) -> None:
    here, there = machine("a"), machine("b")
    here.put_many(MODEL, TEXTS, vectors_of(TEXTS))
    there.get_many(MODEL, TEXTS[:100])
    here.clear(MODEL)
    wide = np.ones((300, 5), np.float32)
    here.put_many(MODEL, TEXTS, wide)
    vectors, found = there.get_many(MODEL, TEXTS)
    assert vectors.shape == (300, 3), "this machine's, which nobody has cleared"
    assert found.tolist() == [True] * 100 + [False] * 200
    with pytest.raises(NamespaceError, match="clear it"):
        there.put_many(MODEL, ["new"], vectors_of(["new"]))


def test_copies_open_both(machine: Machine) -> None:
    machine("a").put_many(MODEL, TEXTS, vectors_of(TEXTS))
    copy = pickle.loads(pickle.dumps(machine("b")))
    assert copy.get_many(MODEL, TEXTS)[1].all()
    assert copy.stats().upstream_hits == 300


def test_only_a_directory_stands_in_front(tmp_path: Path) -> None:
    with pytest.raises(StoreRefusedError, match="no directory"):
        EmbeddingStore("redis://localhost", upstream=tmp_path / "shared")


def test_a_disk_that_cannot_be_written_answers_all_the_same(tmp_path: Path) -> None:
    """A row larger than the limit cannot be kept here."""
    with EmbeddingStore(tmp_path / "shared") as shared:
        shared.put_many(MODEL, TEXTS, vectors_of(TEXTS))
    near = open_tiered(
        str(tmp_path / "a"), str(tmp_path / "shared"), "raise", warnings=Warnings(), size_limit=8
    )
    digests = EmbeddingStore(tmp_path / "shared").digests(TEXTS)
    vectors, found = near.get_many(MODEL, digests)
    assert found.all()
    assert (vectors == vectors_of(TEXTS)).all()
    near.close()


def test_a_directory_that_is_gone_is_no_end(machine: Machine, tmp_path: Path) -> None:
    """It was mounted from elsewhere, and is not today."""
    with machine("a") as here:
        here.put_many(MODEL, TEXTS[:100], vectors_of(TEXTS[:100]))
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    (tmp_path / "shared").write_text("no directory")
    model = Letters()
    with pytest.warns(match="cannot use") as warned:
        store = machine("a", on_error="warn")
    assert len(warned) == 1
    for _ in range(3):
        vectors = encoder(store, model).encode(TEXTS)
    assert (vectors == vectors_of(TEXTS)).all()
    assert sorted(model.asked) == sorted(TEXTS[100:])
    assert set(model.asked.values()) == {1}


def test_what_was_computed_meanwhile_is_passed_on(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "shared") as shared:
        seed = shared.backend.seed
    (tmp_path / "shared").rename(tmp_path / "elsewhere")
    (tmp_path / "shared").write_text("no directory")
    digests = [f"{number:016}".encode() for number in range(300)]
    with pytest.warns(match="cannot use"):
        store = open_tiered(
            *(str(tmp_path / "a"), str(tmp_path / "shared"), "warn"),
            warnings=Warnings(),
            seed=seed,
        )
    assert store.put_many(MODEL, digests[:200], vectors_of(TEXTS[:200]), 2.0).all()
    (tmp_path / "shared").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "shared")
    store._upstream.rest = Rest()
    assert store.put_many(MODEL, digests[200:], vectors_of(TEXTS[200:]), 1.0).all()
    store.close()
    shared = DiskBackend(tmp_path / "shared")
    vectors, found = shared.get_many(MODEL, digests)
    assert found.all()
    assert (vectors == vectors_of(TEXTS)).all()
    assert shared.namespaces()[0].encode_seconds == 3.0
    shared.close()
