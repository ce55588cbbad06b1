"""C libraries between a process and the system, so that real calls fail or lie."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path


def compiler() -> str | None:
    """The path of a C compiler, if there is one."""
    return shutil.which("cc")


def library(source: Path, place: Path) -> Path:
    """Compile a C source into a library for ``LD_PRELOAD``."""
    built = place / f"{source.stem}.so"
    command = [compiler() or "cc", "-shared", "-fPIC", "-O1", "-o", built, source, "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return built
