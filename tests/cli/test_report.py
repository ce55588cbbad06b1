"""``embstore report``: one page that needs nothing else, looked at in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from embstore import EmbeddingStore, Namespace
from embstore.batching import sweep
from embstore.batching.page import write_page
from embstore.cli import report as command
from embstore.cli.charts import Chart, dots
from embstore.cli.errors import Commands
from embstore.cli.report_page import TITLE
from embstore.cli.report_page import page as page_of
from embstore.cli.report_style import STYLE
from embstore.cli.survey import survey
from tests import browser, realistic
from tests.helpers import put, texts_of

Run = Callable[..., Result]

HOSTILE = '</style><script>alert(1)</script><img src="http://127.0.0.1:9/x" onerror=alert(2)>'
WIDTHS = (1280, 360)
SEEN = "h1, h2, .tiles div, figure, figure svg, .spaces tr, .spaces td, .note, dd, summary"


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A realistic store with a hostile name in it. Not to be changed."""
    location = tmp_path_factory.mktemp("report") / "store"
    realistic.fill(location, 12)
    with EmbeddingStore(location) as store:
        space = Namespace(HOSTILE, prompt=HOSTILE, task='"><b>', extra={"<i>": ["&", "\ud800"]})
        put(store, space, texts_of(5))
        store.get_many(space, texts_of(5))
        store.put_identity(b"hostile sizes...", {**realistic.BATCHES, "model": HOSTILE})
    return location


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep as ``embstore bench batch-size --json`` prints it."""
    path = tmp_path_factory.mktemp("sweep") / "sweep.json"
    found = sweep(
        lambda texts: [[1.0] for _ in texts], texts_of(16), [1, 4, 16], 2, model_name=HOSTILE
    )
    path.write_text(found.to_json())
    return path


def invoke(*arguments: object) -> Result:
    app = typer.Typer(cls=Commands)
    app.callback()(lambda debug=False: None)
    app.command()(command.report)
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


@pytest.fixture(scope="module")
def page(filled: Path, measured: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the realistic store."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    done = invoke("--html", path, "--store", filled, "--sweep", measured)
    assert done.exit_code == 0, done.output
    return path


class Reader(HTMLParser):
    """The tags of a page, its text, and all that it might load or run."""

    VOID = frozenset({"meta", "br", "img", "link", "input"})

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.active: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page.read_text("utf-8"))
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.active += [
            f"{tag} {name}={value}"
            for name, value in attrs
            if name in ("src", "href", "style", "srcset", "action", "data", "xlink:href")
            or name.startswith("on")
        ]
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


class TestThePage:
    def test_has_all_there_is(self, page: Path, filled: Path) -> None:
        text = Reader(page).text
        found = survey(str(filled))
        for space in found.spaces:
            assert space.info.namespace.model_name in text
            assert space.info.namespace.id.hex()[:12] in text
            assert f"{space.info.entries:,} x {space.info.dim}" in text
        for day in found.days:
            assert day.date.isoformat() in text
        for words in (f"{found.entries:,}", "512: 0.97, 1024: 1.00, 2048: 0.98", "peak memory"):
            assert words in text

    def test_loads_and_runs_nothing(self, page: Path) -> None:
        found = Reader(page)
        assert found.active == []
        assert not {"script", "link", "iframe", "img", "object", "embed", "base"} & set(found.tags)
        text = page.read_text("utf-8")
        assert "default-src 'none'" in text
        assert "url(" not in text
        assert "@import" not in text

    def test_names_are_text(self, page: Path) -> None:
        found = Reader(page)
        assert found.text.count(HOSTILE) >= 3, "the namespace's, its batch sizes', and the sweep's"
        assert not {"b>", "i", "script"} & set(found.tags)

    def test_of_a_thousand_namespaces(self, filled: Path, tmp_path: Path) -> None:
        found = survey(str(filled))
        one = found.spaces[0]
        named = [Namespace(f"model {number:04}") for number in range(1000)]
        spaces = tuple(replace(one, info=replace(one.info, namespace=each)) for each in named)
        write_page(tmp_path / "page.html", TITLE, page_of(replace(found, spaces=spaces)), STYLE)
        text = Reader(tmp_path / "page.html").text
        assert all(each.model_name in text for each in named)
        assert "950 smaller ones" in text
        assert (tmp_path / "page.html").stat().st_size < 2_000_000

    @pytest.mark.parametrize("writes", [0, 1])
    def test_of_a_store_that_was_hardly_used(self, tmp_path: Path, writes: int) -> None:
        with EmbeddingStore(tmp_path / "store") as store:
            for number in range(writes):
                put(store, Namespace("m"), texts_of(1, number))
        done = invoke("--html", tmp_path / "p.html", "--store", tmp_path / "store", "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout)["bytes"] == (tmp_path / "p.html").stat().st_size
        text = Reader(tmp_path / "p.html").text
        assert ("Nothing is stored yet" in text) == (writes == 0)
        assert "Hit rate" not in text, "nothing was looked up"


class TestBadInput:
    def test_no_store(self, tmp_path: Path) -> None:
        done = invoke("--html", tmp_path / "p.html", "--store", tmp_path / "mistyped")
        assert done.exit_code == 2
        assert list(tmp_path.iterdir()) == []

    def test_nowhere_to_write(self, filled: Path, tmp_path: Path) -> None:
        done = invoke("--html", tmp_path / "none" / "p.html", "--store", filled)
        assert done.exit_code == 2
        assert "make it first" in done.stderr

    @pytest.mark.parametrize(
        "content",
        [
            "",
            "[]",
            "{}",
            '{"model": "m", "device": null, "environment": {}, "timings": []}',
            '{"model": 7, "device": null, "environment": {}, "timings": [{"batch_size": "x"}]}',
        ],
    )
    def test_a_file_that_is_no_sweep(self, filled: Path, tmp_path: Path, content: str) -> None:
        (tmp_path / "sweep.json").write_text(content)
        options = ("--store", filled, "--sweep", tmp_path / "sweep.json")
        done = invoke("--html", tmp_path / "p.html", *options)
        assert done.exit_code == 2, done.output
        assert "is not what 'embstore bench batch-size --json' prints" in done.stderr
        assert not (tmp_path / "p.html").exists()


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def seen(page: Path, request: pytest.FixtureRequest) -> browser.Seen:
    """What a browser makes of the page, in a wide and a narrow window."""
    return browser.look(page, SEEN, WIDTHS, dark=request.param)


@browser.needs_browser
class TestInABrowser:
    def test_nothing_is_asked_for_and_nothing_goes_wrong(self, seen: browser.Seen) -> None:
        assert seen.console == []
        assert seen.requests == ["/", *["/page"] * len(WIDTHS)]

    def test_fits_each_window(self, seen: browser.Seen) -> None:
        for width, window in zip(WIDTHS, seen.windows, strict=True):
            assert window["width"] == width
            assert window["needed"] == width, "it scrolls sideways"
            assert window["title"] == "embstore: what is stored"

    def test_everything_can_be_seen(self, seen: browser.Seen) -> None:
        for width, window in zip(WIDTHS, seen.windows, strict=True):
            elements = window["elements"]
            names = [element["name"] for element in elements]
            assert names.count("figure") == 4
            assert names.count("td") == 6 * (len(realistic.MODELS) + 1)
            for element in elements:
                if element["name"] == "dd" and not element["width"]:
                    continue  # of "Measured on", which is folded up
                if width < 700 and element["text"].startswith("model and settings"):
                    continue  # on a phone each cell has its own heading
                assert element["width"] > 0, element
                assert element["height"] > 0, element
                assert element["left"] >= 0, element
                assert element["right"] <= width, element

    def test_letters_stand_out(self, seen: browser.Seen) -> None:
        for window in seen.windows:
            assert (_luminance(window["background"]) < 0.1) == seen.dark
            for element in window["elements"]:
                assert contrast(element["color"], window["background"]) >= 4.5, element

    def test_the_policy_holds_back_what_is_not_escaped(self, page: Path, tmp_path: Path) -> None:
        """And these tests would see it."""
        bad = tmp_path / "bad.html"
        text = page.read_text("utf-8")
        assert "<h1>" in text
        bad.write_text(text.replace("<h1>", f"{HOSTILE}<h1>", 1))
        seen = browser.look(bad, "h1", WIDTHS[:1])
        assert len(seen.console) >= 2, "the script, and the picture"
        assert all("Content Security Policy" in line for line in seen.console)
        assert seen.requests == ["/", "/page"]

    def test_a_page_of_benchmarks_goes_by_the_same_policy(self, tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        from embstore.batching.report import write_report

        found = sweep(lambda texts: [[1.0] for _ in texts], texts_of(4), [1, 4], 1, model_name="m")
        write_report(tmp_path / "bench.html", [found.section()])
        seen = browser.look(tmp_path / "bench.html", "img, table", WIDTHS[:1])
        assert seen.console == []
        picture, table = seen.windows[0]["elements"]
        assert picture["width"] > 100 < picture["height"]
        assert table["width"] > 100


def contrast(one: str, other: str) -> float:
    """That of two colours as a browser tells them, as WCAG 2 defines it: 1 to 21."""
    lighter, darker = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(color: str) -> float:
    parts = [int(number) / 255 for number in re.findall(r"\d+", color)[:3]]
    linear = [
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    ]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_is_measured() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


def test_a_chart_escapes_its_words() -> None:
    made: Any = Chart(HOSTILE, HOSTILE, dots([(0, 0.5)], [HOSTILE]), "1", "0", [HOSTILE])
    assert "<script" not in str(made)
    assert str(made).count("&lt;script") == 4
