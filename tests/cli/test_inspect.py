"""``embstore inspect``: everything on one screen, and nothing written."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from embstore import EmbeddingStore, Namespace
from embstore.backends.base import Day, History
from embstore.cli import inspect as command
from embstore.cli.errors import Commands
from embstore.cli.survey import Space, Survey, printable, survey, together
from tests import realistic
from tests.helpers import MODEL, check, ledger_rows, put, start_python, texts_of

Run = Callable[..., Result]

HOSTILE = "evil\x1b[2J\u202e\x00\ud800</style><script>alert(1)</script>"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store as a team has it after some days. Not to be changed."""
    location = tmp_path_factory.mktemp("inspect") / "store"
    realistic.fill(location, 12)
    return location


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "220")
    app = typer.Typer(cls=Commands)
    app.callback()(lambda debug=False: None)
    app.command()(command.inspect)

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["inspect", "--store", *map(str, arguments)])

    return run


def files(location: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (location, *location.rglob("*"))}


class TestOneScreen:
    def test_has_everything(self, run: Run, filled: Path) -> None:
        shown = run(filled)
        assert shown.exit_code == 0, shown.output
        for namespace, dim, *_ in realistic.MODELS:
            [line] = [line for line in shown.stdout.splitlines() if namespace.id.hex()[:12] in line]
            assert namespace.model_name in line
            assert f"x {dim} float32" in line
            assert "█" in line
        for word in ("file system", "format 1", "hits", "saved", "nobody computes"):
            assert word in shown.stdout
        assert "the ledger is sound; rows were not checked" in shown.stdout

    def test_of_many_namespaces_the_largest(self, run: Run, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path / "store") as store:
            for number in range(1, 41):
                put(store, Namespace(f"model {number:03}"), texts_of(number))
        shown = run(tmp_path / "store").stdout
        assert "model 040" in shown
        assert "model 021" in shown
        assert "model 020" not in shown
        assert "and 20 smaller ones" in shown

    def test_an_empty_store(self, run: Run, tmp_path: Path) -> None:
        EmbeddingStore(tmp_path / "store").close()
        shown = run(tmp_path / "store")
        assert shown.exit_code == 0
        assert "0 in 0 namespaces" in shown.stdout

    def test_names_cannot_steer_the_terminal(self, run: Run, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path / "store") as store:
            put(store, Namespace(HOSTILE, fingerprint="\x1b[31m"), texts_of(3))
        for options in ((), ("--namespace", HOSTILE)):
            shown = run(tmp_path / "store", *options)
            assert shown.exit_code == 0
            assert "evil\\x1b[2J" in shown.stdout
            assert not {"\x1b", "\u202e", "\x00"} & set(shown.stdout)


class TestOneNamespace:
    def test_in_detail(self, run: Run, filled: Path) -> None:
        namespace, *_ = realistic.MODELS[2]
        shown = run(filled, "-n", namespace.model_name).stdout
        assert namespace.id.hex() in shown
        assert "normalize=True" in shown
        assert shown.count(time.strftime("%Y-%m-")) > 5, "day by day"

    def test_that_is_not_there(self, run: Run, filled: Path) -> None:
        shown = run(filled, "-n", "nobody/none")
        assert shown.exit_code == 2
        assert "'embstore namespaces' lists" in shown.stderr


class TestJson:
    def test_adds_up(self, run: Run, filled: Path) -> None:
        found = json.loads(run(filled, "--json").stdout)
        assert (found["store"], found["format"], found["ok"]) == (str(filled), 1, True)
        spaces = found["namespaces"]
        assert len(spaces) == len(realistic.MODELS)
        assert [each["bytes"] for each in spaces] == sorted(
            (each["bytes"] for each in spaces), reverse=True
        )
        for name in ("entries", "hits", "misses", "raw_bytes"):
            assert found[name] == sum(each[name] for each in spaces)
        assert found["bytes"] > found["raw_bytes"]
        assert found["hit_rate"] == found["hits"] / (found["hits"] + found["misses"])
        assert found["seconds_saved"] == pytest.approx(
            sum(each["seconds_saved"] for each in spaces), abs=0.01
        )
        [sizes] = found["batch_sizes"]
        assert (sizes["size"], sizes["model"]) == (1024, realistic.BATCHES["model"])
        for each in spaces:
            assert sum(day["hits"] for day in each["days"]) == each["hits"]
            assert each["growth"][-1][1] == each["entries"]
            assert each["raw_bytes"] == each["entries"] * each["dim"] * 4
            assert each["last_used"] == each["days"][-1]["date"]
            assert each["last_written"] == pytest.approx(time.time(), abs=600)

    def test_of_one_namespace(self, run: Run, filled: Path) -> None:
        namespace, *_ = realistic.MODELS[3]
        found = json.loads(run(filled, "--json", "-n", namespace.id.hex()[:8]).stdout)
        assert [each["id"] for each in found["namespaces"]] == [namespace.id.hex()]


