"""What a notebook shows of stores and figures."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from embstore import EmbeddingStore, Namespace, Stats, StoreWarning
from embstore.notebook import bar, table
from tests.helpers import MODEL, OTHER, put, texts_of, vector_files


def parsed(html: str) -> ElementTree.Element:
    """The HTML, which must be well-formed XML too: everything escaped, everything closed."""
    return ElementTree.fromstring(f"<div>{html}</div>")


def svg_of(html: str) -> ElementTree.Element:
    found = parsed(html).find(".//{http://www.w3.org/2000/svg}svg")
    assert found is not None
    return found


def words(html: str) -> str:
    return " ".join("".join(parsed(html).itertext()).split())


STATS = Stats(hits=90, misses=10, memory_hits=50, disk_hits=35, deduplicated=20)


def test_the_bar_is_divided_as_the_figures_are() -> None:
    svg = svg_of(STATS._repr_html_())
    _, *bars = svg
    widths = [float(each.attrib["width"]) for each in bars]
    assert sum(widths) + 2 * 3 == pytest.approx(480, abs=0.1)
    assert [width / sum(widths) for width in widths] == pytest.approx(
        [0.50, 0.35, 0.05, 0.10], abs=0.01
    )
    ends = [float(each.attrib["x"]) + float(each.attrib["width"]) for each in bars]
    starts = [float(each.attrib["x"]) for each in bars]
    assert starts[1:] == pytest.approx([end + 2 for end in ends[:-1]], abs=0.02)
    assert len({each.attrib["fill"] for each in bars}) == 4


def test_the_bar_is_told_to_those_who_do_not_see_it() -> None:
    svg = svg_of(STATS._repr_html_())
    told = (
        "100 texts looked up: memory 50 (50.0%), disk 35 (35.0%), repeated 5 (5.0%), "
        "missing 10 (10.0%)"
    )
    assert svg.attrib["role"] == "img"
    assert svg.attrib["aria-label"] == svg[0].text == told


def test_a_tiny_part_is_seen_and_one_of_nothing_is_not() -> None:
    svg = svg_of(bar("looked up", [("hits", 999_999), ("nothing", 0), ("misses", 1)]))
    assert [float(each.attrib["width"]) >= 1 for each in svg[1:]] == [True, True]
    assert "nothing" not in bar("looked up", [("hits", 1), ("nothing", 0)])
    assert bar("looked up", [("hits", 0)]) == ""


def test_nothing_asked_nothing_plotted() -> None:
    assert "<svg" not in Stats()._repr_html_()
    assert "bypassed" in words(Stats()._repr_html_())


def test_a_table_escapes_what_it_is_given() -> None:
    html = table([("<b>", "a & 'b'")], ["<i>", '"'])
    cells = [each.text for each in parsed(html).iter() if each.tag in ("th", "td")]
    assert cells == ["<i>", '"', "<b>", "a & 'b'"]


def test_a_store_shows_where_it_is_and_what_it_has(
    store: EmbeddingStore, reopened: Callable[..., EmbeddingStore]
) -> None:
    put(store, MODEL, texts_of(1234))
    put(store, Namespace("b/model", normalize=True, prompt="query: ", task="query"), ["a"], 3)
    store.get_many(MODEL, texts_of(3, 1232))
    shown = words(store._repr_html_())
    assert store.location in shown
    assert "2 namespaces, 1,235 vectors" in shown
    assert "a/model" in shown
    assert "8 × float32" in shown  # noqa: RUF001
    assert "66.7% of 3" in shown
    assert "normalized, prompt='query: ', task='query'" in shown
    assert "disk 2 (66.7%) ■ missing 1 (33.3%)" in shown
    assert "<svg" not in reopened()._repr_html_()


def test_an_empty_store(store: EmbeddingStore) -> None:
    assert "0 namespaces, 0 vectors" in words(store._repr_html_())
    assert "<table" not in store._repr_html_()


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    name = "<script>alert('\"&')</script>"
    with EmbeddingStore(tmp_path / "<img src=x>", on_error="raise") as store:
        put(store, Namespace(name, fingerprint=name, prompt=name, extra={name: name}), ["a"])
        html = store._repr_html_()
        assert "<script" not in html
        assert "<img" not in html
        assert name in words(html)
        assert store.location in words(html)


def test_many_namespaces_are_not_all_shown(store: EmbeddingStore) -> None:
    for number in range(23):
        put(store, Namespace(f"m{number}"), texts_of(number + 1))
    shown = words(store._repr_html_())
    assert "23 namespaces" in shown
    assert "and 3 more: store.namespaces()" in shown
    assert "m22" in shown  # the largest
    assert "m2 " not in shown


def test_a_closed_store(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path)
    put(store, MODEL, ["a"])
    store.get_many(MODEL, ["a"])
    store.close()
    shown = words(store._repr_html_())
    assert f"cannot be read now: the store at {tmp_path} is closed" in shown
    assert "memory 1 (100.0%)" in shown


def test_a_store_that_could_not_be_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    with pytest.warns(StoreWarning):
        store = EmbeddingStore(tmp_path / "file")
    assert "cannot be read now: it could not be opened" in words(store._repr_html_())


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_damaged_store(tmp_path: Path, on_error: str) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, texts_of(5))
        put(store, OTHER, texts_of(5))
    store = EmbeddingStore(tmp_path, on_error=on_error)  # type: ignore[arg-type]
    for file in vector_files(tmp_path):
        file.write_bytes(b"nothing that could be read")
    assert "10 vectors" in words(store._repr_html_())
    for file in [*vector_files(tmp_path), *tmp_path.glob("cache.db*")]:
        file.unlink()
    (tmp_path / "vectors").rmdir()
    assert str(tmp_path) in words(store._repr_html_())
    store.close()
