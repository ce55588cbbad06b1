"""What ``import embstore`` costs on top of its requirements, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.race import Race

REQUIREMENTS = "import numpy, xxhash, diskcache, platformdirs, tqdm"


def test_import(race: Race, folder: Path) -> None:
    """With compiled files, as installed packages have them."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(folder / "pycache")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)

    def run(statement: str) -> Callable[[], object]:
        command = [sys.executable, "-c", statement]
        return lambda: subprocess.run(command, check=True, env=environment)

    result = race(
        {"requirements": run(REQUIREMENTS), "embstore": run("import embstore")},
        items=1,
        unit="process",
        rounds=25,
    )
    result.report("import embstore", against="requirements", ratio=1.2)
