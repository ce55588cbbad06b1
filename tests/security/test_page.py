"""docs/security.md names the tests behind it: they are there."""

from __future__ import annotations

import re

from tests.helpers import (
    ROOT,
)

NAMED = {
    "location": "tests/backends/test_location.py",
    "tampered": "tests/faults/test_tampered.py",
    "texts": "tests/security/test_texts.py",
    "values": "tests/security/test_values.py",
    "other_users": "tests/security/test_other_users.py",
    "hostile_files": "tests/security/test_hostile_files.py",
    "doctor": "tests/cli/test_doctor.py",
}
"""The files of tests as docs/security.md calls them."""


def test_the_tests_that_the_page_names_exist() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    named = re.findall(r"`(\w+)::(\w+)`", page)
    assert len(named) > 30
    for file, test in named:
        code = (ROOT / NAMED[file]).read_text()
        assert f"def {test}(" in code or f"class {test}:" in code, f"{file}::{test}"
    for file in re.findall(r"`(tests/\S+\.py)`", page):
        assert (ROOT / file).is_file(), file
