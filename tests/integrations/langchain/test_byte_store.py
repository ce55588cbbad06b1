"""EmbeddingByteStore: what comes back, what is left, and LangChain's own cache on top of it."""

from __future__ import annotations

import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_classic.embeddings import CacheBackedEmbeddings

from embstore import EmbeddingStore, StoreError
from embstore.integrations.langchain import CachedEmbeddings, EmbeddingByteStore
from embstore.integrations.langchain_bytes import _AT_ONCE, _BLOCK, _FIRST, _HEADER
from tests.helpers import run_python
from tests.integrations.langchain.models import Counting, vector

Reopened = Callable[..., EmbeddingStore]

ROOM = _FIRST - _HEADER


@pytest.fixture
def byte_store(store: EmbeddingStore) -> EmbeddingByteStore:
    return EmbeddingByteStore(store, "bytes")


def some_bytes(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize(
    "size",
    [0, 1, *(ROOM - 3 + by for by in (-1, 0, 1)), *(ROOM - 3 + _BLOCK + by for by in (-1, 0, 1))],
)
def test_values_of_any_length_come_back_bit_for_bit(
    byte_store: EmbeddingByteStore, reopened: Reopened, size: int
) -> None:
    byte_store.mset([("key", some_bytes(size)), ("other", b"")])
    for store in (byte_store, EmbeddingByteStore(reopened(), "bytes")):
        assert store.mget(["key", "none", "other"]) == [some_bytes(size), None, b""]


@pytest.mark.parametrize("key", ["", "\0", "a" * 3 * _BLOCK, "\ud800", "☃ /../", "x" * ROOM])
def test_keys_of_any_kind(byte_store: EmbeddingByteStore, reopened: Reopened, key: str) -> None:
    byte_store.mset([(key, b"value"), ("b", b"")])
    again = EmbeddingByteStore(reopened(), "bytes")
    assert again.mget([key]) == [b"value"]
    assert set(again.yield_keys()) == {key, "b"}
    assert set(again.yield_keys(prefix="b")) == {"b"}


def test_thousands_at_once(byte_store: EmbeddingByteStore, reopened: Reopened) -> None:
    values = {f"key {number}": some_bytes(number) for number in range(3 * _AT_ONCE + 5)}
    byte_store.mset(list(values.items()))
    again = EmbeddingByteStore(reopened(), "bytes")
    assert again.mget(list(values)) == list(values.values())
    assert sorted(again.yield_keys()) == sorted(values)
    again.mdelete(list(values)[1:])
    assert list(again.yield_keys()) == ["key 0"]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c" * ROOM]),
        st.none() | st.sampled_from([0, 1, ROOM, ROOM + 1, 2 * _BLOCK]),
    ),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(operations=OPERATIONS)
def test_it_is_a_map(tmp_path_factory: pytest.TempPathFactory, operations: list) -> None:
    expected: dict[str, bytes] = {}
    location = tmp_path_factory.mktemp("store")
    with EmbeddingStore(location, on_error="raise") as store:
        byte_store = EmbeddingByteStore(store, "bytes")
        for key, size in operations:
            if size is None:
                byte_store.mdelete([key])
                expected.pop(key, None)
            else:
                byte_store.mset([(key, some_bytes(size))])
                expected[key] = some_bytes(size)
            assert byte_store.mget([key]) == [expected.get(key)]
    with EmbeddingStore(location, on_error="raise") as store:
        byte_store = EmbeddingByteStore(store, "bytes")
        assert byte_store.mget(list(expected)) == list(expected.values())
        assert sorted(byte_store.yield_keys()) == sorted(expected)
        byte_store.mdelete(list(expected))
        assert sum(info.entries for info in store.namespaces()) == 0, "blocks were left behind"


def test_the_last_of_two_values_for_a_key_counts(byte_store: EmbeddingByteStore) -> None:
    byte_store.mset([("a", b"1"), ("a", b"2")])
    assert byte_store.mget(["a", "a"]) == [b"2", b"2"]


def test_namespaces_are_not_mixed(store: EmbeddingStore) -> None:
    one, other = EmbeddingByteStore(store, "one"), EmbeddingByteStore(store, "other")
    one.mset([("a", b"1")])
    assert other.mget(["a"]) == [None]
    assert list(other.yield_keys()) == []
    model = Counting()
    CachedEmbeddings(model, store, model_name="one").embed_documents(["a"])
    assert model.asked == {"document a": 1}
    assert one.mget(["a"]) == [b"1"]


def test_a_value_that_lost_a_block_is_missing_until_it_is_set_again(
    byte_store: EmbeddingByteStore, store: EmbeddingStore
) -> None:
    values = [("a", some_bytes(3 * _BLOCK)), ("b", b"short")]
    byte_store.mset(values)
    store.clear(byte_store._others)
    assert byte_store.mget(["a", "b"]) == [None, b"short"]
    byte_store.mset(values)
    assert byte_store.mget(["a", "b"]) == [value for _, value in values]


