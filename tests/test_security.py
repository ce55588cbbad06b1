"""What docs/security.md promises beyond tests/faults/test_tampered.py and test_location.py."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import stat
import string
import struct
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from xxhash import xxh3_64_digest, xxh3_64_intdigest, xxh3_128_digest

from embstore import (
    CachedEncoder,
    EmbeddingStore,
    Namespace,
    NamespaceError,
    StoreError,
    StoreRefusedError,
)
from embstore.keys import canonical_json, digest_texts
from tests.helpers import (
    MODEL,
    ROOT,
    check,
    ledger_rows,
    put,
    run_python,
    texts_of,
    vector_files,
    vectors_of,
)

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


NAMED = {
    "location": "tests/backends/test_location.py",
    "tampered": "tests/faults/test_tampered.py",
    "security": "tests/test_security.py",
    "doctor": "tests/cli/test_doctor.py",
}
"""The files of tests as docs/security.md calls them."""


def test_the_tests_that_the_page_names_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(\w+)::(\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        code = (ROOT / NAMED[file]).read_text()
        assert f"def {test}(" in code or f"class {test}:" in code, f"{file}::{test}"
    for file in re.findall(r"`(tests/\S+\.py)`", page):
        assert (ROOT / file).is_file(), file


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may look into, and that is gone afterwards."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
    os.umask(before)


@pytest.fixture
def fast_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one."""
    if not os.access("/dev/shm", os.W_OK | os.X_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        yield Path(directory)


# --- texts that somebody chose ------------------------------------------------------------------

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


# --- names and settings that somebody chose -----------------------------------------------------


def nested(depth: int) -> dict:
    value: dict = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "namespace",
    [
        Namespace("x" * 1_000_000),
        Namespace("../\0\n\x1b[31m" * 10_000),
        Namespace("m", prompt="p" * 1_000_000),
        Namespace("m", extra={str(number): number for number in range(2000)}),
        Namespace("m", extra=nested(100)),
        Namespace("m", truncate_dim=10**4000),
    ],
    ids=["1 MB name", "control characters", "1 MB prompt", "2,000 extras", "nested", "number"],
)
@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
def test_large_namespaces(fast_path: Path, namespace: Namespace) -> None:
    with EmbeddingStore(fast_path, on_error="raise") as store:
        put(store, namespace, ["a"])
        put(store, MODEL, ["a"])
    (fast_path / "cache.db").unlink()  # and out of the header
    with EmbeddingStore(fast_path, on_error="raise") as store:
        assert check(store, namespace, ["a", "b"]) == [True, False]
        assert check(store, MODEL, ["a", "b"]) == [True, False]
        assert store.verify().ok


@pytest.mark.parametrize(
    "extra",
    [
        nested(100_000),
        {"a": 10**5000},
        {"a": float("nan")},
        {"a": float("inf")},
        {"a": b"bytes"},
        {1: "a"},
    ],
    ids=["deep", "long", "nan", "inf", "bytes", "key"],
)
def test_settings_that_are_no_json_are_refused(extra: dict) -> None:
    with pytest.raises(NamespaceError):
        Namespace("m", extra=extra)


def test_vectors_of_a_million_numbers(tmp_path: Path) -> None:
    for _ in range(2):
        with EmbeddingStore(tmp_path, on_error="raise") as store:
            put(store, MODEL, ["a", "b"], 10**6)
            assert check(store, MODEL, ["a", "b", "c"], 10**6) == [True, True, False]


@pytest.mark.parametrize("dim", [0, 2**24 + 1])
def test_vectors_of_too_few_or_too_many_numbers_are_refused(tmp_path: Path, dim: int) -> None:
    with EmbeddingStore(tmp_path) as store:
        with pytest.raises(NamespaceError):
            store.put_many(MODEL, ["a"], np.zeros((1, dim), np.int8))
        put(store, MODEL, ["a"])
        assert check(store, MODEL, ["a"]) == [True]


