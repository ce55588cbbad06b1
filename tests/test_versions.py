"""What snapshot.py reads of installed distributions is what importlib.metadata says."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from embstore import snapshot


@pytest.mark.parametrize(
    "name", ["sentence-transformers", "transformers", "torch", "numpy", "no-such-distribution"]
)
def test_installed(name: str) -> None:
    try:
        expected = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        expected = None
    assert snapshot._version(name) == expected


def made(folder: Path, name: str, version: str, said: str | None = None) -> None:
    """A distribution's folder, as an installer leaves it."""
    found = folder / f"{name}-{version}.dist-info"
    found.mkdir(parents=True)
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {said or version}\n"
    (found / "METADATA").write_text(metadata)


def test_the_first_on_the_path_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "first", "some_thing", "1.0+cpu")
    made(tmp_path / "second", "some_thing", "2.0")
    path = [str(tmp_path / name) for name in ("not-there", "first", "second")]
    monkeypatch.setattr(sys, "path", [*path, *sys.path])
    assert snapshot._version("some-thing") == importlib.metadata.version("some-thing") == "1.0+cpu"


def test_what_a_broken_installation_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, "some_thing", "1.0")
    made(tmp_path, "some_thing", "2.0")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert snapshot._version("some-thing") == importlib.metadata.version("some-thing")


def test_a_process_that_looks_up_imports_neither(tmp_path: Path, model_path: str) -> None:
    """importlib.metadata and numpy.ma take 26 ms together."""
    script = f"""
import sys
from embstore import CachedEncoder
encoder = CachedEncoder({model_path!r}, {str(tmp_path / "store")!r}, device="cpu")
encoder.encode([f"text {{number}}" for number in range(100)])
print(*({{"importlib.metadata", "numpy.ma", "torch"}} & sys.modules.keys()))
"""
    told = [
        subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
        for _ in range(2)
    ]
    assert told[0].stdout.split()
    assert not told[1].stdout.split()
