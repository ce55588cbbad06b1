"""What the release workflow relies on."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import embstore

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / ".github" / "release_notes.py"
CHANGELOG = """# Changelog

## [Unreleased]

### Added

- Not out yet.

## [2.0.0] - 2027-01-31

### Added

- New.

## [1.0.0] - unreleased

- Old.

## [0.9.0] - 2026-01-01
"""


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("release_notes", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_version_stands_in_one_place(script: Any) -> None:
    assert script.version() == embstore.__version__
    assert not re.search(r"^version\s*=", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)


def test_the_notes_are_the_section_of_the_version(script: Any) -> None:
    assert script.notes("v2.0.0", "2.0.0", CHANGELOG) == "### Added\n\n- New."


@pytest.mark.parametrize(
    "tag, version, complaint",
    [
        ("v2.0.1", "2.0.0", "the tag is v2.0.1, but embstore/__init__.py has 2.0.0"),
        ("2.0.0", "2.0.0", "the tag is 2.0.0"),
        ("v3.0.0", "3.0.0", "has no section"),
        ("v2x0.0", "2x0.0", "has no section"),
        ("v1.0.0", "1.0.0", "'unreleased' where the date"),
        ("v0.9.0", "0.9.0", "says nothing of 0.9.0"),
    ],
)
def test_what_may_not_be_released(script: Any, tag: str, version: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)):
        script.notes(tag, version, CHANGELOG)


def test_a_wrong_tag_stops_the_workflow() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "v0.0.0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("error: the tag is v0.0.0")


def test_the_changelog_has_what_a_release_needs() -> None:
    heads = re.findall(r"^## .*$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert heads[0] == "## [Unreleased]"
    for head in heads[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d|unreleased)", head)


def test_nothing_is_published_untested() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    assert workflow["permissions"] == {}
    jobs = workflow["jobs"]
    assert [jobs[name].get("needs") for name in ("build", "publish", "announce")] == [
        None,
        "build",
        "publish",
    ]
    commands = [step.get("run", "") for step in jobs["build"]["steps"]]
    built = next(number for number, run in enumerate(commands) if "python -m build" in run)
    assert ".ci/run" in commands[:built]
    # Only the job that publishes can say who it is, and it runs no code of ours.
    allowed = {name: set(job["permissions"]) for name, job in jobs.items()}
    assert allowed == {"build": {"contents"}, "publish": {"id-token"}, "announce": {"contents"}}
    assert jobs["build"]["permissions"] == {"contents": "read"}
    assert not any("run" in step for step in jobs["publish"]["steps"])
