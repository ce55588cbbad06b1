"""Changes of a model's files that the system tells of, and those that it does not."""

from __future__ import annotations

import mmap
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, inotify, snapshot
from embstore.inotify import Silence
from embstore.snapshot import Watched
from tests.helpers import run_python
from tests.test_swapped_weights import overwritten

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are trusted, and listened to, from the first look on."""
    monkeypatch.setattr(snapshot, "_SETTLED", 0.0)
    monkeypatch.setattr(snapshot, "_LOOKS", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "above" / "model"
    (folder / "part").mkdir(parents=True)
    for name in ("weights", "config.json", "part/config.json"):
        (folder / name).write_bytes(b"0" * 5000)
    return folder


def paths_of(folder: Path) -> list[str]:
    return [str(path) for path in (folder, *folder.rglob("*"))]


def overwrite(folder: Path) -> None:
    times = (folder / "weights").stat()
    with open(folder / "weights", "r+b") as file:
        file.write(b"1")
    os.utime(folder / "weights", ns=(times.st_atime_ns, times.st_mtime_ns))


def map_and_write(folder: Path) -> None:
    with open(folder / "weights", "r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        mapped[0] = ord("1")


def replace(folder: Path) -> None:
    (folder.parent / "other").write_bytes(b"1" * 5000)
    os.replace(folder.parent / "other", folder / "part" / "config.json")


def retarget(folder: Path) -> None:
    """Another folder under the same name."""
    shutil.copytree(folder, folder.with_name("new"))
    folder.rename(folder.with_name("old"))
    folder.with_name("new").rename(folder)


def rename_above(folder: Path) -> None:
    above = folder.parent
    shutil.copytree(above, above.with_name("new"))
    above.rename(above.with_name("old"))
    above.with_name("new").rename(above)


CHANGES: dict[str, Callable[[Path], object]] = {
    "overwritten": overwrite,
    "mapped": map_and_write,
    "replaced": replace,
    "retargeted": retarget,
    "renamed above": rename_above,
    "cut": lambda folder: os.truncate(folder / "weights", 4000),
    "added": lambda folder: (folder / "part" / "more.json").write_text("{}"),
    "deleted": lambda folder: (folder / "config.json").unlink(),
    "renamed": lambda folder: (folder / "config.json").rename(folder / "config.bak"),
    "all deleted": shutil.rmtree,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_changes(folder: Path, change: Callable[[Path], object]) -> None:
    watched = Watched(folder, str(folder))
    assert [watched.same, watched.same] == [True, True]
    assert watched._silence is not None
    change(folder)
    assert not watched.same


@pytest.mark.parametrize("change", [overwrite, map_and_write, replace, retarget])
def test_changes_by_another_process(folder: Path, change: Callable[[Path], object]) -> None:
    watched = Watched(folder, str(folder))
    assert [watched.same, watched.same] == [True, True]
    code = "import sys; from pathlib import Path; import tests.test_inotify as here\n"
    run_python(code + f"here.{change.__name__}(Path(sys.argv[1]))", folder)
    assert not watched.same


def test_asks_for_no_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, asked = Watched(folder, str(folder)), []
    assert watched.same

    def stat(path: str, real: Any = os.stat) -> Any:
        asked.append(path)
        return real(path)

    monkeypatch.setattr(os, "stat", stat)
    assert watched.same
    assert asked == [str(folder)]


def test_a_reader_is_no_change_and_listening_begins_anew(folder: Path) -> None:
    watched = Watched(folder, str(folder))
    assert watched.same
    first = watched._silence
    (folder / "weights").read_bytes()
    assert [watched.same, watched.same] == [True, True]
    assert watched._silence not in (None, first)


def test_no_silence_where_somebody_writes(folder: Path) -> None:
    """What is written through a map is not told, so nobody may have one."""
    with open(folder / "weights", "r+b") as file:
        with pytest.raises(BlockingIOError):
            Silence(paths_of(folder))
        mapped = mmap.mmap(file.fileno(), 0)
    with pytest.raises(BlockingIOError):
        Silence(paths_of(folder))
    watched = Watched(folder, str(folder))
    assert watched.same
    assert watched._silence is None
    mapped.close()
    assert Silence(paths_of(folder)).lasts


def test_whoever_opens_a_file_meanwhile_ends_nothing(folder: Path) -> None:
    """A lease that is broken is told by a signal, which must not be one that ends the process."""
    code = """
import fcntl, sys, threading
from pathlib import Path
from embstore.inotify import Silence
path = sys.argv[1]
real, threads = fcntl.fcntl, []
def slow(fd, command, argument):
    given = real(fd, command, argument)
    if (command, argument) == (fcntl.F_SETLEASE, fcntl.F_RDLCK):
        threads.append(threading.Thread(target=lambda: open(path, "r+b").close()))
        threads[-1].start()
        threads[-1].join(0.2)
    return given
