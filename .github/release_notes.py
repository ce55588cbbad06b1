"""Prints what the changelog says of a tag: ``python .github/release_notes.py v1.2.3``.

Ends with an error if the tag is not the version of the package, or the changelog has no dated
section for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """The version of the package, without importing it: that would need its requirements."""
    source = (ROOT / "embstore" / "__init__.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
    assert found, "embstore/__init__.py has no __version__"
    return found[1]


def notes(tag: str, version: str, changelog: str) -> str:
    """The changelog's section for a tag.

    Raises:
        ValueError: if the tag is another version, or the section is missing, undated or empty.
    """
    if tag != f"v{version}":
        raise ValueError(f"the tag is {tag}, but embstore/__init__.py has {version}")
    head = rf"^## \[{re.escape(version)}\] - (?P<date>\S+)$"
    found = re.search(head + r"\n(?P<text>.*?)(?=^## \[|\Z)", changelog, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD'")
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]):
        raise ValueError(f"CHANGELOG.md has {found['date']!r} where the date of {version} belongs")
    if not (text := found["text"].strip()):
        raise ValueError(f"CHANGELOG.md says nothing of {version}")
    return text


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(sys.argv[1], version(), (ROOT / "CHANGELOG.md").read_text()) + "\n")
    except ValueError as error:
        sys.exit(f"error: {error}")
