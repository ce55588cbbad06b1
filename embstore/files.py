"""Writing result files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of ``path`` at the end, or not at all.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    path = Path(path).resolve()
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    with partial.open("xb") as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink()
            raise
