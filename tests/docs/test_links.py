"""Links of the pages lead somewhere, as they stand in the repository."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.docs.pages import OTHERS, PAGES, anchors, links, name_of


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        if "://" in link or link.startswith("mailto:"):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} leads to nothing"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: {name_of(target)} has no such heading"


def test_a_wrong_anchor_would_be_seen() -> None:
    readme = PAGES[0]
    assert {"embstore", "use", "read-on"} <= anchors(readme)
    assert "used" not in anchors(readme)
    assert any("#" in link for page in PAGES for link in links(page)), "no anchors to check"
