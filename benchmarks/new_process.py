"""1,000 warm texts in a process of its own: ``python new_process.py STORE MODEL STORED``."""

from __future__ import annotations

import random
import sys

from embstore import CachedEncoder, EmbeddingStore


def main(location: str, model: str, stored: int) -> None:
    """Look up 1,000 of the numbered sentences, and make sure that no model was needed."""
    texts = [
        f"This is a sample sentence for benchmarking embeddings generation {number}."
        for number in random.Random(0).sample(range(stored), 1000)
    ]
    with EmbeddingStore(location) as store:
        encoder = CachedEncoder(model, store, device="cpu", on_miss="raise")
        assert encoder.encode(texts).shape == (1000, 384)
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
