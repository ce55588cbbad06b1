"""What all commands have in common: completion, JSON, errors, bars and colours."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import Result

from embstore import EmbeddingStore, Namespace
from embstore.cli import stores
from embstore.cli.app import app
from tests.helpers import put, texts_of

Run = Callable[..., Result]

COMMAND = [sys.executable, "-m", "embstore.cli"]
MODEL = Namespace("org/[draft]-model")


def commands(group: Any, *above: str) -> Iterator[tuple[str, Any]]:
    """Every command with its name as it is typed."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, *above, name)
        else:
            yield " ".join((*above, name)), command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    location = tmp_path / "store"
    with EmbeddingStore(location) as store:
        put(store, MODEL, texts_of(500))
    return location


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_gives_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert "--json" in options


def complete(words: str, **environment: str) -> list[str]:
    """What a shell offers behind these words."""
    given = os.environ | environment
    given |= {"_EMBSTORE_COMPLETE": "complete_bash", "COMP_WORDS": f"embstore {words}"}
    given["COMP_CWORD"] = str(len(words.split(" ")))
    script = Path(sys.executable).with_name("embstore")
    done = subprocess.run([script], env=given, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout.split()


def test_completion_of_commands_and_models(filled: Path, tmp_path: Path) -> None:
    assert "verify" in complete("ver")
    assert complete("clear --namespace org", EMBSTORE_HOME=str(filled)) == ["org/[draft]-model"]
    assert complete("clear --namespace other", EMBSTORE_HOME=str(filled)) == []
    assert complete("clear --namespace org", EMBSTORE_HOME=str(tmp_path / "nowhere")) == []
    assert not (tmp_path / "nowhere").exists(), "asking made a store"


class TestErrors:
    @pytest.fixture
    def broken(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(location: str | None, *, read_only: bool = True) -> EmbeddingStore:
            raise RuntimeError("CUDA out of memory")

        monkeypatch.setattr(stores, "_open", fail)

    @pytest.mark.usefixtures("broken")
    def test_of_no_known_kind_are_a_line_too(self, run: Run) -> None:
        done = run("stats")
        assert done.exit_code == 2
        assert done.stderr == (
            "error: RuntimeError: CUDA out of memory\nembstore --debug shows where it arose\n"
        )
        assert "Traceback" not in done.output

    @pytest.mark.usefixtures("broken")
    def test_debug_shows_where(self, run: Run) -> None:
        done = run("--debug", "stats")
        assert isinstance(done.exception, RuntimeError)

    def test_interrupted(self, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        def interrupt(location: str | None, *, read_only: bool = True) -> EmbeddingStore:
            raise KeyboardInterrupt

        monkeypatch.setattr(stores, "_open", interrupt)
        done = run("stats")
        assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def on_a_terminal(*arguments: object, **environment: str) -> str:
    """What a command writes to a terminal."""
    here, there = pty.openpty()
    fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    given = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", **environment}
    child = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdin=there, stdout=there, stderr=there, env=given
    )
    os.close(there)
    written = b""
    while True:
        try:
            part = os.read(here, 65536)
        except OSError:  # EIO: nobody has the other end any more
            break
        if not part:
            break
        written += part
    os.close(here)
    assert child.wait() == 0, written.decode()
    return written.decode()


@pytest.mark.parametrize("command", ["verify", "compact"])
def test_bars_stand_on_terminals_only(filled: Path, run: Run, command: str) -> None:
    shown = on_a_terminal(command, "--store", filled)
    assert "500/500" in shown
    assert "rows/s" in shown, "the rate"
    assert "00:00<" in shown, "the remaining time"
    assert not run(command).stderr


def test_colours_stand_on_terminals_only(filled: Path, run: Run) -> None:
    head = "\x1b[1m"  # bold
    assert head in on_a_terminal("namespaces", "--store", filled)
    assert "\x1b[3" not in on_a_terminal("namespaces", "--store", filled, NO_COLOR="1")
    assert "\x1b" not in run("namespaces").stdout
