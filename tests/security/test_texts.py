"""Texts that somebody chose: crafted collisions, and texts of any kind."""

from __future__ import annotations

import secrets
import string
import struct
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_128_digest

from embstore import (
    CachedEncoder,
    EmbeddingStore,
)
from embstore.keys import digest_texts
from tests.helpers import (
    MODEL,
    vectors_of,
)

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
"""xxh3's own, kSecret; a seed is added to and subtracted from its words in turn."""
LETTERS = (string.ascii_letters + string.digits + " ,.;:-").encode()


def words_of(seed: int) -> list[tuple[bytes, bytes]]:
    """The 24 words of the secret under a seed: low and high half of each, little-endian."""
    words = struct.unpack("<24Q", SECRET)
    seeded = [(word + (-seed if number % 2 else seed)) % 2**64 for number, word in enumerate(words)]
    return [(raw[:4], raw[4:]) for raw in (word.to_bytes(8, "little") for word in seeded)]


def two_letters(difference: int, *, whole: bool) -> tuple[int, int] | None:
    """Two letters that differ in just these bits; or, unless ``whole``, in some of these only."""
    for one in LETTERS:
        for other in LETTERS:
            bits = one ^ other
            if bits == difference if whole else bits and not bits & ~difference:
                return one, other
    return None


def colliding(first: int, second: int, low: bytes, high: bytes) -> tuple[str, str] | None:
    """Two printable texts of 1,000 letters that differ in 8 bytes at most, and collide whenever the
    two words of the secret differ by ``low`` and, among others, not by ``~high``.

    Of 8 bytes v at lane i of a stripe, xxh3 adds lo(v ^ word) * hi(v ^ word) to one sum and v to
    another; the word's number is that of the stripe plus i. With v = (x, a) there and (x ^ low, b)
    elsewhere, both products have the same first factor, so a and b may change places if the words
    agree wherever a and b differ.
    """
    fixed = [two_letters(bits, whole=True) for bits in low]
    free = [two_letters(~bits & 0x7F, whole=False) or (97, 97) for bits in high]
    if None in fixed or all(one == other for one, other in free):
        return None
    one, other = (bytes(pair) for pair in zip(*fixed, strict=True))  # type: ignore[arg-type]
    a, b = (bytes(pair) for pair in zip(*free, strict=True))
    texts = []
    for here, there in ((a, b), (b, a)):
        text = bytearray((b"the quick brown fox " * 50)[:1000])
        text[64 * first : 64 * first + 8] = one + here
        text[64 * second : 64 * second + 8] = other + there
        texts.append(text.decode())
    return texts[0], texts[1]


def crafted(seed: int) -> tuple[str, str]:
    """Two printable texts that collide under a seed that is known."""
    words = words_of(seed)
    # An even and an odd word: any other seed moves them apart.
    for first, second in combinations(range(14), 2):
        if (first ^ second) & 1:
            low, high = (
                bytes(x ^ y for x, y in zip(words[first][half], words[second][half], strict=True))
                for half in (0, 1)
            )
            if (texts := colliding(first, second, low, high)) is not None:
                return texts
    raise AssertionError("this seed needs more than two stripes")


def test_texts_that_collide_without_a_seed() -> None:
    """What the seed is for: nothing but arithmetic was needed to find them."""
    one, other = crafted(0)
    assert one != other
    assert (one + other).isascii()
    assert (one + other).isprintable()
    assert xxh3_128_digest(one.encode()) == xxh3_128_digest(other.encode())


@pytest.mark.parametrize("seed", [1, 42, 20260101, 2**62 + 12345])
def test_texts_made_for_a_seed_that_became_known(seed: int) -> None:
    """xxh3 is no help then: of long texts, SHA-256 is what tells them apart."""
    one, other = crafted(seed)
    assert one != other
    assert xxh3_128_digest(one.encode(), seed) == xxh3_128_digest(other.encode(), seed)
    assert len(set(digest_texts([one, other], seed))) == 2


def test_colliding_texts_keep_their_own_vectors(tmp_path: Path) -> None:
    texts = [text for seed in (0, 1, 42) for text in crafted(seed)]

    def embed(asked: list[str]) -> np.ndarray:
        return vectors_of(MODEL, asked)

    misses: list[int] = []
    for _ in range(2):  # computed, then from the store alone
        with EmbeddingStore(tmp_path, on_error="raise") as store:
            encoder = CachedEncoder(embed, store, model_name="m")
            assert np.array_equal(encoder.encode(texts), vectors_of(MODEL, texts))
            assert np.array_equal(encoder.encode(texts[::-1]), vectors_of(MODEL, texts[::-1]))
            assert np.array_equal(encoder.encode([texts[1]])[0], vectors_of(MODEL, texts)[1])
            misses.append(encoder.stats().misses)
    assert misses == [len(texts), 0]
    assert len(set(digest_texts(texts, 1 + secrets.randbelow(2**63 - 1)))) == len(texts)


def test_no_pair_collides_under_many_seeds() -> None:
    pair = colliding(0, 12, bytes.fromhex("10040a0a"), b"\xfe\xff\xff\xff")
    assert pair is not None
    seeds = [
        int.from_bytes(xxh3_128_digest(b"%d" % number)[:8], "big") >> 1 for number in range(999)
    ]
    assert [seed for seed in seeds if len(set(digest_texts(pair, seed))) == 1] == []


@pytest.mark.parametrize(
    "text",
    ["é" * 25_000_000, "\0" * 1_000_000, "\0", "a\0b", "\ud800", "\udfff\0\ud800" * 1000, ""],
    ids=["50 MB", "1 MB of NUL", "NUL", "NUL inside", "surrogate", "surrogates", "empty"],
)
def test_texts_of_any_kind(tmp_path: Path, text: str) -> None:
    like_it = [text, text + " ", "a", text[:-1]]
    distinct = list(dict.fromkeys(like_it))
    vectors = np.arange(8 * len(distinct), dtype=np.float32).reshape(-1, 8)
    with EmbeddingStore(tmp_path, on_error="raise") as store:
        store.put_many(MODEL, distinct, vectors)
    with EmbeddingStore(tmp_path, on_error="raise") as store:
        stored, found = store.get_many(MODEL, [*distinct, text + "  "])
    assert found.tolist() == [True] * len(distinct) + [False]
    assert np.array_equal(stored[:-1], vectors)
