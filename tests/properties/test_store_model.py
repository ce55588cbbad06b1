"""Whatever is done with a store, in whatever order: it answers as a plain dict would."""

from __future__ import annotations

import tempfile

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from embstore import EmbeddingStore, Namespace
from embstore.testing import true_vectors

SPACES = [Namespace("m", "1"), Namespace("m", "2"), Namespace("m\0", prompt="\ud800")]
LAYOUTS = [(1, "uint8"), (3, "float16"), (8, "float32")]
TEXT = st.one_of(
    st.sampled_from(["", "a", "b", "\0", "a\0", "\ud800", "\udfff\ud800", "é", "e\u0301", " a"]),
    st.text(st.characters(), max_size=4),
)
TEXTS = st.lists(TEXT, max_size=8)
SPACE = st.sampled_from(SPACES)


class StoreModel(RuleBasedStateMachine):
    """Two stores on one directory, one of them without memory tier, beside a dict of dicts.

    A vector is made of the text and of how often the machine has written: so a vector that was
    deleted, or that came second, is never equal to the one that must be found.
    """

    @initialize(maxsize=st.sampled_from([None, 2]), layout=st.sampled_from(LAYOUTS))
    def open(self, maxsize: int | None, layout: tuple[int, str]) -> None:
        self.directory = tempfile.TemporaryDirectory(prefix="embstore-")
        self.maxsize = maxsize
        self.layouts = dict.fromkeys(SPACES, layout)
        self.rows: dict[Namespace, dict[str, bytes]] = {space: {} for space in SPACES}
        self.writes = 0
        self.stores: list[EmbeddingStore] = []
        self.reopen()

    def reopen_stores(self) -> None:
        for store in self.stores:
            store.close()
        self.stores = [
            EmbeddingStore(self.directory.name, on_error="raise", maxsize=self.maxsize),
            EmbeddingStore(self.directory.name, on_error="raise", memory_limit=0),
        ]

    @rule()
    def reopen(self) -> None:
        self.reopen_stores()

    @rule(space=SPACE, texts=TEXTS, second=st.booleans())
    def put(self, space: Namespace, texts: list[str], second: bool) -> None:
        self.writes += 1
        dim, dtype = self.layouts[space]
        keys = [b"%d %d " % (self.writes, place) + text.encode("utf-8", "surrogatepass")
                for place, text in enumerate(texts)]  # fmt: skip
        vectors = true_vectors(space, keys, dim, dtype)
        self.stores[second].put_many(space, texts, vectors)
        for text, vector in zip(texts, vectors, strict=True):
            self.rows[space].setdefault(text, vector.tobytes())

    @rule(space=SPACE, texts=TEXTS, second=st.booleans())
    def get(self, space: Namespace, texts: list[str], second: bool) -> None:
        self.compare(self.stores[second], space, texts)

    def compare_all(self, space: Namespace, texts: list[str]) -> None:
        for store in self.stores:
            self.compare(store, space, texts)

    def compare(self, store: EmbeddingStore, space: Namespace, texts: list[str]) -> None:
        vectors, found = store.get_many(space, texts)
        rows = self.rows[space]
        assert found.tolist() == [text in rows for text in texts]
        for text, vector, here in zip(texts, vectors, found, strict=True):
            if here:
                assert vector.dtype == self.layouts[space][1]
                assert vector.tobytes() == rows[text]

    @rule(space=SPACE, texts=TEXTS)
    def delete(self, space: Namespace, texts: list[str]) -> None:
        known = {text for text in texts if text in self.rows[space]}
        assert self.stores[0].delete_many(space, texts) == len(known)
        for text in known:
            del self.rows[space][text]
        self.compare_all(space, sorted(known))

    @rule(space=SPACE, layout=st.sampled_from(LAYOUTS))
    def clear(self, space: Namespace, layout: tuple[int, str]) -> None:
        assert self.stores[0].clear(space) == len(self.rows[space])
        known = list(self.rows[space])
        self.rows[space].clear()
        self.layouts[space] = layout
        self.compare_all(space, known)

    @rule(second=st.booleans())
    def compact(self, second: bool) -> None:
        report = self.stores[second].compact()
        assert report.rows == sum(map(len, self.rows.values()))

    @rule()
    def verify(self) -> None:
        report = self.stores[1].verify()
        assert report.ok, report.problems
        assert report.rows == sum(map(len, self.rows.values()))

    @rule()
    def count(self) -> None:
        infos = {info.namespace: info.entries for info in self.stores[0].namespaces()}
        assert {space: count for space, count in infos.items() if count} == {
            space: len(rows) for space, rows in self.rows.items() if rows
        }

    @invariant()
    def everything_is_found_without_memory(self) -> None:
        for space, rows in self.rows.items():
            self.compare(self.stores[1], space, list(rows))

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.directory.cleanup()


StoreModel.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestStoreModel = StoreModel.TestCase


def test_vectors_of_two_writes_differ() -> None:
    """What the machine relies on."""
    one, other = true_vectors(SPACES[0], [b"1 0 a", b"2 0 a"], 8)
    assert not np.array_equal(one, other)
