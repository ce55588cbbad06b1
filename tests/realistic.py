"""A store as a team has it after ten weeks. As a script: the picture of it in the docs."""

from __future__ import annotations

import math
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np

from embstore import EmbeddingStore, Namespace
from embstore.backends.disk import usage
from embstore.batching.page import write_page
from embstore.cli.report_page import TITLE, page
from embstore.cli.report_style import STYLE
from embstore.cli.survey import survey
from tests import browser
from tests.helpers import ROOT

DAYS = 70
_DAY = 86_400
_MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MODELS = (
    # namespace, dim, texts a day, cost of a text in s, how much of what is asked for is new at last
    (Namespace(_MINILM, "a1", max_seq_length=256, dtype="float32"), 384, 60, 0.011, 0.04),
    (Namespace(_MINILM, "a1", prompt="query: ", max_seq_length=256), 384, 25, 0.009, 0.25),
    (Namespace("BAAI/bge-small-en-v1.5", "b2", normalize=True), 384, 40, 0.014, 0.1),
    (Namespace("intfloat/e5-large-v2", "c3", task="query", truncate_dim=256), 256, 12, 0.12, 0.3),
    (Namespace("text-embedding-3-small", "version:1", extra={"dimensions": 512}), 512, 18, 0.05, 0),
)
BATCHES = {
    "size": 1024,
    "unit": "tokens",
    "settled": True,
    "speeds": {"512": 0.97, "1024": 1.0, "2048": 0.984},
    "model": _MINILM,
    "on": "AMD EPYC",
}


def fill(location: Path, days: int = DAYS, scale: int = 1) -> None:
    """Make a store that was used on all of the last days but Sundays, ``scale`` times as much as
    :data:`MODELS` has it."""
    chance, now, true_time = random.Random(6), 0.0, time.time
    with mock.patch.object(usage.time, "time", side_effect=lambda: now):
        for back in reversed(range(days)):
            now = true_time() - back * _DAY
            weekday = time.gmtime(now).tm_wday
            with EmbeddingStore(location) as store:
                if weekday < 6 or back == days - 1:
                    for model in MODELS:
                        _work(store, model, days - back, chance, weekday, scale)
                store.put_identity(b"realistic sizes.", BATCHES)


def _work(
    store: EmbeddingStore,
    model: tuple,
    day: int,
    chance: random.Random,
    weekday: int,
    scale: int,
) -> None:
    namespace, dim, amount, cost, newness = model
    amount *= scale
    share = newness + (1 - newness) * math.exp(-day / 14)
    new = int(amount * share * chance.uniform(0.5, 1.5) * (0.3 if weekday == 5 else 1)) + 1
    old = int(amount * (1 - share) * chance.uniform(0.7, 1.3) * 3)
    fresh = [f"{namespace.prompt} {day} {number}" for number in range(new)]
    known = [f"{namespace.prompt} 1 0"] * old
    store.get_many(namespace, fresh)
    digests = store.digests(fresh)
    store.keep(namespace, digests, np.zeros((new, dim), np.float32), new * cost)
    # Hits that are no repeats: each a call of its own would take a second.
    store.find(namespace, store.digests(known), again=False)


def main() -> None:
    """Write docs/images/report.png."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as place:
        fill(Path(place) / "store", scale=25)
        found = replace(survey(f"{place}/store"), location="/srv/embeddings")
        write_page(f"{place}/report.html", TITLE, page(found), STYLE)
        target = ROOT / "docs" / "images" / "report.png"
        browser.screenshot(Path(place) / "report.html", target, 960, 1245)
    # A few colours are enough, and a third of the bytes.
    Image.open(target).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(target)


if __name__ == "__main__":
    main()
