"""Many namespaces in a process that may open few files."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.index.kept import elsewhere

FEW = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))\n"

COMMON = """
import os, shutil, threading
from embstore import Namespace
spaces = [Namespace("m", str(number)) for number in range({count})]
"""


def with_few(code: str, location: Path, *, files: int = 64, count: int = 40) -> None:
    """Run ``code`` where so many files may be open."""
    # First of all, as embstore looks at the limit when it is imported.
    elsewhere("", location)
    script = FEW.format(files) + "__import__('sys').argv\n"
    elsewhere_first(script, COMMON.format(count=count) + code, location)


def elsewhere_first(before: str, code: str, location: Path) -> None:
    from tests.helpers import run_python
    from tests.index.kept import CHILD

    run_python(before + CHILD + code, location)


def test_eleven_hundred_namespaces(fast_path: Path) -> None:
    with_few(
        """
def open_files():
    return len(os.listdir("/proc/self/fd"))
most = 0
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    for number, space in enumerate(spaces):
        put(store, space, texts_of(3, number))
        most = max(most, open_files())
    for number, space in enumerate(spaces):
        assert all(check(store, space, texts_of(3, number)))
        most = max(most, open_files())
    errors = []
    def work(which):
        try:
            for number in range(which, len(spaces), 2):
                space = spaces[number]
                assert all(check(store, space, texts_of(3, number)))
                if number % 5 == 0:
                    put(store, space, texts_of(1, 5000))
                    assert check(store, space, texts_of(1, 5000)) == [True]
        except BaseException as error:
            errors.append(error)
    threads = [threading.Thread(target=work, args=(which % 2,)) for which in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not errors, errors
    most = max(most, open_files())
    assert most < 32 * 3 + 30, most
    assert store.verify().ok
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    for number, space in enumerate(spaces):
        assert all(check(store, space, texts_of(3, number)))
""",
        fast_path / "store",
        files=256,
        count=1100,
    )


REPLACED = """
with EmbeddingStore(location, memory_limit=0) as store:
    for space in spaces:
        put(store, space, texts_of(5))
    for space in spaces:
        assert all(check(store, space, texts_of(5)))
    shelf = store._backend._shelves.get(spaces[0].id)
    assert shelf.file._read_fd == -1, "it was let go of"
    file = shelf.file.path
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[4096 + 2 * 56 + 30] ^= 1  # in the vector of the third
    REPLACE
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = file.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert check(store, spaces[0], texts_of(5)) == [True, True, False, True, True]
    assert [check(store, spaces[0], [text]) for text in texts_of(5)].count([True]) == 4
"""


@pytest.mark.parametrize(
    "replace",
    [
        'copy = file.with_name("copy"); copy.write_bytes(content); copy.replace(file)',
        "file.unlink(); file.write_bytes(content)",
    ],
)
@pytest.mark.parametrize("memory", [True, False])
def test_a_copy_of_the_same_size_and_time_is_checked_again(
    tmp_path: Path, fast_path: Path, replace: str, memory: bool
) -> None:
    location = (fast_path if memory else tmp_path) / "store"
    with_few(REPLACED.replace("REPLACE", replace), location)


def test_a_scan_of_what_was_let_go_of_and_compacted(fast_path: Path) -> None:
    """It gives all, or says that it does not."""
    with_few(
        """
from embstore import StoreError
from tests.helpers import run_python
with EmbeddingStore(location, memory_limit=0) as store:
    put(store, MODEL, texts_of(9000))
    for space in spaces:
        put(store, space, texts_of(5))
    parts = store._backend.scan(MODEL)
    count = len(next(parts)[0])
    for space in spaces:
        assert all(check(store, space, texts_of(5)))
    run_python('''
import sys
from embstore import EmbeddingStore
from tests.helpers import *
with EmbeddingStore(sys.argv[1]) as store:
    store.delete_many(MODEL, texts_of(1, 8999))
    store.compact()
''', location)
    try:
        count += sum(len(digests) for digests, _ in parts)
    except StoreError as error:
        assert "scan again" in str(error)
    else:
        assert count >= 8999, count
""",
        fast_path / "store",
        count=20,
    )


LET_GO = """
from embstore.backends.disk import vectors
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    for first in (0, 3000, 6000):
        put(store, MODEL, texts_of(3000, first))
    for space in spaces:
        put(store, space, texts_of(5))
    store.delete_many(MODEL, texts_of(1))
    look, done = vectors.VectorFile._look, []
    def read_all():
        for space in spaces:
            assert all(check(store, space, texts_of(5)))
    def slowly(self, now):
        # In the middle of a read of the one who looks after the store, others read.
        look(self, now)
        own = self is store._backend._shelves._shelves[MODEL.id].file
        ours = self.path.name.startswith(MODEL.id.hex()) and not own
        if ours and threading.current_thread() is main and len(done) < 3 and len(self.mapped):
            done.append(1)
            reader = threading.Thread(target=read_all)
            reader.start()
            reader.join(0.2)  # it may have to wait
    main = threading.current_thread()
    vectors.VectorFile._look = slowly
    TEND
    assert done
    vectors.VectorFile._look = look
    assert sum(check(store, MODEL, texts_of(9000))) == LEFT
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    assert sum(check(store, MODEL, texts_of(9000))) == LEFT
    assert store.verify().ok
"""


@pytest.mark.parametrize("tend", ["store.compact()", "assert store.verify().problems == ()"])
def test_looking_after_a_store_while_others_read_many_namespaces(
    fast_path: Path, tend: str
) -> None:
    """A file that is let go of in between is opened again: its rows are not taken for deleted."""
    code = LET_GO.replace("TEND", tend).replace("LEFT", "8999")
    with_few(code, fast_path / "store")


def test_files_that_were_all_replaced_by_copies(fast_path: Path) -> None:
    """A store restored in place, while it is open to write."""
    with_few(
        """
with EmbeddingStore(location, memory_limit=0, on_error="raise") as store:
    for space in spaces:
        put(store, space, texts_of(5))
    for file in (location / "vectors").glob("*.vec"):
        copy = file.with_name("copy")
        shutil.copy2(file, copy)
        copy.replace(file)
    for space in spaces:
        put(store, space, texts_of(5, 5))
    for space in spaces:
        assert all(check(store, space, texts_of(10)))
""",
        fast_path / "store",
        count=120,
    )
