"""The commands that look at a store, mend it, or empty it. None of them makes one."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from embstore import EmbeddingStore
from embstore.backends.base import NamespaceInfo
from embstore.cli import options as opt
from embstore.cli.errors import InputError
from embstore.cli.output import print_json, print_table, progress_bar
from embstore.errors import EmbstoreError
from embstore.stats import format_bytes
from embstore.units import parse_bytes, parse_seconds

ID_SHOWN = 12  # hex digits of a namespace id: enough to tell one from billions

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def _known_models(ctx: typer.Context, incomplete: str) -> list[str]:
    """For the shell's completion: names of the models in the store. Silent about whatever fails."""
    with contextlib.suppress(EmbstoreError), _open(ctx.params.get("location")) as store:
        names = {info.namespace.model_name for info in store.namespaces()}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


Which = Annotated[
    str | None,
    typer.Option(
        "--namespace",
        "-n",
        help="Name of a model, or the beginning of a namespace's id.",
        autocompletion=_known_models,
    ),
]


def stats(location: opt.Store = None, json: opt.Json = False) -> None:
    """Show how much a store holds, and what it has saved, over all processes."""
    with _open(location) as store:
        figures = store.stats()
        infos = store.namespaces()
        summary: dict[str, Any] = {
            "store": store.location,
            "namespaces": len(infos),
            "entries": figures.entries,
            "bytes": figures.bytes,
            "computed": sum(info.computed for info in infos),
            "encode_seconds": round(sum(info.encode_seconds for info in infos), 3),
            "hits": sum(info.hits for info in infos),
            "misses": sum(info.misses for info in infos),
            "seconds_saved": round(sum(info.seconds_saved for info in infos), 3),
        }
    if json:
        print_json(summary)
        return
    print(f"store       {summary['store']}")
    print(f"namespaces  {len(infos):,}")
    print(f"vectors     {figures.entries:,}, {format_bytes(figures.bytes)} on disk")
    print(f"computing   {summary['computed']:,} took {summary['encode_seconds']:,.1f} s")
    asked = summary["hits"] + summary["misses"]
    rate = f" ({summary['hits'] / asked:.1%})" if asked else ""
    print(f"hits        {summary['hits']:,} of {asked:,} texts{rate}")
    print(f"saved       {summary['seconds_saved']:,.1f} s")


def namespaces(location: opt.Store = None, json: opt.Json = False) -> None:
    """List the namespaces of a store: its models, each with the settings that decide a vector."""
    with _open(location) as store:
        infos = store.namespaces()
        where = store.location
    if json:
        print_json([as_dict(info) for info in infos])
        return
    print(where)
    print_table(
        ("id", "model", "settings", "vectors", "size", "hits", "saved"),
        (
            (
                info.namespace.id.hex()[:ID_SHOWN],
                info.namespace.model_name,
                settings_of(info),
                f"{info.entries:,} x {info.dim} {info.dtype}",
                format_bytes(info.bytes),
                f"{info.hits:,} of {info.hits + info.misses:,}",
                f"{info.seconds_saved:,.1f} s",
            )
            for info in infos
        ),
        left=3,
    )


def verify(location: opt.Store = None, json: opt.Json = False) -> None:
    """Read every row and check it against its checksum; exit code 1 if something is damaged."""
    with _open(location) as store:
        with progress_bar(store.stats().entries, "rows") as bar:
            report = store.verify(bar.update)
        where = store.location
    if json:
        print_json({"store": where, "ok": report.ok, **asdict(report)})
    else:
        for problem in report.problems:
            print(problem)
        print(f"{where}: {report.rows:,} rows, {report.corrupt:,} damaged")
        if not report.ok:
            print("damaged rows are never returned; 'embstore compact' drops them", file=sys.stderr)
    if not report.ok:
        raise typer.Exit(1)


def compact(location: opt.Store = None, json: opt.Json = False) -> None:
    """Give back the space of deleted and damaged rows."""
    with _open(location, read_only=False) as store:
        with progress_bar(store.stats().entries, "rows") as bar:
            report = store.compact(bar.update)
        where = store.location
    if json:
        print_json({"store": where, **asdict(report)})
    else:
        before, after = format_bytes(report.bytes_before), format_bytes(report.bytes_after)
        print(f"{where}: {report.rows:,} rows, {before} before, {after} after")


