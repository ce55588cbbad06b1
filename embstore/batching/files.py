"""Writing result files: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``; whoever reads it sees the old file or the new one.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    path = Path(path).resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            partial.replace(path)
        except BaseException:
            partial.unlink()
            raise
