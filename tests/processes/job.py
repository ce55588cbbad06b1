"""``python -m tests.processes.job METHOD``: a program that has its texts embedded by workers.

In an interpreter of its own, so that all that is left behind at its end shows in what it prints.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import sys
from concurrent.futures import ProcessPoolExecutor

from tests.helpers import MODEL, vectors_of
from tests.processes import embedding

TASKS = range(4)
WAYS = ("encode", "aencode", "sync", "async")


def main(method: str) -> None:
    """Use a pool and an executor, then look for what they computed."""
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        # Its children then inherit a store that is open.
        context.set_forkserver_preload([embedding.__name__])
    known = embedding.lazy.encode(embedding.KNOWN).tobytes()
    given = embedding.everything()
    asyncio.run(embedding.aembed(["before"]))
    with context.Pool(2, embedding.take, given) as pool:
        asked = pool.starmap_async(embedding.use, [(task, "pool", *given) for task in TASKS], 1)
        assert asked.get(60) == [known] * len(TASKS)
        pool.close()
        pool.join()
    with ProcessPoolExecutor(2, context, embedding.take, given) as executor:
        futures = [executor.submit(embedding.use, task, "executor", *given) for task in TASKS]
        assert [future.result(60) for future in futures] == [known] * len(TASKS)
    assert not multiprocessing.active_children()

    names = [
        " ".join(map(str, name))
        for name in itertools.product(("pool", "executor"), TASKS, ("imported", "taken", "given"))
    ]
    expected = {text for name in names for way in WAYS for text in embedding.texts_for(name, way)}
    before = embedding.compute.computed()
    assert dict(before) == dict.fromkeys([*expected, "before"], 1), "each once, by one of them"
    for name in names:
        for way, got in embedding.ways_of(
            name, embedding.encoder, embedding.embed, embedding.aembed
        ):
            assert got.tobytes() == vectors_of(MODEL, embedding.texts_for(name, way)).tobytes()
    assert embedding.compute.computed() == before, "what they computed is found here"
    embedding.encoder.encode(["after"])
    assert embedding.store.verify().ok
    print("done")


if __name__ == "__main__":
    main(sys.argv[1])
