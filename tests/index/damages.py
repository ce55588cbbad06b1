"""What a file of runs may have become."""

from __future__ import annotations

import os
import random
from pathlib import Path

from tests.index.kept import HEADER


def missing(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    os.truncate(file, 0)


def half_a_header(file: Path) -> None:
    os.truncate(file, 50)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


def zeroed(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.write(bytes(file.stat().st_size))


def zeroed_behind_its_header(file: Path) -> None:
    with file.open("r+b") as opened:
        opened.seek(HEADER)
        opened.write(bytes(file.stat().st_size - HEADER))


def garbage(file: Path) -> None:
    file.write_bytes(random.Random(0).randbytes(file.stat().st_size))


def a_symlink(file: Path) -> None:
    other = file.with_name("elsewhere")
    file.rename(other)
    file.symlink_to(other)


def a_dangling_symlink(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def a_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def a_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "something").touch()


DAMAGES = [
    missing,
    empty,
    half_a_header,
    cut,
    zeroed,
    zeroed_behind_its_header,
    garbage,
    a_symlink,
    a_dangling_symlink,
    a_pipe,
    a_folder,
]
