"""What other users of the machine can do."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from embstore import (
    EmbeddingStore,
    StoreRefusedError,
)
from tests.helpers import (
    MODEL,
    put,
    run_python,
)

SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that other users may look into, and that is gone afterwards."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)
    os.umask(before)


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
from tests.security.test_other_users import opened
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
