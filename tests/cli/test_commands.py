"""The commands, from arguments to exit code, with the real model and real processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import typer
from sentence_transformers import SentenceTransformer
from typer.testing import Result

from embstore import EmbeddingStore
from embstore.batching.corpus import stdlib_paragraphs
from embstore.cli.app import app
from embstore.errors import StoreError

Run = Callable[..., Result]

TEXTS = ["the cat sat", "on the mat", "", "the cat sat", "naïve ☃ text"]


@pytest.fixture(scope="module")
def bare(model_path: str) -> SentenceTransformer:
    return SentenceTransformer(model_path)


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def warmed(run: Run, lines: Path, model_path: str, tmp_path: Path) -> Path:
    """A store that holds TEXTS."""
    assert run("warm", lines, "--model", model_path).exit_code == 0
    return tmp_path / "store"


class TestEncode:
    def test_writes_the_vectors_of_the_bare_model(
        self, run: Run, lines: Path, model_path: str, bare: SentenceTransformer, tmp_path: Path
    ) -> None:
        arguments = ("encode", lines, "-o", tmp_path / "out.npy", "-m", model_path, "--json")
        cold = json.loads(run(*arguments).stdout)
        vectors = np.load(tmp_path / "out.npy")
        assert np.abs(vectors - bare.encode(TEXTS)).max() <= 1e-6
        assert (cold["total"], cold["misses"], cold["hits"]) == (5, 4, 1)
        assert cold["shape"] == [5, 384]
        assert cold["dtype"] == "float32"
        assert cold["store"] == str(tmp_path / "store")

        warm = json.loads(run(*arguments).stdout)
        assert (warm["misses"], warm["hits"], warm["deduplicated"]) == (0, 5, 1)
        assert np.array_equal(np.load(tmp_path / "out.npy"), vectors)

    def test_prompts_reach_the_model(
        self, run: Run, lines: Path, model_path: str, bare: SentenceTransformer, tmp_path: Path
    ) -> None:
        output = tmp_path / "out.npy"
        result = run("encode", lines, "-o", output, "-m", model_path, "--prompt", "query: ")
        assert result.exit_code == 0
        assert np.abs(np.load(output) - bare.encode(TEXTS, prompt="query: ")).max() <= 1e-6
        assert "4 computed" in result.stdout

    def test_says_what_it_did(
        self, run: Run, lines: Path, model_path: str, warmed: Path, tmp_path: Path
    ) -> None:
        result = run("encode", lines, "-o", tmp_path / "out.npy", "-m", model_path)
        assert result.exit_code == 0
        assert "5 x 384 float32" in result.stdout
        assert "5 texts: 5 hits, 0 computed" in result.stdout

    @pytest.mark.parametrize(
        "arguments,message",
        [
            (["none.txt", "-o", "out.npy"], "none.txt: No such file or directory"),
            (["texts.txt", "-o", "none/out.npy"], "there is no directory"),
            (["texts.txt", "-o", "out.npy", "--column", "c"], "has no column 'c'"),
            (["texts.txt", "-o", "out.npy", "-m", "./none"], "none"),
        ],
    )
    def test_errors_are_one_line_and_exit_code_2(
        self,
        run: Run,
        lines: Path,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(lines.parent)
        result = run("encode", *arguments)
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert "Traceback" not in result.stderr
        assert not (lines.parent / "out.npy").exists()

    def test_a_prompt_name_the_model_has_not_got(
        self, run: Run, lines: Path, model_path: str, tmp_path: Path
    ) -> None:
        output = tmp_path / "out.npy"
        result = run("encode", lines, "-o", output, "-m", model_path, "--prompt-name", "nobody")
        assert result.exit_code == 2
        assert "nobody" in result.stderr

    def test_debug_lets_the_error_through(self, run: Run, tmp_path: Path) -> None:
        result = run("--debug", "encode", tmp_path / "none.txt", "-o", tmp_path / "out.npy")
        assert isinstance(result.exception, FileNotFoundError)

    def test_standard_input_and_no_torch_when_warm(
        self, lines: Path, model_path: str, warmed: Path, tmp_path: Path
    ) -> None:
        script = (
            "import sys, embstore.cli\n"
            "try: embstore.cli.main()\n"
            "finally: assert not {'torch', 'transformers'} & set(sys.modules)"
        )
        options = ("-o", tmp_path / "out.npy", "-m", model_path, "-s", warmed)
        done = subprocess.run(
            [sys.executable, "-c", script, "encode", "-", *options],
            input="on the mat\n",
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        assert "1 texts: 1 hits" in done.stdout
        assert np.load(tmp_path / "out.npy").shape == (1, 384)


class TestWarm:
    def test_csv_cells_keep_their_newlines(self, run: Run, model_path: str, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text('id,body\n1,"two\nlines"\n2,one\n')
        result = run("warm", tmp_path / "a.csv", "-c", "body", "-m", model_path, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["misses"] == 2

    def test_a_store_that_cannot_be_written_is_an_error(
        self, run: Run, lines: Path, model_path: str, tmp_path: Path
    ) -> None:
        (tmp_path / "file").touch()
        result = run("warm", lines, "-m", model_path, "--store", tmp_path / "file")
        assert result.exit_code == 2
        assert str(tmp_path / "file") in result.stderr

    def test_ctrl_c_keeps_what_was_computed(self, model_path: str, tmp_path: Path) -> None:
        source = tmp_path / "many.jsonl"
        source.write_text("\n".join(map(json.dumps, stdlib_paragraphs(3000))))
        options = ("-m", model_path, "-s", tmp_path / "store", "--batch-size", "8")
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "embstore.cli", "warm", source, *options],
            stderr=subprocess.PIPE,
            text=True,
        )
        for entries in entries_of(tmp_path / "store"):
            if entries or child.poll() is not None:
                break
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate()
        assert child.returncode == 130
        assert "is kept in the store" in errors
        assert "Traceback" not in errors
        kept = next(entries_of(tmp_path / "store"))
        assert 0 < entries <= kept < 3000


def entries_of(location: Path) -> Iterator[int]:
    """How many vectors a store holds, read again and again; 0 as long as there is no store."""
    while True:
        try:
            with EmbeddingStore(location, read_only=True) as store:
                yield store.stats().entries
        except StoreError:
            yield 0
        time.sleep(0.05)


class TestStores:
    @pytest.mark.parametrize(
        "command",
        [
            ["stats"],
            ["namespaces"],
            ["verify"],
            ["compact"],
            ["prune", "--max-size", "1MB"],
            ["clear", "--yes"],
        ],
    )
    def test_no_store_is_an_error_and_none_is_made(
        self, run: Run, tmp_path: Path, command: list[str]
    ) -> None:
        result = run(*command, "--store", tmp_path / "mistyped")
        assert result.exit_code == 2
        assert str(tmp_path / "mistyped") in result.stderr
        assert not (tmp_path / "mistyped").exists()

    def test_stats(self, run: Run, warmed: Path) -> None:
        figures = json.loads(run("stats", "--json").stdout)
        assert figures["store"] == str(warmed)
        assert (figures["entries"], figures["namespaces"], figures["computed"]) == (4, 1, 4)
        assert figures["bytes"] >= 4 * 384 * 4
        assert figures["encode_seconds"] > 0
        assert (figures["hits"], figures["misses"]) == (1, 4)
        assert figures["seconds_saved"] > 0
        assert "4, " in run("stats").stdout

    def test_namespaces(self, run: Run, warmed: Path) -> None:
        [info] = json.loads(run("namespaces", "--json").stdout)
        assert len(bytes.fromhex(info["id"])) == 16
        assert info["namespace"]["model_name"]
        assert (info["dim"], info["dtype"], info["entries"]) == (384, "float32", 4)
        assert info["id"][:12] in run("namespaces").stdout

    def test_verify_a_sound_store(self, run: Run, warmed: Path) -> None:
        result = run("verify")
        assert result.exit_code == 0
        assert "4 rows, 0 damaged" in result.stdout
        report = json.loads(run("verify", "--json").stdout)
        assert (report["ok"], report["rows"], report["corrupt"]) == (True, 4, 0)

    def test_verify_a_damaged_store(self, run: Run, warmed: Path) -> None:
        [vectors] = (warmed / "vectors").glob("*.vec")
        content = bytearray(vectors.read_bytes())
        content[-100] ^= 1
        vectors.write_bytes(content)
        result = run("verify", "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert (report["ok"], report["corrupt"]) == (False, 1)
        assert run("verify").exit_code == 1

        assert run("compact").exit_code == 0
        assert run("verify").exit_code == 0

    def test_prune(self, run: Run, warmed: Path) -> None:
        kept = run("prune", "--older-than", "30d", "--max-size", "1GB", "--json")
        assert json.loads(kept.stdout)["pruned"] == 0
        part = run("prune", "--max-size", 2 * 1560 * 1.2, "--json")
        assert json.loads(part.stdout)["pruned"] == 2
        assert "2 vectors deleted" in run("prune", "--max-size", "0").stdout

    @pytest.mark.parametrize(
        "options",
        [(), ("--max-size", "much"), ("--older-than", "soon"), ("--max-size", "1", "-n", "other")],
    )
    def test_prune_nothing_by_mistake(self, run: Run, warmed: Path, options: tuple) -> None:
        result = run("prune", *options)
        assert result.exit_code == 2
        assert len(result.stderr.splitlines()) == 1
        assert json.loads(run("stats", "--json").stdout)["entries"] == 4

    def test_compact_gives_space_back(
        self, run: Run, model_path: str, lines: Path, warmed: Path
    ) -> None:
        [before] = (warmed / "vectors").glob("*.vec")
        size = before.stat().st_size
        with EmbeddingStore(warmed) as store:
            [info] = store.namespaces()
            store.delete_many(info.namespace, TEXTS[:2])
        report = json.loads(run("compact", "--json").stdout)
        assert report["rows"] == 2
        assert report["bytes_after"] < report["bytes_before"]
        [after] = (warmed / "vectors").glob("*.vec")
        assert after.stat().st_size < size

    @pytest.mark.parametrize("answer,code,left", [("n\n", 1, 4), ("", 1, 4), ("y\n", 0, 0)])
    def test_clear_asks(self, run: Run, warmed: Path, answer: str, code: int, left: int) -> None:
        result = run("clear", input=answer)
        assert result.exit_code == code
        assert "4 vectors of" in result.stderr
        assert json.loads(run("stats", "--json").stdout)["entries"] == left

    def test_clear_one_namespace(
        self, run: Run, warmed: Path, lines: Path, model_path: str
    ) -> None:
        run("warm", lines, "-m", model_path, "--prompt", "query: ")
        plain, prompted = sorted(
            json.loads(run("namespaces", "--json").stdout),
            key=lambda info: info["namespace"]["prompt"] or "",
        )
        result = run("clear", "--yes", "--json", "--namespace", prompted["id"][:8].upper())
        assert json.loads(result.stdout)["cleared"] == 4
        [left] = json.loads(run("namespaces", "--json").stdout)
        assert left["id"] == plain["id"]

        name = plain["namespace"]["model_name"]
        assert run("clear", "--yes", "--namespace", name).exit_code == 0
        assert json.loads(run("stats", "--json").stdout)["entries"] == 0

    @pytest.mark.parametrize("wanted", ["", "nobody/none", "0123456789ab"])
    def test_clear_nothing_by_mistake(self, run: Run, warmed: Path, wanted: str) -> None:
        result = run("clear", "--yes", "--namespace", wanted)
        assert result.exit_code == 2
        assert "'embstore namespaces' lists" in result.stderr
        assert json.loads(run("stats", "--json").stdout)["entries"] == 4


class TestHelp:
    def test_examples_stand_a_line_each(self, run: Run) -> None:
        shown = [line.strip() for line in run("--help").stdout.splitlines()]
        assert "embstore encode lines.txt -o vectors.npy" in shown
        assert "embstore demo" in shown

    def test_everything_is_described(self) -> None:
        group = typer.main.get_command(app)
        assert isinstance(group, typer.core.TyperGroup)
        bench = group.commands["bench"]
        assert isinstance(bench, typer.core.TyperGroup)
        assert (len(group.commands), len(bench.commands)) == (19, 3)
        for command in (group, *group.commands.values(), *bench.commands.values()):
            assert command.help
            for parameter in command.params:
                assert getattr(parameter, "help", None), (command.name, parameter.name)

    def test_no_command_shows_the_help(self, run: Run) -> None:
        assert run().exit_code == 2

    def test_version(self, run: Run) -> None:
        assert run("--version").stdout.startswith("embstore 0.")

    def test_without_typer_the_extra_is_named(self) -> None:
        script = "import sys; sys.modules['typer'] = None; import embstore.cli; embstore.cli.main()"
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr == ("the command line needs an extra: pip install 'embstore[cli]'\n")
