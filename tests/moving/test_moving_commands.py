"""export, import, merge and bake on the command line."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner, Result

from embstore import EmbeddingStore
from embstore.cli import moving
from embstore.cli.app import root
from embstore.cli.errors import Commands
from tests.helpers import MODEL, ROOT, check, put, texts_of
from tests.moving.stores import ALL, LAYOUTS, SEED, TEXTS, fill, found_in

Run = Callable[..., Result]


def commands() -> typer.Typer:
    app = typer.Typer(cls=Commands, rich_markup_mode="rich", pretty_exceptions_enable=False)
    app.callback()(root)
    app.command()(moving.export)
    app.command(name="import")(moving.import_)
    app.command()(moving.merge)
    app.command()(moving.bake)
    return app


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs one command line; the default store is ``tmp_path / "store"``, which is filled."""
    monkeypatch.setenv("EMBSTORE_HOME", str(fill(tmp_path / "store")))
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(commands(), [str(argument) for argument in arguments])

    return run


@pytest.mark.parametrize("suffix", ["parquet", "safetensors", "npz"])
def test_there_and_back(run: Run, tmp_path: Path, suffix: str) -> None:
    file, new = tmp_path / f"x.{suffix}", tmp_path / "new"
    result = run("export", file)
    assert result.exit_code == 0, result.stderr
    assert f"x.{suffix}: {ALL} vectors of {len(LAYOUTS)} namespaces, " in result.stdout
    for stored in (ALL, 0):
        result = run("import", file, "--store", new)
        assert result.exit_code == 0, result.stderr
        assert f"{new}: {ALL} vectors of 7 namespaces, {stored} of them new" in result.stdout
        assert not result.stderr
    assert found_in(new) == ALL


def test_as_json(run: Run, tmp_path: Path) -> None:
    here, file, new = tmp_path / "store", tmp_path / "x.npz", tmp_path / "new"
    counts = {"namespaces": 7, "rows": ALL, "stored": ALL, "damaged": 0}
    said = json.loads(run("export", file, "--json").stdout)
    assert said == {"store": str(here), "file": str(file), "bytes": file.stat().st_size, **counts}
    said = json.loads(run("import", file, "-s", new, "--json").stdout)
    assert said == {"store": str(new), "file": str(file), **counts}
    said = json.loads(run("merge", here, new, "-s", tmp_path / "all", "--json").stdout)
    counts["rows"] = 2 * ALL
    assert said == {"store": str(tmp_path / "all"), "sources": [str(here), str(new)], **counts}
    said = json.loads(run("bake", tmp_path / "baked", "--json").stdout)
    size = sum(path.stat().st_size for path in (tmp_path / "baked").rglob("*") if path.is_file())
    counts["rows"] = ALL
    expected = {"store": str(here), "directory": str(tmp_path / "baked"), "bytes": size}
    assert said == {**expected, **counts}


def test_one_model_or_namespace(run: Run, tmp_path: Path) -> None:
    both, one, file = "one/model", next(iter(LAYOUTS)).id.hex()[:10], tmp_path / "x.npz"
    new = tmp_path / "new"
    assert "120 vectors of 2 namespaces" in run("export", file, "-n", both).stdout
    assert "60 vectors of 1 namespace," in run("import", file, "-n", one, "-s", new).stdout
    assert "60 vectors of 1 namespace," in run("merge", new, "-s", tmp_path / "all").stdout
    assert "120 vectors of 2 namespaces" in run("bake", tmp_path / "b", "-n", both).stdout
    with EmbeddingStore(tmp_path / "new", read_only=True) as store:
        (info,) = store.namespaces()
        assert info.namespace.id.hex().startswith(one)
        assert all(check(store, info.namespace, TEXTS))


def test_a_namespace_that_several_sources_have(run: Run, tmp_path: Path) -> None:
    """By the beginning of its id, which then stands there twice."""
    one = next(iter(LAYOUTS))
    fill(tmp_path / "other")
    EmbeddingStore(tmp_path / "empty", seed=SEED).close()
    arguments = ("merge", tmp_path / "store", tmp_path / "other", tmp_path / "empty")
    result = run(*arguments, "-n", one.id.hex()[:8], "--store", tmp_path / "all")
    assert "120 vectors of 1 namespace, 60 of them new" in result.stdout, result.stderr


