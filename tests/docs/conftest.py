"""What examples find: models under their names, an API to ask, and processes that run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks, name_of
from tests.docs.performer import MISSING
from tests.integrations.openai_server import serving
from tests.redis.server import PROGRAM, WHY_NOT, RedisServer

NAMES = "sentence-transformers/all-MiniLM-L6-v2", "BAAI/bge-small-en-v1.5"
"""Under both there is all-MiniLM-L6-v2: what counts is that an example's model is found."""

SILENT = {
    "HF_HUB_OFFLINE": "1",
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LANGSMITH_TRACING": "false",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Its warning at the start would be an error; see pyproject.toml.
    "PYTEST_ADDOPTS": "-p no:asyncio",
}


@pytest.fixture(scope="session")
def hub(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the hub's client keeps what it has downloaded, with models in it."""
    folder = tmp_path_factory.mktemp("hub")
    for name in NAMES:
        model = folder / f"models--{name.replace('/', '--')}"
        snapshot = model / "snapshots" / ("0" * 40)
        for file in Path(model_path).rglob("*"):
            if file.is_file():
                link = snapshot / file.relative_to(model_path)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("0" * 40)
    return folder


@pytest.fixture(scope="session")
def environment(hub: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment variables of examples."""
    with serving() as server, redis_server(tmp_path_factory) as redis:
        yield {
            **os.environ,
            **SILENT,
            "HF_HUB_CACHE": str(hub),
            "OPENAI_BASE_URL": server.url,
            "OPENAI_API_KEY": "none",
            **({} if redis is None else {"REDIS_URL": redis.url}),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
        }


@contextmanager
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer | None]:
    """A server for the pages that need one; None if there is no program for it."""
    if PROGRAM is None:
        yield None
        return
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    try:
        yield server
    finally:
        server.kill()


@pytest.fixture(scope="session")
def performers(environment: dict[str, str]) -> Iterator[Callable[[bool], subprocess.Popen[str]]]:
    """Starts a process that runs pages, with or without torch; each once."""
    started: dict[bool, subprocess.Popen[str]] = {}

    def performer(models: bool) -> subprocess.Popen[str]:
        if models not in started:
            started[models] = subprocess.Popen(
                [sys.executable, "-m", "tests.docs.performer", "models" if models else "none"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        return started[models]

    yield performer
    for process in started.values():
        process.kill()  # ending in order takes torch a second, and it has nothing to tell
        process.communicate()


@pytest.fixture
def perform(
    performers: Callable[[bool], subprocess.Popen[str]], tmp_path: Path
) -> Callable[[Path], None]:
    """Runs the examples of a page, in an empty folder."""

    def perform(page: Path) -> None:
        folder = tmp_path / "examples"
        folder.mkdir()
        code = "".join(block.code for block in blocks(page) if block.language == "python")
        models = any(word in code for word in ("MiniLM", "bge-small", "sentence_transformers"))
        if "REDIS_URL" in code and PROGRAM is None:
            pytest.skip(WHY_NOT)
        process = performers(models)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([str(page), str(folder)]) + "\n")
        process.stdin.flush()
        exit_code = json.loads(process.stdout.readline())
        written = folder.with_suffix(".out").read_text()
        if exit_code == MISSING:
            pytest.skip(written.splitlines()[-1])
        assert exit_code == 0, f"{name_of(page)}:\n{written}"

    return perform
