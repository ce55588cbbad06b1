"""What is published: built here, looked at, and installed where there is nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from embstore import __version__

ROOT = Path(__file__).parents[1]
CORE = {"numpy", "xxhash", "diskcache", "platformdirs", "tqdm"}
SECONDS = 240


def build(source: Path, target: Path) -> list[Path]:
    """Build what is published of a source tree, without a network; returns the files."""
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(target)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return sorted(target.iterdir())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Sdist and wheel of this tree, in that order."""
    target = tmp_path_factory.mktemp("dist")
    files = build(ROOT, target)
    assert [file.name for file in files] == [
        f"embstore-{__version__}-py3-none-any.whl",
        f"embstore-{__version__}.tar.gz",
    ]
    return files[::-1]


@pytest.fixture(scope="module")
def sdist(built: list[Path]) -> Path:
    return built[0]


@pytest.fixture(scope="module")
def wheel(built: list[Path]) -> Path:
    return built[1]


class TestWheel:
    def test_it_has_the_package_and_nothing_else(self, wheel: Path) -> None:
        names = set(zipfile.ZipFile(wheel).namelist())
        about = f"embstore-{__version__}.dist-info"
        package = {name for name in names if not name.startswith(f"{about}/")}
        here = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "embstore").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert package == here
        assert "embstore/py.typed" in package
        assert f"{about}/licenses/LICENSE" in names

    def test_it_names_no_machine(self, wheel: Path) -> None:
        paths = re.compile(rb"/(?:home|root|work|Users)/\w+")
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                assert not paths.search(archive.read(name)), name

    def test_the_metadata_are_valid(self, wheel: Path) -> None:
        raw = zipfile.ZipFile(wheel).read(f"embstore-{__version__}.dist-info/METADATA")
        metadata = Metadata.from_email(raw, validate=True)
        assert str(metadata.version) == __version__
        assert metadata.description_content_type == "text/markdown"
        assert metadata.description == (ROOT / "README.md").read_text()
        needed = {each.name for each in metadata.requires_dist or () if each.marker is None}
        assert needed == CORE

    def test_only_extras_need_more(self, wheel: Path) -> None:
        raw = zipfile.ZipFile(wheel).read(f"embstore-{__version__}.dist-info/METADATA")
        message = message_from_bytes(raw)
        for line in message.get_all("Requires-Dist", []):
            requirement = Requirement(line)
            assert requirement.marker is not None or requirement.name in CORE
        # mteb and chroma bring hundreds of MB: "all" would be a trap.
        assert "all" not in message.get_all("Provides-Extra", [])


