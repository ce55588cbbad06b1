"""A nightly job: embed the documents that are new or changed, and write an index of all of them.

    python nightly_index.py documents.jsonl index.npz --model all-MiniLM-L6-v2 --store ./embeddings

A line of the input is {"id": "...", "text": "..."}. The index has "ids", n texts, and "vectors",
(n, dim) float32; it takes the place of the last one in one step. A job that was killed is just
started again: what it had computed is stored. Exit codes: 0 done; 2 bad input.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from embstore import CachedEncoder, EmbeddingStore


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Embed what is new, and write an index of all.")
    parser.add_argument("documents", type=Path)
    parser.add_argument("index", type=Path)
    parser.add_argument("--model", default="sentence-transformers/all-MiniLM-L6-v2")
    parser.add_argument("--store", help="where vectors are kept; a directory or a URL")
    parser.add_argument("--upstream", help="a store that other machines share")
    parser.add_argument("--forget", default="30d", help="drop vectors that were unused for so long")
    given = parser.parse_args(arguments)
    try:
        documents = read(given.documents)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2

    with EmbeddingStore(given.store, upstream=given.upstream) as store:
        encoder = CachedEncoder(given.model, store)
        vectors = encoder.encode_document(list(documents.values()), show_progress_bar=None)
        stats = encoder.stats()
        # After the look-up: whatever is in the index was used tonight.
        forgotten = store.prune(older_than=given.forget)
    write(given.index, list(documents), vectors)
    summary = {
        "documents": len(documents),
        "computed": stats.misses,
        "forgotten": forgotten,
        "seconds_saved": round(stats.seconds_saved, 1),
    }
    print(json.dumps(summary))
    return 0


def read(path: Path) -> dict[str, str]:
    """Texts by id.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if a line is no document, or an id is there twice.
    """
    documents: dict[str, str] = {}
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                document = json.loads(line)
                name, text = document["id"], document["text"]
            except (ValueError, TypeError, KeyError):
                raise ValueError(f'{path}, line {number}: no {{"id": ..., "text": ...}}') from None
            if not isinstance(name, str) or not isinstance(text, str) or name in documents:
                raise ValueError(
                    f"{path}, line {number}: id or text is no text, or the id is taken"
                )
            documents[name] = text
    if not documents:
        raise ValueError(f"{path} has no documents")
    return documents


def write(index: Path, ids: list[str], vectors: np.ndarray) -> None:
    """Write an index beside the old one, then let it take its place."""
    new = index.with_name(f"{index.name}.new")
    with new.open("wb") as file:
        np.savez(file, ids=np.array(ids), vectors=vectors)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, index)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