@pytest.mark.parametrize(
    "size",
    [
        -1, "-1", 1.5, True, "nan", "inf", "1e9", "", "1EB",
        "9" * 400,
    ],
    ids=lambda size: repr(size)[:9],
)  # fmt: skip
def test_sizes_that_are_none_are_refused(tmp_path: Path, size: object) -> None:
    for name in ("size_limit", "memory_limit"):
        with pytest.raises(ValueError, match="size"):
            EmbeddingStore(tmp_path, **{name: size})


def test_sizes_beyond_any_disk_are_no_limit(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path, size_limit=2**80, memory_limit=2**80) as store:
        put(store, MODEL, texts_of(10))
        assert all(check(store, MODEL, texts_of(10)))
        assert store.prune(max_size=2**80) == 0


@pytest.mark.parametrize("seed", [0, -1, 2**63, 2**64, 1.5, "a", True])
def test_seeds_that_are_none_are_refused(tmp_path: Path, seed: object) -> None:
    with pytest.raises(ValueError, match="seed"):
        EmbeddingStore(tmp_path, seed=seed)  # type: ignore[arg-type]


# --- other users --------------------------------------------------------------------------------


def opened(location: Path) -> dict[str, str]:
    """What is open to others in a store, by name."""
    paths = [location, *location.rglob("*")]
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in paths}
    return {path: oct(mode) for path, mode in modes.items() if mode & 0o077}


@pytest.mark.parametrize("mask", [0o000, 0o777])
def test_whatever_is_made_is_private(place: Path, mask: int) -> None:
    """Also by pruning, compacting and rebuilding, and by a rebuild that was interrupted."""
    run_python(
        """
import os, shutil, sys, warnings
from pathlib import Path
from embstore import EmbeddingStore
from tests.helpers import *
from tests.test_security import opened
warnings.simplefilter("ignore")
location = Path(sys.argv[1])
os.umask(int(sys.argv[2]))
with EmbeddingStore(location, size_limit="1MB", on_error="raise") as store:
    for step in (
        lambda: put(store, MODEL, texts_of(500)),
        lambda: store.delete_many(MODEL, texts_of(100)),
        lambda: store.prune(max_size=20_000),
        lambda: store.compact(),
        lambda: put(store, OTHER, texts_of(500), 16),
        lambda: store.put_identity(bytes(16), {"a": 1}),
    ):
        step()
        assert opened(location) == {}
(location / "cache.db").write_bytes(b"garbage" * 1000)
with EmbeddingStore(location) as store:
    put(store, MODEL, texts_of(10))
    assert opened(location) == {}
shutil.rmtree = lambda *_, **__: os._exit(0)
(location / "cache.db").write_bytes(b"garbage" * 1000)
EmbeddingStore(location)
sys.exit("nothing was rebuilt")
""",
        place / "store",
        mask,
    )
    names = {path.name.partition(".")[0] for path in (place / "store").rglob("*")}
    assert {"cache", "vectors", "lock"} <= names
    assert list((place / "store").glob(".rebuild-*")), "the interrupted rebuild left its folder"
    assert opened(place / "store") == {}


@as_root
def test_another_user_gets_nothing(place: Path) -> None:
    location = place / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, ["a"])
    shown = run_python(
        f"""
import os, sys
from pathlib import Path
from embstore import EmbeddingStore, EmbstoreError
location = Path(sys.argv[1])
EmbeddingStore(location, read_only=True).close()  # imports what only root may read
os.setresuid({SOMEBODY}, {SOMEBODY}, {SOMEBODY})
for work in (
    lambda: list(location.iterdir()),
    lambda: (location / "cache.db").read_bytes(),
    lambda: EmbeddingStore(location, on_error="raise"),
    lambda: EmbeddingStore(location, read_only=True, on_error="raise"),
):
    try:
        work()
    except (PermissionError, EmbstoreError) as error:
        print("refused")
""",
        location,
    )
    assert shown.split() == ["refused"] * 4


