"""The programs among the examples, run as their users would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore
from tests.helpers import ROOT
from tests.redis.server import free_port

EXAMPLES = ROOT / "docs" / "examples"
TEXTS = [f"Sentence number {number} is about caches." for number in range(60)]


def environment(**more: str) -> dict[str, str]:
    return {
        **os.environ,
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(EXAMPLES)]),
        "OMP_NUM_THREADS": "1",
        **more,
    }


# --- the web service ------------------------------------------------------------------------------


def ask(url: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and answer of a request, a POST if it has a body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.fixture
def service(tmp_path: Path, model_path: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Its URL and its process: uvicorn, with two workers."""
    pytest.importorskip("uvicorn", reason="uvicorn is not installed")
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--workers", "2", "--port", str(port)]
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen(
        [*command, "web_service:app"],
        env=environment(EMBED_MODEL=model_path, EMBED_STORE=str(tmp_path / "store")),
        stdout=log,
        stderr=log,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        end = time.monotonic() + 120
        while True:
            try:
                ask(f"{url}/health")
                break
            except OSError:
                assert process.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < end
                time.sleep(0.1)
        yield url, process
    finally:
        process.terminate()
        process.wait(60)
        log.close()


def test_a_web_service(
    service: tuple[str, subprocess.Popen[bytes]], tmp_path: Path, model_path: str, minilm: Any
) -> None:
    url, process = service
    seen: set[int] = set()
    while len(seen) < 2:  # both workers have started
        seen.add(ask(f"{url}/health")[1]["process"])

    def embed(number: int) -> list[list[float]]:
        texts = [TEXTS[(number + step) % 60] for step in range(3)]
        status, answer = ask(f"{url}/embed", json.dumps({"texts": texts}).encode())
        assert status == 200
        return answer["vectors"]

    with ThreadPoolExecutor(16) as clients:
        answers = [*clients.map(embed, [*range(60)] * 3)]
    expected = minilm.encode(TEXTS, normalize_embeddings=True)
    for number, vectors in enumerate(answers):
        places = [(number % 60 + step) % 60 for step in range(3)]
        assert np.abs(np.array(vectors) - expected[places]).max() < 1e-6

    further = 0
    for body in (b"", b"[]", b'{"texts": "one"}', b'{"texts": [1]}', b'{"texts": []}'):
        status, answer = ask(f"{url}/embed", body)
        assert status == 400
        assert "texts" in answer["error"]
    assert ask(f"{url}/embed", b" " * 1_000_001)[0] == 400
    assert ask(f"{url}/nothing")[0] == 404
    served: dict[int, int] = {}
    end = time.monotonic() + 60
    while len(served) < 2:  # which worker answers is up to the system
        assert time.monotonic() < end
        stats = ask(f"{url}/stats")[1]
        if stats["total"] > 1:  # more than the text for warming up
            served[stats["process"]] = stats["hits"]
        embed(len(served))
        further += 1
    assert sum(served.values()) > 0

    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    with EmbeddingStore(tmp_path / "store", read_only=True) as store:
        # Two settings: the text for warming up is not normalized.
        infos = sorted(store.namespaces(), key=lambda info: info.entries)
        assert [info.entries for info in infos] == [1, 60]
        assert infos[1].computed == 60, "each text once, for both workers"
        assert infos[1].hits + infos[1].misses == 540 + 3 * further
        encoder = CachedEncoder(model_path, store, on_miss="raise")
        encoder.encode(TEXTS, normalize_embeddings=True)


# --- the nightly job -----------------------------------------------------------------------------


Night = Callable[..., dict[str, Any]]


@pytest.fixture
def night(tmp_path: Path, model_path: str) -> Night:
    """Runs the job on documents; returns what it printed."""

    def night(documents: dict[str, str], code: int = 0) -> dict[str, Any]:
        write(tmp_path / "documents.jsonl", documents)
        done = subprocess.run(
            command(tmp_path, model_path),
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout) if not code else {"error": done.stderr}

    return night


def write(path: Path, documents: dict[str, str]) -> None:
    lines = (json.dumps({"id": name, "text": text}) for name, text in documents.items())
    path.write_text("".join(f"{line}\n" for line in lines))


def command(folder: Path, model_path: str) -> list[str]:
    program = str(EXAMPLES / "nightly_index.py")
    files = [str(folder / "documents.jsonl"), str(folder / "index.npz")]
    return [
        sys.executable,
        program,
        *files,
        "--model",
        model_path,
        "--store",
        str(folder / "store"),
    ]


def index(folder: Path) -> dict[str, np.ndarray]:
    with np.load(folder / "index.npz") as stored:
        return dict(zip(stored["ids"].tolist(), stored["vectors"], strict=True))


def test_a_nightly_job(night: Night, tmp_path: Path, minilm: Any) -> None:
    documents = {f"d{number}": text for number, text in enumerate(TEXTS)}
    assert night(documents)["computed"] == 60
    first = index(tmp_path)
    assert np.abs(first["d7"] - minilm.encode(documents["d7"])).max() < 1e-6

    documents |= {"d3": "It has changed.", "new": "It is new.", "same": documents["d5"]}
    del documents["d9"]
    summary = night(documents)
    assert (summary["documents"], summary["computed"]) == (61, 2)
    assert summary["seconds_saved"] > 0
    second = index(tmp_path)
    assert second.keys() == documents.keys()
    assert (second["same"] == first["d5"]).all()
    assert not (second["d3"] == first["d3"]).all()
    assert [path.name for path in tmp_path.glob("index*")] == ["index.npz"]

    (tmp_path / "documents.jsonl").write_text("")
    for bad in ({}, {"d": 5}):
        assert "documents.jsonl" in night(bad, code=2)["error"]  # type: ignore[arg-type]
    assert index(tmp_path).keys() == documents.keys(), "last night's index is still there"


def test_a_night_that_is_killed_is_started_again(
    night: Night, tmp_path: Path, model_path: str
) -> None:
    documents = {
        f"d{number}": f"Document {number}. " + "It goes on and on. " * (number % 4)
        for number in range(400)
    }
    write(tmp_path / "documents.jsonl", documents)
    process = subprocess.Popen(
        command(tmp_path, model_path), env=environment(), stderr=subprocess.DEVNULL
    )
    stored, end = 0, time.monotonic() + 120
    while stored < 256:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.05)
        if (tmp_path / "store" / "cache.db").exists():
            with EmbeddingStore(tmp_path / "store", read_only=True) as store:
                stored = sum(info.entries for info in store.namespaces())
    process.kill()
    process.wait()
    with EmbeddingStore(tmp_path / "store", read_only=True) as store:
        stored = store.namespaces()[0].entries
    assert 256 <= stored < 400
    assert not (tmp_path / "index.npz").exists()
    assert night(documents)["computed"] == 400 - stored
    assert len(index(tmp_path)) == 400