class TestHealth:
    def test_deep_finds_damaged_rows(self, run: Run, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path / "store") as store:
            put(store, MODEL, texts_of(10))
        assert "10 rows checked, none damaged" in run(tmp_path / "store", "--deep").stdout
        [vectors] = (tmp_path / "store" / "vectors").glob("*.vec")
        content = bytearray(vectors.read_bytes())
        content[-10] ^= 1
        vectors.write_bytes(content)
        assert run(tmp_path / "store").exit_code == 0, "rows are looked at only if asked for"
        deep = run(tmp_path / "store", "--deep")
        assert deep.exit_code == 1
        assert "1 damaged rows" in deep.stdout

    def test_a_ledger_that_cannot_be_looked_at(self, run: Run, tmp_path: Path) -> None:
        """Of a copy that has SQLite's log, and not the memory shared by its writers."""
        with EmbeddingStore(tmp_path / "open") as store:
            put(store, MODEL, texts_of(10))
            shutil.copytree(tmp_path / "open", tmp_path / "copy")
        (tmp_path / "copy" / "cache.db-shm").unlink()
        before = files(tmp_path / "copy")
        shown = run(tmp_path / "copy")
        assert shown.exit_code == 0, shown.output
        assert "not checked: " in shown.stdout
        assert files(tmp_path / "copy") == before

    def test_a_damaged_ledger(self, run: Run, tmp_path: Path) -> None:
        with EmbeddingStore(tmp_path / "store") as store:
            put(store, MODEL, texts_of(10))
        ledger_rows(tmp_path / "store", "UPDATE Cache SET value = zeroblob(32) WHERE key = X'4D'")
        shown = run(tmp_path / "store")
        assert shown.exit_code == 1, shown.output
        assert "does not match its checksum" in shown.stdout

    def test_no_store(self, run: Run, tmp_path: Path) -> None:
        shown = run(tmp_path / "mistyped")
        assert shown.exit_code == 2
        assert not (tmp_path / "mistyped").exists()


def test_writes_nothing(run: Run, filled: Path) -> None:
    before = files(filled)
    assert run(filled, "--deep").exit_code == 0
    assert files(filled) == before


def test_reads_what_may_not_be_written(run: Run, tmp_path: Path) -> None:
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(3))
        check(store, MODEL, texts_of(3))
    for path in (location, *location.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    shown = run(location)
    for path in (location, location / "vectors"):
        path.chmod(0o700)
    assert shown.exit_code == 0, shown.output
    assert "3 of 3 texts" in shown.stdout


def test_workers_and_their_claims_are_seen(tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(1))
    worker = start_python(
        "import sys\n"
        "from embstore import EmbeddingStore\n"
        "from tests.helpers import *\n"
        "store = EmbeddingStore(sys.argv[1], on_error='raise')\n"
        "backend = store._backend\n"
        "backend.claim(OTHER, store.digests(texts_of(7, 100)), b'o' * 16, 7)\n"
        "print('claimed', flush=True)\n"
        "sys.stdin.read()\n",
        tmp_path,
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "claimed\n"
    busy = survey(str(tmp_path)).now
    assert (busy.workers, busy.claimed) == (1, 7)
    worker.kill()
    worker.communicate()
    left = survey(str(tmp_path)).now
    assert (left.workers, left.claimed) == (0, 0), "it left its claim behind"


def test_days_of_several_namespaces_are_one(filled: Path) -> None:
    found = survey(str(filled))
    assert isinstance(found, Survey)
    assert len(found.days) == len(
        {day.date for space in found.spaces for day in space.history.days}
    )
    assert sum(day.hits for day in found.days) == found.hits
    assert found.growth[-1][1] == found.entries
    last: Day = found.days[-1]
    assert last.entries == sum(space.history.days[-1].entries for space in found.spaces)


def test_look_ups_are_no_writing(filled: Path) -> None:
    """After compacting, growth is known by the days with look-ups."""
    info = survey(str(filled)).spaces[0].info
    grown = ((100.0, 5), (200.0, 7), (300.0, 7), (400.0, 6))
    assert Space(info, History(growth=grown)).last_written == 200.0
    assert Space(info, History()).last_written is None
    ahead = ((time.time() + 1000, 5),)
    assert Space(info, History(growth=ahead)).last_written == pytest.approx(time.time(), abs=60)


def test_nothing_known_grows_together() -> None:
    assert together([]) == together([History().growth]) == []


@pytest.mark.parametrize("text", ["all-MiniLM-L6-v2", "naïve ☃ 模型", "a b"])
def test_what_people_read_is_left_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_a_store_of_another_user(run: Run, tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "store") as store:
        store.put_many(MODEL, ["a"], np.ones((1, 2), np.float32))
    for path in (tmp_path / "store", *(tmp_path / "store").rglob("*")):
        os.chown(path, 12345, 12345)
    before = files(tmp_path / "store")
    assert run(tmp_path / "store").exit_code == 0
    assert files(tmp_path / "store") == before