def test_another_process_reads_and_replaces(
    byte_store: EmbeddingByteStore, store: EmbeddingStore, reopened: Reopened
) -> None:
    byte_store.mset([("a", some_bytes(9_000))])
    printed = run_python(
        "import sys\n"
        "from embstore import EmbeddingStore\n"
        "from embstore.integrations.langchain import EmbeddingByteStore\n"
        "byte_store = EmbeddingByteStore(EmbeddingStore(sys.argv[1]), 'bytes')\n"
        "print(byte_store.mget(['a'])[0].hex())\n"
        "byte_store.mset([('a', b'new'), ('b', b'2')])\n",
        store.location,
    )
    assert bytes.fromhex(printed) == some_bytes(9_000)
    assert EmbeddingByteStore(reopened(memory_limit=0), "bytes").mget(["a", "b"]) == [b"new", b"2"]
    assert sorted(byte_store.yield_keys()) == ["a", "b"]


def test_a_store_that_is_only_read(byte_store: EmbeddingByteStore, reopened: Reopened) -> None:
    byte_store.mset([("a", b"1")])
    reading = EmbeddingByteStore(reopened(read_only=True), "bytes")
    reading.mset([("b", b"2")])  # as with vectors, for as long as this process lives
    assert reading.mget(["a", "b"]) == [b"1", b"2"]
    assert list(reading.yield_keys()) == ["a"]
    with pytest.raises(StoreError, match="read-only"):
        reading.mdelete(["a"])
    assert EmbeddingByteStore(reopened(), "bytes").mget(["a", "b"]) == [b"1", None]


def test_values_are_never_mixed_by_threads_or_evictions(tmp_path: Path) -> None:
    keys = ["a", "b", "c" * ROOM]
    wrong: list[bytes] = []

    with EmbeddingStore(tmp_path / "store", size_limit="100KB", on_error="raise") as store:

        def work(seed: int) -> None:
            byte_store = EmbeddingByteStore(store, "bytes")
            chance = random.Random(seed)
            for _ in range(60):
                byte = bytes([chance.randrange(256)])
                byte_store.mset([(chance.choice(keys), byte * 3 * _BLOCK)])
                found = [value for value in byte_store.mget(keys) if value is not None]
                wrong.extend(value for value in found if value != value[:1] * 3 * _BLOCK)
                byte_store.mdelete([chance.choice(keys)])

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(work, range(4)))
    assert wrong == []


@pytest.mark.parametrize("pair", [("a", "text"), ("a", None), (1, b""), (None, b""), ("a", 5)])
def test_what_is_no_key_or_no_value(byte_store: EmbeddingByteStore, pair: tuple) -> None:
    with pytest.raises(TypeError, match="values are bytes and keys are texts"):
        byte_store.mset([("b", b"1"), pair])
    assert list(byte_store.yield_keys()) == []


def test_a_value_that_is_too_long(byte_store: EmbeddingByteStore) -> None:
    with pytest.raises(ValueError, match="too long"):
        byte_store.mset([("a", bytes(2**28))])


class TestCacheBackedEmbeddings:
    """LangChain's own cache."""

    def test_over_a_restart(self, store: EmbeddingStore, reopened: Reopened) -> None:
        model = Counting()
        texts = [f"text {number}" for number in range(50)]
        expected = [vector(text) for text in texts]
        for each in (store, reopened()):
            embeddings = CacheBackedEmbeddings.from_bytes_store(
                model,
                EmbeddingByteStore(each, "documents"),
                namespace="m/1",
                query_embedding_cache=EmbeddingByteStore(each, "queries"),
                key_encoder="sha256",
            )
            assert embeddings.embed_documents(texts) == expected, "all digits of float64"
            assert embeddings.embed_query(texts[0]) == vector(texts[0], "query")
        assert set(model.asked.values()) == {1}
        assert len(model.calls) == 1

    async def test_async(self, store: EmbeddingStore) -> None:
        model = Counting()
        embeddings = CacheBackedEmbeddings.from_bytes_store(
            model, EmbeddingByteStore(store, "documents"), namespace="m", key_encoder="blake2b"
        )
        for _ in range(2):
            assert await embeddings.aembed_documents(["a"]) == [vector("a")]
        assert model.asked == {"document a": 1}

    def test_in_a_new_process_no_model_is_loaded(
        self, tmp_path: Path, model_path: str, minilm: Any, store: EmbeddingStore
    ) -> None:
        texts = ["a text", "another"]
        embeddings = CacheBackedEmbeddings.from_bytes_store(
            CachedEmbeddings(minilm, EmbeddingStore(tmp_path / "a")),
            EmbeddingByteStore(store, "documents"),
            namespace="minilm",
            key_encoder="sha512",
        )
        documents = embeddings.embed_documents(texts)
        assert np.abs(np.array(documents) - minilm.encode(texts)).max() <= 1e-6
        printed = run_python(
            "import sys\n"
            "from langchain_classic.embeddings import CacheBackedEmbeddings\n"
            "from embstore import EmbeddingStore\n"
            "from embstore.integrations.langchain import CachedEmbeddings, EmbeddingByteStore\n"
            "_, location, scratch, model, *texts = sys.argv\n"
            "embeddings = CacheBackedEmbeddings.from_bytes_store(\n"
            "    CachedEmbeddings(model, EmbeddingStore(scratch)),\n"
            "    EmbeddingByteStore(EmbeddingStore(location), 'documents'),\n"
            "    namespace='minilm', key_encoder='sha512')\n"
            "print(embeddings.embed_documents(texts), 'torch' in sys.modules)",
            *(store.location, tmp_path / "b", model_path, *texts),
        )
        assert printed.strip() == f"{documents} False"