@as_root
@pytest.mark.parametrize("mode", [0o777, 0o700])
def test_a_directory_prepared_by_somebody_else(place: Path, mode: int) -> None:
    """Under a parent like /tmp, where anybody may be the first."""
    place.chmod(0o1777)
    location = place / "store"
    location.mkdir()
    location.chmod(mode)
    os.chown(location, SOMEBODY, SOMEBODY)
    with pytest.raises(StoreRefusedError, match="another user"):
        EmbeddingStore(location)
    assert list(location.iterdir()) == []
    assert stat.S_IMODE(location.stat().st_mode) == mode


# --- files that somebody put there --------------------------------------------------------------


class Hostile:
    """A store among whose files something else was put, and a file that must not be touched."""

    def __init__(self, directory: Path) -> None:
        self.location = directory / "store"
        self.precious = directory / "precious"
        self.precious.write_bytes(b"precious" * 1000)
        self.precious.chmod(0o640)
        with EmbeddingStore(self.location) as store:
            put(store, MODEL, texts_of(10))
        self.vectors = vector_files(self.location)[0]

    def put_there(self, path: Path, kind: str) -> None:
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        elif kind == "directory":
            path.mkdir()
        else:
            path.symlink_to(self.precious)

    def use(self, **options: bool) -> None:
        """Do everything with the store: it may fail, and must not hang, lie or write elsewhere."""
        child = os.fork()  # which can be ended wherever it hangs
        if not child:
            try:
                warnings.simplefilter("ignore")
                self._use(**options)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 30
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
            time.sleep(0.005)
        if ended == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert self.precious.read_bytes() == b"precious" * 1000
        assert stat.S_IMODE(self.precious.stat().st_mode) == 0o640
        assert ended == (child, 0), "it hung" if ended == (0, 0) else "it failed, see above"

    def _use(self, **options: bool) -> None:
        try:
            store = EmbeddingStore(self.location, timeout=0.1, **options)  # type: ignore[arg-type]
        except StoreRefusedError:
            return
        with store:
            check(store, MODEL, texts_of(20))
            if not options.get("read_only"):
                put(store, MODEL, texts_of(10, 10))
            check(store, MODEL, texts_of(20))
            for work in (store.verify, store.namespaces, store.compact):
                with contextlib.suppress(StoreError):
                    work()
            check(store, MODEL, texts_of(20))


@pytest.fixture
def hostile(fast_path: Path) -> Hostile:
    return Hostile(fast_path)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"])
@pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "cache.db-shm", "lock"])
def test_something_else_in_the_place_of_a_file(
    hostile: Hostile, name: str, kind: str, read_only: bool
) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root can make devices")
    if name == "lock":
        (hostile.location / "cache.db").unlink()  # so that the lock is taken
    hostile.put_there(hostile.location / name, kind)
    hostile.use(read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
def test_a_hard_link_in_the_place_of_the_ledger(hostile: Hostile, read_only: bool) -> None:
    (hostile.location / "cache.db").unlink()
    os.link(hostile.precious, hostile.location / "cache.db")
    hostile.use(read_only=read_only)


@pytest.mark.parametrize("read_only", [False, True], ids=["writing", "reading"])
@pytest.mark.parametrize("ledger", ["kept", "lost"])
@pytest.mark.parametrize("kind", ["fifo", "device", "directory", "link"], ids=str)
def test_something_else_in_the_place_of_a_vector_file(
    hostile: Hostile, kind: str, ledger: str, read_only: bool
) -> None:
    if kind == "device" and os.geteuid() != 0:
        pytest.skip("only root can make devices")
    hostile.put_there(hostile.vectors, kind)
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    hostile.use(read_only=read_only)


@pytest.mark.parametrize(
    "ledger",
    [
        "kept",
        "lost",
    ],
)
def test_a_vector_file_of_four_terabytes_of_nothing(hostile: Hostile, ledger: str) -> None:
    os.truncate(hostile.vectors, 2**42)
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    hostile.use()
    with EmbeddingStore(hostile.location, on_error="raise") as store:
        assert all(check(store, MODEL, texts_of(10)))


@pytest.mark.parametrize("ledger", ["kept", "lost"])
def test_reading_makes_no_files(hostile: Hostile, ledger: str) -> None:
    if ledger == "lost":
        (hostile.location / "cache.db").unlink()
    before = sorted(hostile.location.rglob("*"))
    with EmbeddingStore(hostile.location, read_only=True) as store:
        assert all(check(store, MODEL, texts_of(10)))
    assert sorted(hostile.location.rglob("*")) == before


HEADERS: list[dict] = [
    {"dim": 2**40}, {"dim": 2**62}, {"dim": -1}, {"dim": 0}, {"dim": "8"}, {"dim": True},
    {"seed": -1}, {"seed": 2**64}, {"seed": "x"}, {"seed": None}, {"seed": 1.5},
    {"generation": 2**62}, {"generation": 2**64}, {"generation": -1}, {"generation": "../../x"},
    {"dtype": "O"}, {"dtype": "V9"}, {"dtype": "f4,f4"}, {"dtype": 5}, {"dtype": "M8[s]"},
    {"stride": 0}, {"stride": 2**62}, {"namespace": "x"}, {"namespace": {"model_name": 5}},
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
@pytest.mark.parametrize("fields", HEADERS, ids=str)
def test_headers_that_claim_anything(fast_path: Path, fields: dict) -> None:
    """With the right checksum, which anybody can compute."""
    claimed = {"seed": 1, "generation": 1, "namespace": MODEL.to_dict(), "dtype": "<f4", "dim": 8}
    document = canonical_json({**claimed, "stride": 56, **fields})
    body = struct.pack("<8sII", b"embstore", 1, len(document)) + document
    body += struct.pack("<Q", xxh3_64_intdigest(body))
    generation = fields.get("generation", 1)
    name = f"{MODEL.id.hex()}.{generation if isinstance(generation, int) else 1}.vec"
    (fast_path / "vectors").mkdir(0o700)
    (fast_path / "vectors" / name).write_bytes(body.ljust(4096, b"\0") + b"\1" * 5600)
    for _ in range(2):
        with EmbeddingStore(fast_path) as store:
            assert not any(check(store, MODEL, texts_of(10)))
    with EmbeddingStore(fast_path) as store:
        put(store, MODEL, texts_of(10))
    with EmbeddingStore(fast_path) as store:
        assert all(check(store, MODEL, texts_of(10)))


def forge(location: Path, kind: bytes, change: Callable[[bytes], bytes]) -> None:
    """Change an entry of the ledger and give it the right checksum."""
    query = "SELECT key, value FROM Cache WHERE substr(key, 1, 1) = ?"
    for key, value in ledger_rows(location, query, kind):
        forged = change(value[:-8])
        forged += xxh3_64_digest(key + forged)
        ledger_rows(location, "UPDATE Cache SET value = ? WHERE key = ?", forged, key)


@pytest.mark.filterwarnings("ignore::embstore.StoreWarning")
@pytest.mark.parametrize(
    "kind,old,new",
    [
        (b"h", struct.pack("<Q", 10), struct.pack("<Q", 2**62)),
        (b"h", struct.pack("<Q", 10), struct.pack("<Q", 2**64 - 1)),
        (b"h", struct.pack("<QQ", 1, 10), struct.pack("<QQ", 2**64 - 1, 10)),
        (b"n", b'"dim":8', b'"dim":16'),
        (b"n", b'"<f4"', b'"<f8"'),
        (b"n", b'"<f4"', b'"<i4"'),
    ],
    ids=["rows", "all rows", "generation", "dim", "dtype", "integers"],
)
def test_a_ledger_that_claims_anything(
    hostile: Hostile, kind: bytes, old: bytes, new: bytes
) -> None:
    forge(hostile.location, kind, lambda value: value.replace(old, new))
    with EmbeddingStore(hostile.location) as store:
        vectors, found = store.get_many(MODEL, texts_of(20))
    assert not found[10:].any()
    true = vectors_of(MODEL, texts_of(20))
    assert all(np.array_equal(vectors[row], true[row]) for row in np.flatnonzero(found))