class TestSdist:
    def test_it_has_all_that_building_and_testing_need(self, sdist: Path) -> None:
        with tarfile.open(sdist) as archive:
            names = {name.partition("/")[2] for name in archive.getnames()}
        for needed in ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "Makefile"):
            assert needed in names
        for file in ("embstore/py.typed", "tests/conftest.py", "docs/index.md", "docs/conf.py"):
            assert file in names
        assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]

    def test_its_wheel_is_the_wheel(self, sdist: Path, wheel: Path, tmp_path: Path) -> None:
        with tarfile.open(sdist) as archive:
            archive.extractall(tmp_path, filter="data")
        [tree] = tmp_path.iterdir()
        again = build(tree, tmp_path / "dist")[0]
        assert again.name == wheel.name
        assert again.read_bytes() == wheel.read_bytes()


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel and its requirements, and no more."""
    place = tmp_path_factory.mktemp("empty") / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place)], check=True)
    python = place / "bin" / "python"
    # This environment's pip works for that one too; making one there takes some seconds.
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run([*pip, str(wheel)], capture_output=True, text=True, check=False)
    if done.returncode and ("No matching distribution" in done.stderr):
        pytest.skip(f"no index to install the requirements from: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return python


@pytest.mark.timeout(SECONDS)
class TestCoreAlone:
    def run(self, python: Path, code: str, folder: Path) -> str:
        """What code prints in a process of that environment, with warnings as errors."""
        done = subprocess.run(
            [python, "-I", "-W", "error", "-c", textwrap.dedent(code)],
            cwd=folder,
            env=clean(folder),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout

    def test_there_is_nothing_else(self, python: Path, tmp_path: Path) -> None:
        listed = self.run(
            python,
            """
            from importlib.metadata import distributions
            print(*sorted(each.metadata["Name"].lower() for each in distributions()))
            """,
            tmp_path,
        )
        assert set(listed.split()) == {"embstore", *CORE}

    def test_two_processes_share_a_store(self, python: Path, tmp_path: Path) -> None:
        self.run(
            python,
            """
            import numpy as np
            from embstore import EmbeddingStore, Namespace

            with EmbeddingStore("store", on_error="raise") as store:
                store.put_many(Namespace("m"), ["a", "b"], np.eye(2, dtype="float32"))
            """,
            tmp_path,
        )
        found = self.run(
            python,
            """
            from embstore import EmbeddingStore, Namespace

            vectors, found = EmbeddingStore("store").get_many(Namespace("m"), ["b", "a", "c"])
            print(found.tolist(), vectors.tolist())
            """,
            tmp_path,
        )
        assert found == "[True, True, False] [[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]\n"

    def test_functions_are_cached(self, python: Path, tmp_path: Path) -> None:
        printed = self.run(
            python,
            """
            import asyncio
            from embstore import CachedEncoder, EmbeddingStore, cached

            calls = []

            def model(texts):
                calls.append(texts)
                return [[float(len(text)), 1.0] for text in texts]

            store = EmbeddingStore(on_error="raise")
            encoder = CachedEncoder(model, store, model_name="m")
            encoder.encode(["one", "three", "one"])
            encoder.encode(["three"])
            asyncio.run(encoder.aencode("three"))

            function = cached(store, model_name="f")(model)
            function(["one"]), function("one")
            print(calls, store.location)
            """,
            tmp_path,
        )
        # Longest first, as batches are made.
        assert printed == f"[['three', 'one'], ['one']] {tmp_path / 'home'}\n"

    def test_the_command_says_what_it_needs(self, python: Path, tmp_path: Path) -> None:
        done = subprocess.run(
            [python.with_name("embstore"), "stats"],
            env=clean(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr == "the command line needs an extra: pip install 'embstore[cli]'\n"

    def test_every_module_can_be_imported_or_names_its_extra(
        self, python: Path, tmp_path: Path
    ) -> None:
        printed = self.run(
            python,
            """
            import importlib, pkgutil
            import embstore

            for module in pkgutil.walk_packages(embstore.__path__, "embstore."):
                if module.name.startswith("embstore.cli"):
                    continue  # behind the command, which says it
                try:
                    importlib.import_module(module.name)
                except ImportError as error:
                    print(module.name, "|", error)
            """,
            tmp_path,
        )
        missing = dict(line.split(" | ") for line in printed.splitlines())
        # The suite for backends is for those who have pytest.
        in_tests = {name for name in missing if name.startswith("embstore.testing")}
        assert {missing.pop(name) for name in in_tests} <= {"No module named 'pytest'"}

        extras = extras_of(python, self, tmp_path)
        integrations = {f"embstore.integrations.{extra.replace('-', '_')}" for extra in extras}
        integrations &= {f"embstore.integrations.{name}" for name in stems("embstore/integrations")}
        assert "embstore.integrations.langchain" in integrations
        # Batches come as frames and dicts: that module takes them from Ray without importing it.
        assert integrations - {"embstore.integrations.ray"} <= missing.keys()
        for name, message in missing.items():
            if name.startswith("embstore.integrations.") and name not in integrations:
                continue  # part of another module, which says it
            named = re.search(r"pip install 'embstore\[([\w,-]+)\]'", message)
            assert named, f"{name}: {message}"
            assert set(named[1].split(",")) <= extras, f"{name}: there is no extra {named[1]}"

    def test_plots_name_their_extra(self, python: Path, tmp_path: Path) -> None:
        printed = self.run(
            python,
            """
            from embstore.batching import hit_rates

            measured = hit_rates(["a", "b", "a"])
            for wanted in (lambda: measured.plot("a.png"), measured.figure, measured.to_pandas):
                try:
                    wanted()
                except ImportError as error:
                    print(error)
            """,
            tmp_path,
        )
        assert printed.count("pip install 'embstore[bench]'") == 3

    def test_a_model_by_name_says_what_it_needs(self, python: Path, tmp_path: Path) -> None:
        printed = self.run(
            python,
            """
            from embstore import CachedEncoder

            try:
                CachedEncoder("all-MiniLM-L6-v2").encode(["a"])
            except ImportError as error:
                print(error)
            """,
            tmp_path,
        )
        assert "pip install 'embstore[sentence-transformers]'" in printed


def stems(package: str) -> set[str]:
    """The modules of a package of this tree."""
    return {path.stem for path in (ROOT / package).glob("[a-z]*.py")}


def clean(folder: Path) -> dict[str, str]:
    """An environment without what this process was told of Python."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**kept, "EMBSTORE_HOME": str(folder / "home")}


def extras_of(python: Path, test: TestCoreAlone, folder: Path) -> set[str]:
    """The extras that the installed package offers."""
    code = """
        from importlib.metadata import metadata
        print(*metadata("embstore").get_all("Provides-Extra"))
    """
    return set(test.run(python, code, folder).split())


@pytest.mark.skipif(shutil.which("git") is None, reason="asks git")
def test_no_secret_is_published(sdist: Path) -> None:
    """Only what git tracks, or would, goes into the sdist."""
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    ignored = subprocess.run(
        ["git", "check-ignore", "--stdin"],
        cwd=ROOT,
        input="\n".join(name for name in names if name not in ("PKG-INFO", "")),
        capture_output=True,
        text=True,
        check=False,
    )
    if ignored.returncode == 128:
        pytest.skip("not in a repository")
    assert ignored.stdout == ""
