"""``embstore migrate``: vectors that another cache has kept, into a store."""

from __future__ import annotations

import json as json_module
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from embstore import EmbeddingStore
from embstore.cli import options as opt
from embstore.cli.errors import InputError
from embstore.cli.output import print_json, progress_bar
from embstore.cli.texts import read_texts
from embstore.moving.langchain_cache import count_files, migrate, namespace_of, prefixes

_SHOWN = 5

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def root() -> None:
    """Take over what another cache has kept."""


@app.command()
def langchain(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="Folder of the LocalFileStore.")],
    source: opt.Source,
    model: Annotated[
        str, typer.Option("--model", "-m", help="What CachedEmbeddings is given as model_name.")
    ],
    prefix: Annotated[
        str | None,
        typer.Option(
            "--namespace",
            "-n",
            help="What CacheBackedEmbeddings was given as namespace.",
            show_default="the name of the model",
        ),
    ] = None,
    queries: Annotated[
        bool, typer.Option("--queries", help="The texts are queries, not documents.")
    ] = False,
    version: Annotated[
        str | None, typer.Option(help="What CachedEmbeddings is given as version.")
    ] = None,
    settings: Annotated[
        str | None,
        typer.Option(
            metavar="JSON", help="What it is given as settings, such as '{\"dimensions\": 256}'."
        ),
    ] = None,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    location: opt.Store = None,
    json: opt.Json = False,
) -> None:
    """Move vectors from a LangChain cache into the store, where CachedEmbeddings finds them.

    PATH holds what CacheBackedEmbeddings wrote to a LocalFileStore. It is only read.

    FILE holds the texts as they were embedded, chunk by chunk: files are named by their hashes.

    [bold]Example:[/bold] embstore migrate langchain ./cache chunks.jsonl -c text -m my-model
    """
    wanted = model if prefix is None else prefix
    target = namespace_of(
        model, "query" if queries else "document", version=version, settings=_object(settings)
    )
    files = count_files(path, wanted)
    if not files:
        known = ", ".join(
            f"{name!r} ({count:,} files)" for name, count in prefixes(path).most_common(_SHOWN)
        )
        raise InputError(
            f"{path} has no files of the LangChain namespace {wanted!r}; "
            + (f"say with --namespace which it is: {known}" if known else "it has none at all")
        )
    texts = read_texts(source, file_format=file_format, column=column, encoding=encoding)
    with EmbeddingStore(location, on_error="raise") as store:
        with progress_bar(len(set(texts)), "texts") as bar:
            report = migrate(path, texts, store, target, prefix=wanted, progressed=bar.update)
        where = store.location
    if report.missing == report.texts:
        raise InputError(
            f"the cache has none of these {report.texts:,} texts: they must be just as they were "
            "embedded, chunk by chunk"
        )
    if json:
        print_json({"store": where, "files": files, **asdict(report)})
        return
    print(f"{where}: {report.moved:,} vectors of {report.dim:,} numbers for {report.texts:,} texts")
    print(f"{report.missing:,} texts have no file; the cache has {files:,}")
    _list("hold no vector", report.unreadable)
    _list(f"have a vector of another length than {report.dim:,}", report.wrong_dim)


def _object(settings: str | None) -> dict[str, Any]:
    try:
        value = json_module.loads(settings or "{}")
    except ValueError as error:
        raise InputError(f"--settings is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError('--settings is a JSON object, such as {"dimensions": 256}')
    return value


def _list(what: str, files: tuple[str, ...]) -> None:
    if files:
        more = ", ..." if len(files) > _SHOWN else ""
        print(f"{len(files):,} files {what}: {', '.join(files[:_SHOWN])}{more}", file=sys.stderr)
