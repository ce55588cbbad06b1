"""The docs as a site: built strictly, and with everything in it."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from docs import cli_reference
from tests.docs.pages import DOCS, PAGES, ROOT, name_of

STRICT = ["-W", "--keep-going", "-n", "-q", "-E"]


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build a site as ``make docs`` does; offline, and with nothing written beside the pages."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "sphinx",
            *STRICT,
            "-b",
            "html",
            "-d",
            str(target / "doctrees"),
            str(source),
            str(target / "html"),
        ],
        env={**os.environ, "HAYSTACK_TELEMETRY_ENABLED": "False", "ANONYMIZED_TELEMETRY": "False"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built without a warning."""
    target = tmp_path_factory.mktemp("site")
    built = build(DOCS, target)
    assert built.returncode == 0, built.stderr
    return target / "html"


def test_every_page_is_in_the_navigation(site: Path) -> None:
    front = (site / "index.html").read_text()
    navigation = front[front.index('class="sidebar-tree"') : front.index("</aside>")]
    for page in PAGES[1:]:
        name = page.relative_to(DOCS).with_suffix(".html").as_posix()
        assert (site / name).is_file()
        if name != "index.html":
            assert f'href="{name}"' in navigation, f"{name_of(page)} is in no toctree"


def test_every_public_name_is_in_the_reference(site: Path) -> None:
    shown = {
        anchor
        for page in (site / "api").glob("*.html")
        for anchor in re.findall(r'id="(embstore[\w.]*)"', page.read_text())
    }
    names = set()
    for path in (ROOT / "embstore").rglob("*.py"):
        if exported := exported_by(path):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            names |= {f"{module.removesuffix('.__init__')}.{name}" for name in exported}
    assert {"embstore.CachedEncoder", "embstore.batching.sweep"} <= names
    assert {"embstore.integrations.langchain.EmbeddingByteStore"} <= names
    assert names <= shown


def exported_by(path: Path) -> list[str]:
    """What stands in a module's ``__all__``, without importing the module."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def test_the_site_needs_no_other(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|link)[^>]+(?:src|href)="(https?:[^"]+)"', page.read_text()
        )
        assert loaded == [], page.name


def test_the_command_line_is_documented() -> None:
    assert cli_reference.PAGE.read_text() == cli_reference.page(), (
        "docs/cli.md is not what the command line is: run make docs"
    )


def test_every_command_and_option_has_a_help_text() -> None:
    for name, command in cli_reference.commands().items():
        assert command.help, f"{name} says nothing of itself"
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.opts[0]} says nothing of itself"


@pytest.mark.parametrize(
    "text, complaint",
    [
        ("[gone](gone.md)", "gone.md"),
        ("[no heading](conf.md#nope)", "nope"),
        ("```{eval-rst}\n:class:`embstore.Gone`\n```", "embstore.Gone"),
    ],
    ids=["page", "heading", "name"],
)
def test_a_mistake_fails_the_build(tmp_path: Path, text: str, complaint: str) -> None:
    source = tmp_path / "docs"
    source.mkdir()
    conf = (DOCS / "conf.py").read_text()
    (source / "conf.py").write_text(
        conf.replace("ROOT = DOCS.parent", f"ROOT = Path({str(ROOT)!r})")
    )
    (source / "conf.md").write_text("# A page\n")
    (source / "index.md").write_text(f"# Docs\n\n{text}\n\n```{{toctree}}\nconf\n```\n")
    built = build(source, tmp_path / "out")
    assert built.returncode != 0
    assert complaint in built.stderr
