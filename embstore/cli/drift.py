"""``embstore drift``: whether a model still gives the vectors that are stored."""

from __future__ import annotations

from typing import Annotated

import typer

from embstore import CachedEncoder, EmbeddingStore
from embstore.cli import options as opt
from embstore.cli.output import print_json
from embstore.cli.texts import read_texts
from embstore.drift import measure_drift

Sample = Annotated[int, typer.Option(min=1, help="How many stored texts to embed again.")]
Seed = Annotated[int, typer.Option(help="Decides which.")]
Tolerance = Annotated[
    float | None,
    typer.Option(
        min=0,
        help="How far off a vector may be, as a share of its length.",
        show_default="1e-5, more for half precision",
    ),
]


def drift(
    source: opt.Source,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.Model = opt.DEFAULT_MODEL,
    location: opt.Store = None,
    sample: Sample = 100,
    seed: Seed = 0,
    tolerance: Tolerance = None,
    normalize: opt.Normalize = False,
    prompt: opt.Prompt = None,
    prompt_name: opt.PromptName = None,
    device: opt.Device = None,
    json: opt.Json = False,
) -> None:
    """Embed a sample of FILE's stored texts again, and compare with what is stored; exit code 1 if
    a vector is further off than the tolerance. Nothing is stored.

    [bold]Example:[/bold] embstore drift articles.csv --column body --sample 500
    """
    texts = read_texts(source, file_format=file_format, column=column, encoding=encoding)
    with EmbeddingStore(location, read_only=True, on_error="raise") as store:
        report = measure_drift(
            CachedEncoder(model, store, device=device),
            texts,
            sample=sample,
            seed=seed,
            tolerance=tolerance,
            normalize_embeddings=normalize,
            prompt=prompt,
            prompt_name=prompt_name,
        )
        where = store.location
    if json:
        print_json({"store": where, **report.to_dict()})
    else:
        print(report)
    if not report.ok:
        raise typer.Exit(1)
