"""The layers import downwards only, files stay small, and importing embstore stays light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.helpers import ROOT, run_python

PACKAGE = ROOT / "embstore"
LAYERS = [
    {"cli", "integrations"},
    {"encoder", "decorator", "batching", "moving", "drift"},
    {"computing", "call", "models", "snapshot", "upstream", "lookup", "delegate"}
    | {"tuning", "token_batches", "online", "threads", "share", "commits", "halves"},
    {"store", "doctor"},
    {"opening"},
    {"tiers", "claims", "overview"},
    {"memory", "backends", "faults"},
    {"watch", "inotify"},
    {"units", "fingerprint", "plain", "keys", "stats", "machine", "files", "locks", "errors"}
    | {"lazily", "hooks", "columns", "notebook", "endings"},
]
"""From top to bottom, by the first name below ``embstore``."""
EXEMPT = {"__init__", "testing"}
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


def layer_of(part: str) -> int:
    numbers = [number for number, names in enumerate(LAYERS) if part in names]
    assert len(numbers) == 1, f"embstore.{part} stands in no layer: give it its place in LAYERS"
    return numbers[0]


def imported_parts(path: Path) -> set[str]:
    """The first names below ``embstore`` of all that a file imports, wherever it does."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            base = node.module or ""
            names = [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "embstore":
                part = rest.partition(".")[0]
                known = (PACKAGE / part).is_dir() or (PACKAGE / f"{part}.py").is_file()
                parts.add(part if part and known else "__init__")
    return parts


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_file_imports_only_from_its_layer_or_below(path: Path) -> None:
    part = name_of(path).split("/")[0]
    if part in EXEMPT:
        return
    for other in imported_parts(path):
        if layer_of(part) == 0 and other == "__init__":
            continue  # a face uses the public API, as a user does
        assert layer_of(part) <= layer_of(other), f"{path.name} imports embstore.{other}, above it"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_is_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


def test_files_of_one_layer_do_not_import_each_other_in_a_ring() -> None:
    imports: dict[str, set[str]] = {}
    for path in MODULES:
        part = name_of(path).split("/")[0]
        if part not in EXEMPT:
            imports.setdefault(part, set()).update(imported_parts(path) - {part})
    while imports:
        free = {part for part, others in imports.items() if not others & imports.keys()}
        assert free, f"a ring among {sorted(imports)}"
        imports = {part: others for part, others in imports.items() if part not in free}


def test_importing_embstore_imports_no_model_library() -> None:
    loaded = run_python("import embstore, sys; print(*sys.modules)").split()
    assert "embstore.store" in loaded
    for heavy in ("torch", "sentence_transformers", "transformers", "pytest", "typer", "pyarrow"):
        assert heavy not in loaded
