"""What is logged, at which level; that no text is; and that nothing is said twice."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from embstore import CachedEncoder, EmbeddingStore, Namespace, StoreWarning, cached, hooks
from embstore.hooks import one_line
from embstore.tuning import Place, Tuned, Tuner
from tests.helpers import MODEL, put, start_python, texts_of

SECRET = "Zebra-7431-quartz"
NUMBER = 7431.25


def embed(texts: list[str], note: str = "") -> np.ndarray:
    return np.full((len(texts), 4), NUMBER, np.float32)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.DEBUG, "embstore"):
        yield caplog


def said(log: pytest.LogCaptureFixture, level: int) -> list[tuple[str, str]]:
    """Logger and message of each line of a level."""
    return [
        (record.name, record.getMessage())
        for record in log.records
        if record.name.startswith("embstore") and record.levelno == level
    ]


def test_a_line_for_each_operation(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    encoder = CachedEncoder(embed, EmbeddingStore(tmp_path), model_name="m")
    encoder.encode(["a", "b", "a"])
    encoder.encode("a")
    lines = said(log, logging.DEBUG)
    expected = [
        ("embstore.store", "lookup of 3 texts for 'm': 1 repeated, 2 missing, in 0."),
        ("embstore.commits", "compute of 2 texts for 'm', in 0."),
        ("embstore.tiers", "commit of 2 texts for 'm': 2 stored, in 0."),
        ("embstore.store", "lookup of 1 text for 'm': 1 from memory, in 0."),
    ]
    assert [name for name, _ in lines] == [name for name, _ in expected]
    for (_, line), (_, start) in zip(lines, expected, strict=True):
        assert line.startswith(start)


def test_counts_are_the_same_with_and_without_lines(tmp_path: Path) -> None:
    figures = []
    for level, folder in ((logging.DEBUG, "with"), (logging.WARNING, "without")):
        logging.getLogger("embstore").setLevel(level)
        try:
            with EmbeddingStore(tmp_path / folder) as store:
                put(store, MODEL, texts_of(3))
                for texts in (["text 0"], ["none"], [*texts_of(5), "text 4"], texts_of(80)):
                    store.get_many(MODEL, texts)
                stats = store.stats()
        finally:
            logging.getLogger("embstore").setLevel(logging.NOTSET)
        figures.append((stats.hits, stats.misses, stats.memory_hits, stats.deduplicated))
    assert figures[0] == figures[1] == (8, 80, 4, 1)


def test_what_an_operator_wants_to_know(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "store"
    with EmbeddingStore(path) as store:
        put(store, MODEL, texts_of(5))
        put(store, MODEL, texts_of(9))
        store.prune(max_size=0)
        store.compact()
        store.clear(MODEL)
    with EmbeddingStore(path) as store:
        store.clear()
    lines = [line for _, line in said(log, logging.INFO)]
    assert lines[:3] == [
        f"made a store at '{path}'",
        f"began 'a/model' in '{path}'",
        f"dropped 9 vectors used longest ago from '{path}'",
    ]
    assert lines[3].startswith(f"compacted '{path}': CompactReport(rows=0, bytes_before=")
    assert lines[4:] == [
        f"cleared 'a/model' of '{path}': 0 vectors",
        f"cleared all of '{path}': 0 vectors",
    ]


def test_batches_that_are_found(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    place = Place(b"k" * 16, "tokens", 1024, 4096, 256, ("a model", "cpu"))
    with EmbeddingStore(tmp_path) as store:
        Tuner(store).record(place, Tuned(2048, settled=False), {1024: 1.0, 2048: 1.2})
        Tuner(store).record(place, Tuned(2048, settled=True), {1024: 0.9, 2048: 1.0})
    assert ("embstore.tuning", "batches of 'a model' hold 2048 tokens") in said(log, logging.INFO)
    assert sum("batches of" in line for _, line in said(log, logging.INFO)) == 1


_CLAIMS_AND_WAITS = """
import sys, time
from embstore import EmbeddingStore, cached
@cached(EmbeddingStore(sys.argv[1]), model_name="m")
def embed(texts):
    print("claimed", flush=True)
    time.sleep(60)
