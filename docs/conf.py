"""The docs as a site: ``make docs``. Links that lead nowhere are warnings, and warnings are errors.

Pages are written for GitHub as well, so they link to files; what only the site has, the reference
of the API, is made here from the docstrings.
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util.nodes import make_refnode

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from embstore import __version__  # noqa: E402

project = "embstore"
author = "The embstore authors"
copyright = "the embstore authors, Apache-2.0"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
source_suffix = {".md": "markdown"}
html_theme = "furo"
html_title = f"embstore {release}"
html_copy_source = False
highlight_language = "none"  # of indented blocks: commands, layouts of files

myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# A class of ours must be found, and so must whatever a docstring calls by its name. Of others'
# classes there is no inventory without a network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:(class|obj|exc|data)", r"(?!embstore\b).*"),
    (r"py:class", r"embstore\.(.*\.)?_\w+"),  # parents that are nobody's business
]
# What signatures and parents show, and nobody looks up.
nitpick_ignore = [
    ("py:func", "digest"),
    ("py:class", "embstore.testing.sharing.SharingConformance"),
    ("py:class", "embstore.backends.rows.RowFormat"),
    ("py:attr", "Operation.seconds"),
    ("py:class", "embstore.decorator.F"),
    ("py:class", "embstore.delegate.Delegate"),
    ("py:class", "embstore.faults.Warnings"),
    ("py:class", "embstore.batching.report.Section"),
]

MODULES = re.compile(r"^<!-- modules of (\S+) -->$", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[(?P<text>[^\]\n]+)\]\((?P<path>[^)#:\s]+)(#[^)\s]*)?\)")


def public_modules(package: str) -> list[str]:
    """The modules of a package that have an extra of their name: others are parts of these."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {extra.replace("-", "_") for extra in project["optional-dependencies"]}
    folder = ROOT.joinpath(*package.split("."))
    return [f"{package}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem in extras]


def for_the_site(app: Sphinx, page: str, source: list[str]) -> None:
    """What differs from GitHub: sections for the modules of a package, in the place of a comment
    that asks for them; and links that lead out of the docs."""

    def sections(match: re.Match[str]) -> str:
        return "\n".join(
            f"## {name}\n\n```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            for name in public_modules(match[1])
        )

    here = Path(app.env.doc2path(page)).parent

    def link(match: re.Match[str]) -> str:
        target = here / match["path"]
        if not target.exists() or target.resolve().is_relative_to(DOCS):
            return match[0]
        if target.name == "README.md":
            return f"[{match['text']}](/index.md)"
        if target.is_dir():
            return f"{match['text']} (`{target.resolve().relative_to(ROOT)}`)"
        # Of the same text as its link is; whoever reads the site can still open the file.
        return f"{{download}}`{match['text'].strip('`')} <{match['path']}>`"

    source[0] = LINK.sub(link, MODULES.sub(sections, source[0]))


def find_elsewhere(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Element
) -> nodes.Element | None:
    """Find what docstrings name otherwise than the reference does: as they may in its own module,
    or by that module. There must be one thing of that name."""
    target: str = node["reftarget"]
    if node.get("refdomain") != "py":
        return None
    if target.startswith("embstore."):
        target = target.rpartition(".")[2]
    elif node["reftype"] == "attr":
        target = target.rpartition(".")[0]  # they are listed with their class, without anchors
    elif target.startswith("__"):
        target = node.get("py:class") or target  # and so are these not listed at all
    found = {
        (entry.docname, entry.node_id)
        for name, entry in env.domains.python_domain.objects.items()
        if f".{name}".endswith(f".{target}") and entry.objtype != "module"
    }
    if len(found) != 1:
        return None
    ((page, anchor),) = found
    return make_refnode(app.builder, node["refdoc"], page, anchor, content)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", for_the_site)
    app.connect("missing-reference", find_elsewhere)
