"""``embstore encode`` and ``embstore warm``: a file of texts through a cached model."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from embstore import CachedEncoder, EmbeddingStore
from embstore.cli import options as opt
from embstore.cli.output import check_writable, print_json, write_npy
from embstore.cli.texts import read_texts

Output = Annotated[Path, typer.Option("--output", "-o", help="The .npy file to write.")]


def encode(
    source: opt.Source,
    output: Output,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.Model = opt.DEFAULT_MODEL,
    location: opt.Store = None,
    batch_size: opt.BatchSize = None,
    normalize: opt.Normalize = False,
    prompt: opt.Prompt = None,
    prompt_name: opt.PromptName = None,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Write the vectors of FILE's texts to an .npy file: row i is text i.

    [bold]Example:[/bold] embstore encode articles.csv --column body -o vectors.npy
    """
    check_writable(output)
    texts = read_texts(source, file_format=file_format, column=column, encoding=encoding)
    with EmbeddingStore(location) as store:
        vectors, summary = _embed(
            CachedEncoder(model, store, device=device),
            texts,
            batch_size=batch_size or "auto",
            normalize_embeddings=normalize,
            prompt=prompt,
            prompt_name=prompt_name,
        )
        summary["store"] = store.location
    write_npy(output, vectors)
    summary |= {"output": str(output), "shape": vectors.shape, "dtype": vectors.dtype.name}
    _report(summary, json, f"{output}: {' x '.join(map(str, vectors.shape))} {vectors.dtype}")


def warm(
    source: opt.Source,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.Model = opt.DEFAULT_MODEL,
    location: opt.Store = None,
    batch_size: opt.BatchSize = None,
    normalize: opt.Normalize = False,
    prompt: opt.Prompt = None,
    prompt_name: opt.PromptName = None,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Put the vectors of FILE's texts into the store, so that later calls find them.

    [bold]Example:[/bold] embstore warm questions.jsonl --column question
    """
    texts = read_texts(source, file_format=file_format, column=column, encoding=encoding)
    # Storing is all that is asked for here, so a store that cannot is an error and not a warning.
    with EmbeddingStore(location, on_error="raise") as store:
        _, summary = _embed(
            CachedEncoder(model, store, device=device),
            texts,
            batch_size=batch_size or "auto",
            normalize_embeddings=normalize,
            prompt=prompt,
            prompt_name=prompt_name,
        )
        summary["store"] = store.location
    _report(summary, json, f"{summary['store']}: {len(texts):,} texts are warm")


def _embed(
    encoder: CachedEncoder, texts: list[str], **how: Any
) -> tuple[np.ndarray[Any, Any], dict[str, Any]]:
    started = time.perf_counter()
    try:
        vectors = encoder.encode(texts, show_progress_bar=sys.stderr.isatty(), **how)
    except KeyboardInterrupt:
        print("interrupted: what was computed so far is kept in the store", file=sys.stderr)
        raise typer.Exit(130) from None
    stats = encoder.stats()
    names = "total", "hits", "memory_hits", "disk_hits", "deduplicated", "misses", "write_errors"
    summary: dict[str, Any] = {name: getattr(stats, name) for name in names}
    summary["seconds"] = round(time.perf_counter() - started, 3)
    return vectors, summary


def _report(summary: dict[str, Any], json: bool, headline: str) -> None:
    if json:
        print_json(summary)
        return
    print(headline)
    print(
        f"{summary['total']:,} texts: {summary['hits']:,} hits, {summary['misses']:,} computed, "
        f"{summary['seconds']:.1f} s"
    )