def test_a_file_is_replaced_only_by_force(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "x.npz"
    file.write_text("mine")
    result = run("export", file)
    assert (result.exit_code, file.read_text()) == (2, "mine")
    assert "is there already: --force replaces it" in result.stderr
    assert run("export", file, "--force").exit_code == 0
    assert run("export", tmp_path / "x.bin", "--format", "npz").exit_code == 0
    assert (tmp_path / "x.bin").read_bytes() == file.read_bytes()


def test_bad_input(run: Run, tmp_path: Path) -> None:
    EmbeddingStore(tmp_path / "empty").close()
    with EmbeddingStore(tmp_path / "alien", on_error="raise") as store:
        put(store, MODEL, ["a"])
    run("export", tmp_path / "x.npz")
    (tmp_path / "text.npz").write_text("text")
    before = sorted(tmp_path.rglob("*"))
    for arguments, said in [
        (("export", tmp_path / "y.csv"), "name it .parquet, .safetensors or .npz"),
        (("export", tmp_path), "is a directory"),
        (("export", tmp_path / "no" / "y.npz"), "there is no directory"),
        (("export", tmp_path / "y.npz", "-n", "nobody"), "no namespaces match 'nobody'"),
        (("export", tmp_path / "y.npz", "-s", tmp_path / "none"), "holds no store"),
        (("export", tmp_path / "y.npz", "-s", tmp_path / "empty"), "no vectors in"),
        (("import", tmp_path / "y.npz"), "No such file"),
        (("import", tmp_path / "text.npz"), "is damaged, or was not written by embstore"),
        (("import", tmp_path / "x.npz", "-s", tmp_path / "alien"), "has another seed than"),
        (("merge", tmp_path / "alien"), "has another seed than"),
        (("merge", tmp_path / "store"), "cannot be a source"),
        (("merge", tmp_path / "none"), "holds no store"),
        (("bake", tmp_path / "alien"), "is there already"),
        (("bake", tmp_path / "y", "-s", tmp_path / "empty"), "no vectors in"),
    ]:
        result = run(*arguments)
        assert result.exit_code == 2, arguments
        assert said in result.stderr, (arguments, result.stderr)
        assert result.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_a_damaged_file(run: Run, tmp_path: Path) -> None:
    run("export", tmp_path / "x.safetensors")
    raw = bytearray((tmp_path / "x.safetensors").read_bytes())
    raw[-1] ^= 1
    (tmp_path / "x.safetensors").write_bytes(raw)
    result = run("import", tmp_path / "x.safetensors", "--store", tmp_path / "new")
    assert result.exit_code == 2
    assert f"1 do not match their checksums, and {ALL - 1} are sound; these are in" in result.stderr
    assert found_in(tmp_path / "new") == ALL - 1


def test_damaged_rows_of_a_store_are_told(run: Run, tmp_path: Path) -> None:
    with EmbeddingStore(tmp_path / "s", seed=SEED, on_error="raise") as store:
        put(store, MODEL, texts_of(5))
    (vectors,) = (tmp_path / "s" / "vectors").iterdir()
    raw = bytearray(vectors.read_bytes())
    raw[-1] ^= 1
    vectors.write_bytes(raw)
    for arguments in (
        ("export", tmp_path / "x.npz", "-s", tmp_path / "s"),
        ("merge", tmp_path / "s", "-s", tmp_path / "all"),
        ("bake", tmp_path / "baked", "-s", tmp_path / "s"),
    ):
        result = run(*arguments)
        assert result.exit_code == 0
        assert "4 vectors of 1 namespace" in result.stdout
        assert "1 damaged rows were left out" in result.stderr


def test_a_terminal_shows_how_far_it_is(tmp_path: Path) -> None:
    """The bar counts the vectors that are moved, to the last."""
    with EmbeddingStore(tmp_path / "s", seed=SEED) as store:
        store.put_many(MODEL, texts_of(9000), np.ones((9000, 2), np.float32))
    lines = ["export x.npz -s s", "import x.npz -s new", "merge s -s all", "bake baked -s s"]
    code = (
        "import sys; from tests.moving.test_moving_commands import commands\n"
        "for line in sys.argv[1:]: commands()(line.split(), standalone_mode=False)"
    )
    here, there = pty.openpty()
    termios.tcsetwinsize(there, (24, 100))
    process = subprocess.Popen(
        [sys.executable, "-c", code, *lines],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=there,
    )
    os.close(there)
    shown = b""
    with contextlib.suppress(OSError):  # EIO: nobody has the other end any more
        while part := os.read(here, 65536):
            shown += part
    os.close(here)
    assert process.wait(60) == 0, shown
    assert shown.count(b"100%") == len(lines), shown
    assert shown.count(b"9.00k/9.00k") == len(lines)
    assert b"vectors/s" in shown