embed(["a", "b"])
"""


def test_claims_of_a_dead_worker(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    worker = start_python(_CLAIMS_AND_WAITS, tmp_path)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "claimed\n"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    cached(EmbeddingStore(tmp_path), model_name="m")(embed)(["a", "b"])
    lines = said(log, logging.INFO)
    expected = f"took over what a dead worker had claimed in '{tmp_path}'"
    assert lines.count(("embstore.backends.disk.sharing", expected)) == 1


def test_a_warning_is_logged_too_once(tmp_path: Path, log: pytest.LogCaptureFixture) -> None:
    with EmbeddingStore(tmp_path) as store:
        put(store, MODEL, ["a"])
    with sqlite3.connect(tmp_path / "cache.db") as ledger:
        ledger.execute("DELETE FROM Cache WHERE key = X'4D'")  # M, the format and the seed
    ledger.close()
    with pytest.warns(StoreWarning) as caught:
        EmbeddingStore(tmp_path).get_many(MODEL, ["a", "b"])
    assert said(log, logging.WARNING) == [("embstore.faults", str(caught[0].message))]


def test_no_text_and_no_vector_is_in_any_line(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    texts = [f"{SECRET} {number}" for number in range(70)]
    with EmbeddingStore(tmp_path) as store:
        CachedEncoder(embed, store, model_name="m").encode([*texts, *texts])
        function = cached(store, model_name="f", batch_size=8)(embed)
        function(texts, note=SECRET)
        function(texts[0], note=SECRET)
        secret_space = Namespace("n", prompt=SECRET)
        store.put_many(secret_space, texts, embed(texts))
        store.get_many(secret_space, texts)
        store.delete_many(secret_space, texts[:3])
        with pytest.raises(ZeroDivisionError):
            cached(store, model_name="g")(_failing)(texts)
        with pytest.raises(LookupError):
            CachedEncoder(embed, store, model_name="h", on_miss="raise").encode(texts)
        store.prune(max_size=1)
    assert len(said(log, logging.DEBUG)) > 20
    everything = log.text + "".join(str(record.args) for record in log.records)
    assert SECRET not in everything
    assert str(NUMBER) not in everything


def _failing(texts: list[str]) -> None:
    raise ZeroDivisionError(f"of {texts}")


def test_a_name_cannot_begin_a_line_of_its_own(
    tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    name = "m\nERROR root: \x1b[31mall is lost"
    place = tmp_path / "a\nb"
    with EmbeddingStore(place) as store:
        CachedEncoder(embed, store, model_name=name).encode("a")
        store.prune(max_size=0)
        store.clear(Namespace(name))
        store.compact()
    with pytest.warns(StoreWarning):
        EmbeddingStore(place)._faults.warnings.warn(f"{name} failed")
    lines = [record.getMessage() for record in log.records if record.name.startswith("embstore")]
    assert sum("all is lost" in line for line in lines) > 4
    for line in lines:
        assert line.isprintable()


def test_one_line_keeps_what_people_write() -> None:
    assert one_line("Größe 12 µs, 模型") == "Größe 12 µs, 模型"
    assert one_line("a\r\n\u2028\x1b[0m") == "a\\r\\n\\u2028\\x1b[0m"


_WARNS = """
import logging, sys, warnings
from embstore import EmbeddingStore
if sys.argv[2] == "logged":
    logging.basicConfig(format="LOG %(name)s %(message)s")
store = EmbeddingStore(sys.argv[1])
store._faults.warnings.warn("something is wrong")
"""


@pytest.mark.parametrize("how, times", [("as it is", 1), ("logged", 2)])
def test_nobody_is_told_twice_who_has_not_set_up_logging(
    tmp_path: Path, how: str, times: int
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WARNS, str(tmp_path), how],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr.count("something is wrong") == times
    assert done.stderr.count("StoreWarning") == 1
    assert done.stderr.count("LOG embstore.faults something") == times - 1


def test_nothing_is_formatted_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def formatted(_: object) -> str:
        raise AssertionError("formatted for nobody")

    monkeypatch.setattr(hooks.Operation, "__str__", formatted)
    with warnings.catch_warnings(), EmbeddingStore(tmp_path) as store:
        store.get_many(MODEL, ["a"])
        hook = hooks.Hook()
        hooks.add(hook)
        try:
            store.get_many(MODEL, ["a"])
        finally:
            hooks.remove(hook)
