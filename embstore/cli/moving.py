"""The commands that move vectors: out of stores, and into stores."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from tqdm import tqdm

from embstore.backends.base import NamespaceInfo
from embstore.cli import options as opt
from embstore.cli.errors import InputError
from embstore.cli.output import check_writable, print_json, progress_bar
from embstore.cli.stores import Which, select
from embstore.keys import Namespace
from embstore.moving import bake as bake_store
from embstore.moving import export_store, import_store, read_manifest
from embstore.moving import merge as merge_stores
from embstore.moving.files import Format
from embstore.moving.places import MoveReport, location_of, reading
from embstore.stats import format_bytes

_FILE = "A .parquet, .safetensors or .npz file."

File = Annotated[Path, typer.Argument(metavar="FILE", help=_FILE)]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="How FILE holds vectors.", show_default="its suffix"),
]


def export(
    file: File,
    file_format: FileFormat = None,
    namespace: Which = None,
    location: opt.Store = None,
    force: Annotated[bool, typer.Option("--force", help="Replace FILE if it is there.")] = False,
    json: opt.Json = False,
) -> None:
    """Write the vectors of a store to FILE, from which 'embstore import' takes them.

    The seed of the store is in it: keep FILE from those who choose texts.

    [bold]Example:[/bold] embstore export vectors.parquet -n BAAI/bge-small-en-v1.5
    """
    check_writable(file)
    if file.exists() and not force:
        raise InputError(f"{file} is there already: --force replaces it")
    infos = _there(location)
    chosen = _choose(infos, namespace)
    with _bar(infos, chosen) as bar:
        report = export_store(
            location, file, format=file_format, namespaces=chosen, progressed=bar.update
        )
    size = file.stat().st_size
    if json:
        where = {"store": location_of(location), "file": str(file), "bytes": size}
        print_json({**where, **asdict(report)})
        return
    print(f"{file}: {report.rows:,} vectors of {_count(report)}, {format_bytes(size)}")
    _tell_damaged(report)


def import_(
    file: File,
    file_format: FileFormat = None,
    namespace: Which = None,
    location: opt.Store = None,
    json: opt.Json = False,
) -> None:
    """Store the vectors of FILE, which 'embstore export' has written.

    Where there is no store, one is made with the seed of FILE. One that has another seed is
    refused. What is stored already stays as it is.

    [bold]Example:[/bold] embstore import vectors.parquet --store ./embeddings
    """
    parts = read_manifest(file, format=file_format).parts
    infos = [NamespaceInfo(part.namespace, part.dtype, part.dim, part.rows, 0) for part in parts]
    chosen = _choose(infos, namespace)
    with _bar(infos, chosen) as bar:
        report = import_store(
            file, location, format=file_format, namespaces=chosen, progressed=bar.update
        )
    where = location_of(location)
    if json:
        print_json({"store": where, "file": str(file), **asdict(report)})
        return
    print(f"{where}: {report.rows:,} vectors of {_count(report)}, {report.stored:,} of them new")


def merge(
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE...", help="Stores to copy from.")],
    location: opt.Store = None,
    namespace: Which = None,
    json: opt.Json = False,
) -> None:
    """Copy the vectors of stores into another; all must have one seed.

    Where there is no store to copy to, one is made with their seed. What is stored there already
    stays as it is; the sources are only read.

    [bold]Example:[/bold] embstore merge worker-1 worker-2 --store all
    """
    infos = _there(*sources)
    chosen = _choose(infos, namespace)
    with _bar(infos, chosen) as bar:
        report = merge_stores(location, *sources, namespaces=chosen, progressed=bar.update)
    where = location_of(location)
    if json:
        print_json({"store": where, "sources": sources, **asdict(report)})
        return
    print(f"{where}: {report.rows:,} vectors of {_count(report)}, {report.stored:,} of them new")
    _tell_damaged(report)


def bake(
    directory: Annotated[
        Path, typer.Argument(metavar="DIRECTORY", help="Where nothing is, or nothing in it.")
    ],
    location: opt.Store = None,
    namespace: Which = None,
    json: opt.Json = False,
) -> None:
    """Copy a store to DIRECTORY, to be shipped and only read: with an application, in an image.

    It opens with read_only=True for every user, also from a read-only file system.

    [bold]Example:[/bold] embstore bake ./baked -n BAAI/bge-small-en-v1.5
    """
    infos = _there(location)
    chosen = _choose(infos, namespace)
    with _bar(infos, chosen) as bar:
        report = bake_store(location, directory, namespaces=chosen, progressed=bar.update)
    with reading(directory) as baked:
        size = baked.size()
    if json:
        where = {"store": location_of(location), "directory": str(directory), "bytes": size}
        print_json({**where, **asdict(report)})
        return
    print(f"{directory}: {report.rows:,} vectors of {_count(report)}, {format_bytes(size)}")
    _tell_damaged(report)


def _there(*locations: str | None) -> list[NamespaceInfo]:
    """The namespaces that hold anything in these stores."""
    infos: list[NamespaceInfo] = []
    for location in locations:
        with reading(location) as store:
            infos.extend(info for info in store.namespaces() if info.entries)
    if not infos:
        raise InputError(f"no vectors in {', '.join(map(location_of, locations))}")
    return infos


def _choose(infos: Iterable[NamespaceInfo], wanted: str | None) -> set[Namespace]:
    distinct = {info.namespace: info for info in infos}
    return {info.namespace for info in select([*distinct.values()], wanted)}


def _bar(infos: Iterable[NamespaceInfo], chosen: set[Namespace]) -> tqdm[Any]:
    return progress_bar(sum(one.entries for one in infos if one.namespace in chosen), "vectors")


def _count(report: MoveReport) -> str:
    return f"{report.namespaces:,} namespace{'s' * (report.namespaces != 1)}"


def _tell_damaged(report: MoveReport) -> None:
    if report.damaged:
        print(f"{report.damaged:,} damaged rows were left out", file=sys.stderr)
