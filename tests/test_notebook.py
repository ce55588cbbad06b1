"""The notebook of the docs: run from a clean state, and as it is committed.

``EMBSTORE_UPDATE=1`` writes the outputs of the run into the notebook: ``make notebook``.
"""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from ipykernel.kernelspec import write_kernel_spec
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "docs" / "notebooks" / "efficient_embeddings.ipynb"

MACHINE = re.compile(r"/(home|root|tmp|work|Users|private|var|opt|usr)\b")
"""What only paths of some machine begin with."""
CELL_SECONDS = 120
MOST_BYTES = 100_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a run: where it ``work``s, its ``temporary`` files, and no ``home`` for stores yet."""
    made = tmp_path_factory.mktemp("notebook")
    for name in ("work", "temporary"):
        (made / name).mkdir()
    return made


@pytest.fixture(scope="module")
def executed(folder: Path) -> Any:
    """The notebook, executed top to bottom in a new kernel."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # First on the path, so that "python3" is this interpreter, whatever the user has installed:
    # for the notebook, and for the kernel that the notebook starts.
    write_kernel_spec(folder / "jupyter" / "kernels" / "python3")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder / "runtime"))
        patch.setenv("IPYTHONDIR", str(folder / "ipython"))
        patch.setenv("TMPDIR", str(folder / "temporary"))
        patch.setenv("EMBSTORE_HOME", str(folder / "home"))
        patch.setenv("PYTHONPATH", str(ROOT))
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=CELL_SECONDS,
            record_timing=False,  # times of day in the file: each run would change every cell
            coalesce_streams=True,
            resources={"metadata": {"path": str(folder / "work")}},
        ).execute()
    if os.environ.get("EMBSTORE_UPDATE") == "1":
        nbformat.write(notebook, NOTEBOOK)
    return notebook


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook: Any, cell_id: str) -> str:
    [cell] = (cell for cell in notebook.cells if cell.id == cell_id)
    return "".join(output.text for output in cell.outputs if output.output_type == "stream")


def shape(notebook: Any) -> dict[str, list[tuple[str, ...]]]:
    """For each code cell, what kinds of output it has."""
    return {
        cell.id: [
            (output.output_type, output.get("name", ""), *sorted(output.get("data", ())))
            for output in cell.outputs
        ]
        for cell in code_cells(notebook)
    }


class TestExecuted:
    def test_it_says_nothing_on_stderr(self, executed: Any) -> None:
        kinds = [kind for kinds in shape(executed).values() for kind in kinds]
        assert {name for _, name, *_ in kinds} == {"", "stdout"}

    def test_nothing_is_left_behind(self, executed: Any, folder: Path) -> None:
        assert not (folder / "home").exists()
        assert list((folder / "work").iterdir()) == []
        assert list((folder / "temporary").rglob("cache.db")) == []
        assert list((folder / "temporary").rglob("embstore*")) == []

    def test_a_new_kernel_needs_no_model(self, executed: Any) -> None:
        lines = printed(executed, "new-kernel").splitlines()
        assert lines[:4] == [
            "500 texts: 500 found, 0 computed",
            "torch imported: False",
            "sentence_transformers imported: False",
            "the same vectors, bit for bit: True",
        ]

    def test_what_is_computed(self, executed: Any) -> None:
        assert printed(executed, "data") == "500 sentences, 420 distinct, 80 repeats\n"
        first, second, *_ = printed(executed, "store").splitlines()
        assert first.startswith("first call: 80 hits, 420 misses, ")
        assert second.startswith("second call: 500 hits, 0 misses, ")
        assert printed(executed, "maxsize").count(", 0 computed\n") == 2
        assert printed(executed, "aencode").count("64 requests, 40 computed") == 2


class TestCommitted:
    @pytest.fixture
    def committed(self, executed: Any) -> Any:  # after the run, which may write it
        return nbformat.read(NOTEBOOK, as_version=4)

    def test_it_is_a_notebook_for_python(self, committed: Any) -> None:
        nbformat.validate(committed)
        assert committed.metadata.kernelspec.name == "python3"
        assert committed.metadata.language_info.name == "python"

    def test_all_cells_were_run_in_order(self, committed: Any) -> None:
        counts = [cell.execution_count for cell in code_cells(committed)]
        assert counts == list(range(1, len(counts) + 1))

    def test_it_has_the_outputs_of_a_run(self, committed: Any, executed: Any) -> None:
        assert shape(committed) == shape(executed)
        assert any(shape(committed).values())

    def test_it_names_no_machine(self, committed: Any) -> None:
        for cell in committed.cells:
            for output in cell.get("outputs", ()):
                # Base64 has slashes too, and letters after them.
                output.get("data", {}).pop("image/png", None)
        assert MACHINE.findall(json.dumps(committed)) == []

    def test_its_pictures_are_small(self, committed: Any) -> None:
        pictures = [
            base64.b64decode(output.data["image/png"])
            for cell in code_cells(committed)
            for output in cell.outputs
            if "image/png" in output.get("data", ())
        ]
        assert len(pictures) == 4
        assert max(map(len, pictures)) < MOST_BYTES
