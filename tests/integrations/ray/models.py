"""Functions that embed, in modules that cost actors little to import."""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np

TEXTS = [f"text {number % 700}" for number in range(1000)]
MARK = "text 333"


def lengths(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), 1.0] for text in texts]


class Logged:
    """A model that notes in a file what it is asked for, and by which process."""

    def __init__(self, path: Path, dies_of: str = "", seconds: float = 0.0) -> None:
        self.path = path
        self.dies_of = dies_of
        self.seconds = seconds

    def __call__(self, texts: list[str]) -> np.ndarray:
        time.sleep(self.seconds * len(texts))
        once = self.path.with_suffix(".died")
        if self.dies_of in texts and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        with self.path.open("a") as file:
            file.write("".join(json.dumps([os.getpid(), text]) + "\n" for text in texts))
        return np.array([[len(text), 1.0, hash_of(text)] for text in texts], np.float32)

    def asked(self) -> Counter[str]:
        return Counter(json.loads(line)[1] for line in self.path.read_text().splitlines())

    def processes(self) -> set[int]:
        return {json.loads(line)[0] for line in self.path.read_text().splitlines()}


def hash_of(text: str) -> int:
    return sum(map(ord, text)) % 97