fcntl.fcntl = slow
silence = Silence([path])
for thread in threads:
    thread.join()
print(len(threads), silence.lasts)
"""
    assert run_python(code, folder / "weights") == "1 False\n"


def test_a_file_system_that_others_may_change() -> None:
    with pytest.raises(OSError, match="other machines"):
        Silence(["/proc/self/status"])


def test_limits_and_descriptors(folder: Path) -> None:
    """Where no more can be had, the files are asked; and nothing is leaked."""
    code = """
import os, resource, sys
from pathlib import Path
from embstore import snapshot
from embstore.inotify import Silence
snapshot._SETTLED, snapshot._LOOKS = 0.0, 1
def count(): return len(os.listdir("/proc/self/fd"))
folder, before, kept = sys.argv[1], count(), []
resource.setrlimit(resource.RLIMIT_NOFILE, (before + 20, before + 20))
try:
    while True:
        kept.append(Silence([folder]))
except OSError as error:
    print(error.strerror, len(kept) > 10)
watched = snapshot.Watched(Path(folder), folder)
print(watched.same, watched.same, watched._silence)
(Path(folder) / "weights").unlink()
print(watched.same)
kept.clear()
try:
    Silence([folder, folder + "/none"])
except OSError as error:
    print(error.strerror)
print(count() - before)
"""
    assert run_python(code, folder).splitlines() == [
        *("Too many open files True", "True True None", "False", "No such file or directory", "0")
    ]


def test_in_a_forked_child(folder: Path) -> None:
    watched = Watched(folder, str(folder))
    assert [watched.same, watched.same] == [True, True]
    overwrite(folder)
    child = os.fork()
    if not child:
        os._exit(watched.same)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not watched.same, "the child took nothing away"


HUB_CHANGES: dict[str, Callable[[Path], object]] = {
    "commit": lambda hub: (hub / "refs" / "main").write_text("b"),
    "blob": lambda hub: (hub / "blobs" / "1").write_bytes(b"1" * 5000),
    "blobs": lambda hub: (hub / "blobs").rename(hub / "elsewhere"),
    "cache": lambda hub: os.environ.update(SENTENCE_TRANSFORMERS_HOME="/elsewhere"),
    "folder": lambda hub: os.makedirs("some/model"),
}


class TestHub:
    """A name on the hub, whose files are links to others."""

    @pytest.fixture
    def hub(self, folder: Path, tmp_path: Path) -> Iterator[Path]:
        hub = tmp_path / "hub" / "models--some--model"
        for commit in ("a", "b"):
            (hub / "snapshots" / commit).mkdir(parents=True)
        (hub / "refs").mkdir()
        (hub / "blobs").mkdir()
        (hub / "refs" / "main").write_text("a")
        (hub / "blobs" / "1").write_bytes(b"0" * 5000)
        (hub / "snapshots" / "a" / "weights").symlink_to("../../blobs/1")
        return hub

    @pytest.mark.parametrize("change", HUB_CHANGES.values(), ids=HUB_CHANGES.keys())
    def test_changes(
        self, hub: Path, change: Callable[[Path], object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(hub)
        monkeypatch.setenv("SENTENCE_TRANSFORMERS_HOME", str(hub.parent))
        watched = Watched(hub / "snapshots" / "a", "some/model")
        assert [watched.same, watched.same] == [True, True]
        assert watched._silence is not None
        change(hub)
        assert not watched.same


@pytest.mark.parametrize("name", ["model", "./model", "model/"])
def test_a_relative_path_means_another_folder_elsewhere(
    folder: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    watched = Watched(Path(name), name)
    assert [watched.same, watched.same] == [True, True]
    assert watched._silence is not None
    (tmp_path / "there").mkdir()
    shutil.copytree(folder, tmp_path / "there" / "model")
    monkeypatch.chdir(tmp_path / "there")
    assert not watched.same


def test_an_encoder_that_listens(
    minilm: Any, model_path: str, store: EmbeddingStore, tmp_path: Path
) -> None:
    model = Path(shutil.copytree(model_path, tmp_path / "model"))
    texts = ["a b c", "d e f"]
    expected = CachedEncoder(model, store, device="cpu").encode(texts)
    encoder = CachedEncoder(model, store, device="cpu", on_miss="raise")
    for _ in range(3):
        assert encoder.encode(texts).tobytes() == expected.tobytes()
    assert encoder._model._recalled[0]._silence.lasts
    overwritten(model / "model.safetensors")
    now = CachedEncoder(model, store, device="cpu")
    changed = now.encode(texts)
    assert not np.allclose(changed, expected, atol=1e-3)
    assert encoder.encode(texts).tobytes() == changed.tobytes()


def test_elsewhere_than_on_linux(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inotify.sys, "platform", "darwin")
    with pytest.raises(OSError, match="Linux"):
        Silence([str(folder)])
    watched = Watched(folder, str(folder))
    assert [watched.same, watched.same] == [True, True]
    assert watched._silence is None
