"""The pages of the docs, and what stands in them: code and links."""

from __future__ import annotations

import itertools
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
OTHERS = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
"""They have links and commands, but no examples."""


@dataclass(frozen=True)
class Block:
    """A block of code in a page."""

    page: Path
    line: int
    """The first line of code, from 0."""
    info: str
    """What stands behind the fence: a language, and what is to be known of it. "" if indented."""
    code: str

    @property
    def language(self) -> str:
        """python, pycon, bash, ..."""
        return self.info.partition(" ")[0]

    @property
    def flags(self) -> str:
        """What stands behind the language."""
        return self.info.partition(" ")[2].strip()


def name_of(page: Path) -> str:
    """Its path in the repository."""
    return page.relative_to(ROOT).as_posix()


@cache
def tokens(page: Path) -> list[Token]:
    """A page, parsed as GitHub does."""
    return MarkdownIt("commonmark").enable("table").parse(page.read_text())


@cache
def blocks(page: Path) -> list[Block]:
    """The blocks of code of a page, in order."""
    return [
        Block(page, token.map[0] + (token.type == "fence"), token.info.strip(), token.content)
        for token in tokens(page)
        if token.type in ("fence", "code_block") and token.map
    ]


def links(page: Path) -> list[str]:
    """Where the links and images of a page lead."""
    found = []
    for token in tokens(page):
        for child in token.children or ():
            target = child.attrGet("href") or child.attrGet("src")
            if target is not None:
                found.append(str(target))
    return found


def anchors(page: Path) -> set[str]:
    """What the headings of a page are called in links, as GitHub and MyST do it."""
    found: set[str] = set()
    listed = tokens(page)
    for token, following in itertools.pairwise(listed):
        if token.type == "heading_open":
            text = "".join(child.content for child in following.children or ())
            slug = re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")
            number = sum(
                re.fullmatch(rf"{re.escape(slug)}(-\d+)?", each) is not None for each in found
            )
            found.add(f"{slug}-{number}" if number else slug)
    return found


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Each use of the command line in a page's code: its line, and its words."""
    for block in blocks(page):
        if block.language in ("", "bash", "console", "dockerfile"):
            for number, line in enumerate(block.code.splitlines(), block.line + 1):
                for part in re.split(r"\|(?!\|)|&&|;|\bRUN\b", line):
                    command = part.strip().removeprefix("$ ")
                    # "[OPTIONS]" stands in the usage that the reference shows.
                    if command.startswith("embstore ") and "[OPTIONS]" not in command:
                        yield number, shlex.split(command, comments=True)[1:]
