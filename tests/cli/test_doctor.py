"""``embstore doctor``: what it finds, what it advises, and that it leaves everything as it is."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import Result

from embstore import EmbeddingStore, doctor
from embstore.backends.disk import health
from embstore.doctor import Check, diagnose
from tests.helpers import MODEL, put, run_python, start_python, texts_of, vector_files

Run = Callable[..., Result]
SOMEBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="asks Linux's /proc")


@pytest.fixture
def location(tmp_path: Path) -> Path:
    """A store with ten vectors, closed; nobody else may enter the folder above it."""
    with EmbeddingStore(tmp_path / "store") as store:
        put(store, MODEL, texts_of(10))
    return tmp_path / "store"


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """A directory that other users may look into."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


def state(location: Path) -> dict[str, tuple[int, int, int]]:
    """Everything in and around a store: kinds, sizes and times of change."""
    paths = [location.parent, *location.parent.rglob("*")]
    found = {str(path): path.lstat() for path in paths}
    return {path: (stat.st_mode, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def look(location: Path) -> dict[str, Check]:
    """The checks by name. Whatever they find, nothing may have changed."""
    before = state(location)
    diagnosis = diagnose(location)
    assert state(location) == before
    assert diagnosis.location == str(location)
    for check in diagnosis.checks:
        assert check.found
        assert bool(check.advice) == (check.status != "ok"), check
        assert "\n" not in check.advice
    return {check.name: check for check in diagnosis.checks}


def worst(checks: dict[str, Check], *, but: tuple[str, ...] = ("SQLite", "file system")) -> list:
    """The names of what is not well, without what this machine decides."""
    return [name for name, check in checks.items() if check.status != "ok" and name not in but]


def test_a_sound_store(location: Path) -> None:
    checks = look(location)
    assert worst(checks) == []
    assert list(checks) == [
        "versions", "SQLite", "store", "file system", "permissions", "free space", "locks", "log",
        "health", "leftovers",
    ]  # fmt: skip
    assert checks["health"].found == "10 vectors, none damaged"


def test_a_store_that_is_in_use(location: Path) -> None:
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(10, 100))
        # SQLite's shared memory of the running processes, and nothing else, may be used.
        checks = {check.name: check for check in diagnose(location).checks}
        assert worst(checks) == []
        assert checks["health"].found == "20 vectors, none damaged"
        put(store, MODEL, texts_of(10, 200))


def test_no_store_is_no_error_and_none_is_made(tmp_path: Path) -> None:
    checks = look(tmp_path / "none")
    assert worst(checks) == []
    assert "none at" in checks["store"].found
    assert not (tmp_path / "none").exists()


def test_a_directory_of_something_else(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir(0o700)
    (tmp_path / "place" / "notes.txt").touch()
    assert worst(look(tmp_path / "place")) == ["store"]


def test_a_file_in_the_place_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("precious")
    checks = look(tmp_path / "store")
    assert checks["store"].status == "error"
    assert "not a directory" in checks["store"].found


@pytest.mark.parametrize("location", ["redis://host/0", "disk://host", "a\0b", ""])
def test_locations_that_are_none(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert diagnose(location).checks
    assert list(tmp_path.iterdir()) == []


class TestDamage:
    def test_rows(self, location: Path) -> None:
        content = bytearray(vector_files(location)[0].read_bytes())
        content[-10] ^= 1
        vector_files(location)[0].write_bytes(content)
        checks = look(location)
        assert worst(checks) == ["health"]
        assert "1 damaged rows" in checks["health"].found
        with EmbeddingStore(location) as store:
            assert "embstore compact --store" in checks["health"].advice
            store.compact()
        assert worst(look(location)) == []

    @pytest.mark.parametrize("content", [b"", b"garbage" * 1000], ids=["empty", "garbage"])
    def test_the_ledger_and_what_a_rebuild_leaves(self, location: Path, content: bytes) -> None:
        (location / "cache.db").write_bytes(content)
        checks = look(location)
        assert worst(checks) == ["health"]
        assert checks["health"].status == "error"
        with pytest.warns(match="rebuilt"):
            EmbeddingStore(location).close()
        checks = look(location)
        assert worst(checks) == ["leftovers"]
        assert checks["leftovers"].status == "warning"
        subprocess.run(checks["leftovers"].advice.partition(": ")[2], shell=True, check=True)
        assert worst(look(location)) == []

    def test_no_ledger(self, location: Path) -> None:
        (location / "cache.db").unlink()
        assert worst(look(location)) == ["health"]

    def test_a_log_of_a_process_that_died(self, location: Path) -> None:
        with EmbeddingStore(location) as store:
            put(store, MODEL, texts_of(10, 100))
            shutil.copytree(location, location.with_name("copy"))
        (location.with_name("copy") / "cache.db-shm").unlink()
        checks = look(location.with_name("copy"))
        assert (worst(checks), checks["health"].status) == (["health"], "warning")

    def test_vector_files_of_no_namespace(self, location: Path) -> None:
        shutil.copy(vector_files(location)[0], location / "vectors" / f"{'ab' * 16}.7.vec")
        checks = look(location)
        assert worst(checks) == ["leftovers"]
        assert "embstore compact" in checks["leftovers"].advice

    def test_what_an_interrupted_rebuild_leaves(self, location: Path) -> None:
        (location / ".rebuild-abc").mkdir(0o700)
        (location / ".rebuild-abc" / "cache.db").write_bytes(bytes(2048))
        (location / "vectors" / f"{'ab' * 16}.7.vec.damaged").write_bytes(bytes(1024))
        checks = look(location)
        assert worst(checks) == ["leftovers"]
        assert checks["leftovers"].found == "2 from a rebuild, 3.0 KiB"
        assert "rm -r " in checks["leftovers"].advice

    def test_a_newer_format(self, location: Path) -> None:
        file = vector_files(location)[0]
        content = file.read_bytes()
        ledger = sqlite3.connect(location / "cache.db")
        from xxhash import xxh3_64_digest

        value = b'{"format":99,"seed":1}'
        with ledger:
            ledger.execute(
                "UPDATE Cache SET value = ? WHERE key = ?",
                (value + xxh3_64_digest(b"M" + value), b"M"),
            )
        ledger.close()
        assert "--upgrade embstore" in look(location)["health"].advice
        assert file.read_bytes() == content

    @pytest.mark.parametrize("name", ["cache.db", "cache.db-wal", "lock", "vectors/x"])
    @pytest.mark.parametrize("kind", ["fifo", "link"])
    def test_what_is_no_file_is_not_opened(self, location: Path, name: str, kind: str) -> None:
        path = location / name
        if name == "vectors/x":
            path = vector_files(location)[0]
        path.unlink(missing_ok=True)
        if kind == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to("/dev/zero")
        checks = look(location)
        assert checks["permissions"].status == checks["health"].status == "error"
        assert str(path) in checks["permissions"].found


class TestPermissions:
    def test_files_open_to_others(self, location: Path) -> None:
        location.chmod(0o755)
        checks = look(location)
        assert worst(checks) == ["permissions"]
        subprocess.run(checks["permissions"].advice.partition(": ")[2], shell=True, check=True)
        assert worst(look(location)) == []

    def test_a_folder_above_in_which_anybody_may_rename(self, location: Path) -> None:
        location.parent.chmod(0o777)
        assert worst(look(location)) == ["permissions"]
        location.parent.chmod(0o1777)
        assert worst(look(location)) == []

    @as_root
    def test_somebody_elses(self, location: Path) -> None:
        os.chown(location / "cache.db", SOMEBODY, SOMEBODY)
        checks = look(location)
        assert worst(checks) == ["permissions"]
        assert f"uid {SOMEBODY}" in checks["permissions"].found
        assert checks["health"].status == "ok"

    @as_root
    @pytest.mark.parametrize("mode", [0o755, 0o700])
    def test_as_another_user(self, location: Path, mode: int, shared_path: Path) -> None:
        """Who may look is told whose it is; who may not, that he may not."""
        location = Path(shutil.move(location, shared_path / "store"))
        location.chmod(mode)
        before = state(location)
        found = run_python(
            # What that imports, the other user may not be able to read.
            "import json, os, sys\nfrom embstore.doctor import diagnose\ndiagnose(sys.argv[1])\n"
            f"os.setresuid({SOMEBODY}, {SOMEBODY}, {SOMEBODY})\n"
            "print(json.dumps(diagnose(sys.argv[1]).to_dict()))",
            location,
        )
        checks = {check["name"]: check for check in json.loads(found)["checks"]}
        assert checks["permissions"]["status"] == "error"
        assert ("uid 0" in checks["permissions"]["found"]) == (mode == 0o755)
        assert state(location) == before


@on_linux
class TestLocks:
    @pytest.fixture
    def held(self, location: Path) -> Iterator[int]:
        """A process that holds the write lock."""
        process = start_python(
            "import sqlite3, sys\n"
            "connection = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
            "connection.execute('BEGIN IMMEDIATE')\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()",
            location / "cache.db",
        )
        assert process.stdout.readline() == "locked\n"
        yield process.pid
        process.communicate(timeout=60)

    def test_a_writer_that_does_not_end(self, location: Path, held: int) -> None:
        checks = {check.name: check for check in diagnose(location).checks}
        assert worst(checks) == ["locks"]
        assert f"process {held} writes" in checks["locks"].found
        assert checks["health"].status == "ok"

    def test_a_rebuild_that_does_not_end(self, location: Path) -> None:
        process = start_python(
            "import fcntl, sys\n"
            "file = open(sys.argv[1])\n"
            "fcntl.flock(file, fcntl.LOCK_EX)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()",
            location / "lock",
        )
        assert process.stdout.readline() == "locked\n"
        assert f"process {process.pid} rebuilds" in look(location)["locks"].found
        process.communicate(timeout=60)
        assert look(location)["locks"].status == "ok"

    def test_locks_of_this_process_survive_the_look(self, location: Path) -> None:
        """Closing any descriptor of SQLite's files would drop them."""
        with EmbeddingStore(location) as store:
            put(store, MODEL, ["a"])
            connection = sqlite3.connect(location / "cache.db", isolation_level=None)
            connection.execute("BEGIN IMMEDIATE")
            diagnose(location)
            assert health.writer(location) == os.getpid()
            connection.execute("ROLLBACK")
            connection.close()


def test_a_long_log(location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_LONG_LOG", 1000)
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(10, 100))
        [log] = [check for check in diagnose(location).checks if check.name == "log"]
    assert log.status == "warning"
    assert "fuser" in log.advice


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:40 / /home rw - nfs4 server:/home rw
31 30 8:2 / /home/me/local rw - xfs /dev/sdb1 rw
32 22 0:41 / /with\\040space rw master:3 - fuse.sshfs host: rw
33 22 0:42 / /data rw - ext4 /dev/sdc1 rw
34 22 0:43 / /data rw - cifs //server/data rw
35 22 0:44 / /mnt/odd rw - fuse.odd odd rw
36 22 0:45 / /ram rw - tmpfs tmpfs rw
broken line
"""


class TestFileSystem:
    @pytest.mark.parametrize(
        "path,kind",
        [
            ("/var/store", "ext4"),
            ("/home/me/store", "nfs4"),
            ("/homes/store", "ext4"),
            ("/home/me/local/store", "xfs"),
            ("/with space/store", "fuse.sshfs"),
            ("/data/store", "cifs"),
        ],
    )
    def test_the_mount_below_a_path(self, path: str, kind: str) -> None:
        mount = health.mount_of(Path(path), MOUNTS)
        assert mount is not None
        assert mount.kind == kind

    @pytest.mark.parametrize(
        "path,status",
        [
            ("/var/x", "ok"), ("/home/x", "warning"), ("/data/x", "warning"),
            ("/mnt/odd/x", "warning"), ("/ram/x", "warning"),
        ],
    )  # fmt: skip
    def test_what_is_said_of_it(
        self, path: str, status: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "mounts").write_text(MOUNTS)
        monkeypatch.setattr(health, "_MOUNTS", tmp_path / "mounts")
        checks = {check.name: check for check in diagnose(path).checks}
        assert checks["file system"].status == status

    def test_a_system_that_does_not_tell(
        self, location: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(health, "_MOUNTS", location / "none")
        monkeypatch.setattr(health, "_LOCKS", location / "none")
        checks = look(location)
        assert "unknown" in checks["file system"].found
        assert worst(checks) == []


@pytest.mark.parametrize(
    "blocks,files,status",
    [
        (10**7, 10**6, "ok"), (10**7, 5, "warning"), (10**7, 0, "error"), (5, 10**6, "error"),
        (5000, 10**6, "warning"),
    ],
)  # fmt: skip
def test_free_space(
    location: Path, monkeypatch: pytest.MonkeyPatch, blocks: int, files: int, status: str
) -> None:
    system = SimpleNamespace(
        f_bavail=blocks, f_frsize=4096, f_files=10**7, f_favail=files, f_flag=0
    )
    monkeypatch.setattr(os, "statvfs", lambda path: system)
    assert look(location)["free space"].status == status


def test_a_disk_that_is_mounted_read_only(location: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = SimpleNamespace(
        f_bavail=10**7, f_frsize=4096, f_files=0, f_favail=0, f_flag=os.ST_RDONLY
    )
    monkeypatch.setattr(os, "statvfs", lambda path: system)
    checks = look(location)
    assert worst(checks) == ["permissions"]
    assert "read-only" in checks["permissions"].found


@pytest.mark.parametrize(
    "version,status",
    [
        ((3, 6, 23), "error"), ((3, 40, 1), "warning"), ((3, 44, 5), "warning"),
        ((3, 44, 6), "ok"), ((3, 45, 0), "warning"), ((3, 50, 7), "ok"), ((3, 51, 2), "warning"),
        ((3, 51, 3), "ok"), ((3, 53, 0), "ok"),
    ],
)  # fmt: skip
def test_versions_of_sqlite(version: tuple[int, ...], status: str) -> None:
    assert doctor._sqlite(version, 3).status == status
    assert doctor._sqlite(version, 0).status == "error"


class TestCommand:
    def test_words_and_exit_codes(self, run: Run, location: Path) -> None:
        result = run("doctor")
        assert result.exit_code == 0
        assert "10 vectors, none damaged" in result.stdout
        (location / "cache.db").write_bytes(b"garbage" * 1000)
        result = run("doctor", "--store", location)
        assert result.exit_code == 1
        assert f"embstore compact --store {location}" in result.stdout

    def test_warnings_alone_are_no_failure(self, run: Run, location: Path) -> None:
        location.chmod(0o755)
        result = run("doctor", "--json")
        assert result.exit_code == 0
        shown = json.loads(result.stdout)
        assert shown["ok"] is True
        assert shown["location"] == str(location)
        statuses = {check["name"]: check["status"] for check in shown["checks"]}
        assert statuses["permissions"] == "warning"

    @pytest.mark.filterwarnings("default::embstore.StoreWarning")
    def test_what_is_advised_for_a_damaged_ledger_helps(self, run: Run, location: Path) -> None:
        (location / "cache.db").write_bytes(b"garbage" * 1000)
        result = run("compact", "--store", location)
        assert (result.exit_code, "rebuilt" in result.stderr) == (0, True)
        assert run("doctor", "--store", location).exit_code == 0

    def test_no_store(self, run: Run, tmp_path: Path) -> None:
        assert run("doctor").exit_code == 0
        assert list(tmp_path.iterdir()) == []


def test_neither_torch_nor_a_model_library_is_imported(tmp_path: Path) -> None:
    loaded = run_python(
        "import sys\nfrom embstore.doctor import diagnose\n"
        "diagnose(sys.argv[1])\nprint(*sys.modules)",
        tmp_path,
    ).split()
    assert not {"torch", "transformers", "sentence_transformers", "rich"} & set(loaded)
