"""The page: whole, safe, and in need of nothing else."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from embstore.batching import sweep
from embstore.batching.report import Section, html_table, text_table, write_report

HOSTILE = '<script>alert("&")</script>'
_VOID = {"meta", "img"}


class Page(HTMLParser):
    """What a page has in it; fails if an element is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in _VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture(scope="module")
def section() -> Section:
    def embed(texts: list[str]) -> list[list[float]]:
        return [[1.0] for _ in texts]

    return sweep(embed, ["a", "b"], [1, 2], 1, model_name=HOSTILE).section()


@pytest.fixture
def page(section: Section, tmp_path: Path) -> Page:
    write_report(tmp_path / "report.html", [section, section])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    return Page((tmp_path / "report.html").read_text(encoding="utf-8"))


def test_has_tables_and_pictures(page: Page, section: Section) -> None:
    assert page.tags.count("table") == page.tags.count("img") == page.tags.count("section") == 2
    assert {"html", "title", "meta", "h1", "h2"} <= set(page.tags)
    for text in ("p95 ms", *section.conclusions, *section.environment.values()):
        assert text in page.text


def test_loads_nothing(page: Page) -> None:
    assert not {"script", "link", "iframe"} & set(page.tags)
    assert len(page.links) == 2
    for link in page.links:
        kind, _, data = link.partition(",")
        assert kind == "data:image/svg+xml;base64"
        svg = ElementTree.fromstring(base64.b64decode(data))
        assert svg.tag == "{http://www.w3.org/2000/svg}svg"


def test_names_are_text(page: Page) -> None:
    assert HOSTILE in page.text


def test_what_was_there_outlives_a_failure(tmp_path: Path, section: Section) -> None:
    path = tmp_path / "none" / "report.html"
    with pytest.raises(FileNotFoundError):
        write_report(path, [section])
    assert not list(tmp_path.iterdir())


def test_a_section_is_text_too(section: Section) -> None:
    text = str(section)
    assert text.startswith(f"{section.title}\n{section.setup}\n\n| batch size |")
    assert all(f"- {sentence}" in text for sentence in section.conclusions)
    assert f"python: {section.environment['python']}" in text


def test_cells_cannot_break_a_table() -> None:
    cells = [("name", "n"), ("a|b", "1"), ("<b>", "22")]
    lines = text_table(cells).splitlines()
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {3}
    assert "&lt;b&gt;" in html_table(cells)