def prune(
    location: opt.Store = None,
    max_size: Annotated[
        str | None, typer.Option(help='Vectors go until less is taken: "10GB", "500MiB".')
    ] = None,
    older_than: Annotated[
        str | None, typer.Option(help='Vectors go that were not used for so long: "30d", "12h".')
    ] = None,
    namespace: Which = None,
    json: opt.Json = False,
) -> None:
    """Delete the vectors used longest ago: until a size is kept, or those of an age."""
    if max_size is None and older_than is None:
        raise InputError("say what is to go: --max-size, --older-than, or both")
    try:
        limits: dict[str, Any] = {
            "max_size": parse_bytes(max_size),
            "older_than": None if older_than is None else parse_seconds(older_than),
        }
    except ValueError as error:
        raise InputError(str(error)) from error
    with _open(location, read_only=False) as store:
        infos = store.namespaces()
        chosen = None if namespace is None else select(infos, namespace)
        if chosen is not None and len(chosen) > 1:
            raise InputError(f"{len(chosen)} namespaces match {namespace!r}: give an id")
        limits["namespace"] = chosen[0].namespace if chosen else None
        with progress_bar(sum(info.entries for info in chosen or infos), "rows") as bar:
            pruned = store.prune(progressed=bar.update, **limits)
        where, size = store.location, store.stats().bytes
    if json:
        print_json({"store": where, "pruned": pruned, "bytes": size})
    else:
        print(f"{where}: {pruned:,} vectors deleted, {format_bytes(size)} on disk")


def clear(
    location: opt.Store = None, namespace: Which = None, yes: Yes = False, json: opt.Json = False
) -> None:
    """Delete vectors: those of a namespace, of all namespaces of a model, or all."""
    with _open(location, read_only=False) as store:
        infos = select(store.namespaces(), namespace)
        if not yes:
            for info in infos:
                name = info.namespace.model_name
                print(f"{info.entries:,} vectors of {name}, {settings_of(info)}", file=sys.stderr)
            typer.confirm(f"Delete them from {store.location}?", abort=True, err=True)
        cleared = sum(store.clear(info.namespace) for info in infos)
        where = store.location
    if json:
        print_json({"store": where, "namespaces": len(infos), "cleared": cleared})
    else:
        print(f"{where}: {cleared:,} vectors deleted")


def _open(location: str | None, *, read_only: bool = True) -> EmbeddingStore:
    """The store at ``location``, which must be there: a mistyped path should not become one."""
    store = EmbeddingStore(location, read_only=True, on_error="raise")
    if read_only:
        return store
    store.close()
    return EmbeddingStore(location, on_error="raise")


def select(infos: Sequence[NamespaceInfo], wanted: str | None) -> Sequence[NamespaceInfo]:
    if wanted is None:
        return infos
    if named := [info for info in infos if info.namespace.model_name == wanted]:
        return named
    matching = [info for info in infos if info.namespace.id.hex().startswith(wanted.lower())]
    if not wanted or len(matching) != 1:
        raise InputError(
            f"{len(matching) or 'no'} namespaces match {wanted!r}; "
            "'embstore namespaces' lists their models and ids"
        )
    return matching


def settings_of(info: NamespaceInfo) -> str:
    """Those settings that are set; of the fingerprint and a usual dtype, people learn nothing."""
    settings: dict[str, Any] = info.namespace.to_dict()
    del settings["model_name"], settings["fingerprint"]
    if settings["dtype"] == info.dtype:
        del settings["dtype"]
    return ", ".join(f"{name}={value!r}" for name, value in settings.items() if value)


def as_dict(info: NamespaceInfo) -> dict[str, Any]:
    fields = {
        **asdict(info),
        "namespace": info.namespace.to_dict(),
        "seconds_saved": round(info.seconds_saved, 3),
    }
    return {"id": info.namespace.id.hex(), **fields}
