"""Namespaces and digests: what makes two embeddings the same."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_128_digest

from embstore import Namespace, NamespaceError
from embstore.keys import canonical_json, digest_texts

DIFFERENT = [
    Namespace("m"),
    Namespace("M"),
    Namespace("m", fingerprint="x"),
    Namespace("m", normalize=True),
    Namespace("m", prompt="p"),
    Namespace("m", prompt=" p"),
    Namespace("m", task="p"),
    Namespace("m", truncate_dim=1),
    Namespace("m", max_seq_length=1),
    Namespace("m", dtype="float16"),
    Namespace("m", extra={"a": 1}),
    Namespace("m", extra={"a": "1"}),
    Namespace("m", extra={"a": None}),
    Namespace("m", extra={"a": [1]}),
    Namespace('m","prompt":"p'),
    Namespace("mx"),
    Namespace("m", fingerprint="\ud800"),
    Namespace("é"),
    Namespace("e\u0301"),
]
EQUAL = [
    (Namespace("m", prompt=""), Namespace("m", prompt=None)),
    (Namespace("m", normalize=1), Namespace("m", normalize=True)),  # type: ignore[arg-type]
    (Namespace("m", extra={"a": 1, "b": 2}), Namespace("m", extra={"b": 2, "a": 1})),
    (Namespace("m", extra={"a": (1, 2)}), Namespace("m", extra={"a": [1, 2]})),
]
LOOKALIKES = [
    (Namespace("m", truncate_dim=1), Namespace("m", truncate_dim=True)),
    (Namespace("m", truncate_dim=1), Namespace("m", truncate_dim=1.0)),  # type: ignore[arg-type]
    (Namespace("m", extra={"a": 1}), Namespace("m", extra={"a": True})),
    (Namespace("m", extra={"a": 0}), Namespace("m", extra={"a": -0.0})),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)  # fmt: skip
NAMESPACES = st.builds(
    Namespace,
    model_name=st.text(st.characters(), min_size=1, max_size=5),
    fingerprint=st.text(max_size=5),
    normalize=st.booleans(),
    prompt=st.none() | st.text(st.characters(), max_size=5),
    task=st.none() | st.text(max_size=5),
    truncate_dim=st.none() | st.integers(1, 9),
    max_seq_length=st.none() | st.integers(1, 9),
    dtype=st.none() | st.sampled_from(["float16", "float32"]),
    extra=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
)


def test_any_field_that_differs_makes_another_id() -> None:
    for one, other in itertools.combinations(DIFFERENT, 2):
        assert one != other
        assert one.id != other.id


@pytest.mark.parametrize("one, other", EQUAL)
def test_what_means_the_same_has_one_id(one: Namespace, other: Namespace) -> None:
    assert one == other
    assert one.id == other.id
    assert hash(one) == hash(other)


@pytest.mark.parametrize("one, other", LOOKALIKES)
def test_namespaces_are_equal_exactly_if_their_ids_are(one: Namespace, other: Namespace) -> None:
    assert (one == other) == (one.id == other.id)
    assert one != other or hash(one) == hash(other)


@given(NAMESPACES, NAMESPACES)
def test_equality_id_and_hash_agree(one: Namespace, other: Namespace) -> None:
    assert (one == other) == (one.id == other.id)


@given(NAMESPACES)
def test_a_namespace_survives_every_way_it_travels(namespace: Namespace) -> None:
    through_json = Namespace.from_dict(json.loads(canonical_json(namespace.to_dict())))
    for again in (through_json, pickle.loads(pickle.dumps(namespace))):
        assert again == namespace
        assert again.id == namespace.id
    assert len(namespace.id) == 16


def test_the_id_of_a_namespace_never_changes_between_versions() -> None:
    """A stored namespace is found by its id: this value may only change with the disk format."""
    assert Namespace("m", prompt="é").id.hex() == "bce51e9adc7f14bdaf95cd6a090d6bc1"


def test_changing_what_was_given_does_not_change_the_namespace() -> None:
    extra = {"deep": [1]}
    namespace = Namespace("m", extra=extra)
    extra["deep"].append(2)
    extra["more"] = []
    assert namespace == Namespace("m", extra={"deep": [1]})
    assert namespace.id == Namespace("m", extra={"deep": [1]}).id


@pytest.mark.parametrize(
    "fields",
    [
        {"model_name": ""},
        {"model_name": None},
        {"model_name": "m", "extra": {"a": float("nan")}},
        {"model_name": "m", "extra": {"a": float("inf")}},
        {"model_name": "m", "extra": {"a": b"bytes"}},
        {"model_name": "m", "extra": {"a": np.float32(1)}},
        {"model_name": "m", "extra": {"a": {1, 2}}},
        {"model_name": "m", "extra": {1: 1, "b": 2}},
        {"model_name": "m", "truncate_dim": np.int64(3)},
        {"model_name": "m", "prompt": b"bytes"},
    ],
)
def test_what_json_cannot_hold_is_refused(fields: dict) -> None:
    with pytest.raises(NamespaceError):
        Namespace(**fields)


def test_digests_are_seeded_xxh3_of_the_utf8_bytes() -> None:
    assert digest_texts(["a", "é", ""], 7) == [
        xxh3_128_digest(b"a", 7),
        xxh3_128_digest("é".encode(), 7),
        xxh3_128_digest(b"", 7),
    ]
    assert digest_texts(["a"], 7) != digest_texts(["a"], 8)
    assert digest_texts([], 7) == []


@given(st.lists(st.text(st.characters(), max_size=8), max_size=20, unique=True))
def test_texts_have_digests_of_their_own_whatever_stands_beside_them(texts: list[str]) -> None:
    digests = digest_texts(texts, 1)
    assert len(set(digests)) == len(texts)
    assert digests == [digest_texts([text], 1)[0] for text in texts]
    assert digest_texts(iter(texts), 1) == digests


@pytest.mark.parametrize("texts", [["a", None], [b"a"], ["a", 3], ["\ud800", 3], [3, "\ud800"]])
def test_a_text_that_is_no_str_is_named(texts: list) -> None:
    with pytest.raises(TypeError, match=r"texts must be str, not (NoneType|bytes|int)"):
        digest_texts(texts, 1)
