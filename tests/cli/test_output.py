"""Writing results: whole or not at all."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from embstore.cli.errors import InputError
from embstore.cli.output import check_writable, write_npy


def test_the_array_comes_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_npy(tmp_path / "no_suffix", array)
    write_npy(tmp_path / "no_suffix", array + 1)
    assert np.array_equal(np.load(tmp_path / "no_suffix"), array + 1)
    assert [path.name for path in tmp_path.iterdir()] == ["no_suffix"]


def test_a_link_is_written_through(tmp_path: Path) -> None:
    (tmp_path / "link.npy").symlink_to(tmp_path / "real.npy")
    write_npy(tmp_path / "link.npy", np.ones(2))
    assert (tmp_path / "link.npy").is_symlink()
    assert np.array_equal(np.load(tmp_path / "real.npy"), [1, 1])


def test_what_was_there_outlives_a_failed_write(tmp_path: Path) -> None:
    path = tmp_path / "a.npy"
    write_npy(path, np.ones(2))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(OSError):  # noqa: PT011 - which one, numpy and the platform decide
            write_npy(path, np.ones(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(np.load(path), [1, 1])
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_places_that_cannot_be_written_are_found_before(tmp_path: Path) -> None:
    check_writable(tmp_path / "new.npy")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InputError, match="is a directory"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match="there is no directory"):
        check_writable(tmp_path / "none" / "a.npy")
