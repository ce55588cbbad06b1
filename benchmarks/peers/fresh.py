"""What a process of its own runs: ``python -m benchmarks.peers.fresh MODULE CLASS FOLDER DIM``.

The texts come first on stdin, as JSON. Then each line asks for them once, and is answered with a
digest of the array; the end of stdin is the end of the process. Imports what it needs, no more: a
whole process, from its start to its end, is one of the measures.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from xxhash import xxh3_128_hexdigest


def main(module: str, name: str, folder: str, dim: int) -> None:
    """Open the cache, and answer."""
    texts = json.loads(sys.stdin.readline())
    peer = getattr(importlib.import_module(module), name)(Path(folder), dim)
    print("open", flush=True)
    for _ in sys.stdin:
        print(xxh3_128_hexdigest(peer.get(texts).data), flush=True)
    peer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
