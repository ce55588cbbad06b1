"""``embstore``: what its commands have in common, and their list."""

from __future__ import annotations

from typing import Annotated

import typer

from embstore import __version__
from embstore.cli import (
    bench,
    demo,
    doctor,
    drift,
    embed,
    inspect,
    migrate,
    moving,
    report,
    stores,
)
from embstore.cli.errors import Commands

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"embstore {__version__}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    """Embed texts, and keep the vectors on disk so that no text is embedded twice.

    \b
    [bold]Examples:[/bold]
    embstore encode lines.txt -o vectors.npy
    embstore encode articles.csv --column body -o vectors.npy
    jq -c .question log.jsonl | embstore warm - --format jsonl
    embstore stats --store ./embeddings
    embstore verify --json
    embstore doctor
    embstore prune --older-than 90d --max-size 10GB
    embstore clear --namespace BAAI/bge-small-en-v1.5
    embstore demo
    embstore bench batch-size --plot batch_size.svg
    embstore bench --html report.html

    [bold]Exit codes:[/bold] 0 done, 1 a check failed or a question was answered with no,
    2 bad usage or input, 130 interrupted. Tables are coloured on terminals only; NO_COLOR is heard.
    """


app.command()(embed.encode)
app.command()(embed.warm)
app.command()(stores.stats)
app.command()(stores.namespaces)
app.command()(stores.verify)
app.command()(doctor.doctor)
app.command()(stores.compact)
app.command()(stores.prune)
app.command()(stores.clear)
app.command()(drift.drift)
app.command()(inspect.inspect)
app.command()(report.report)
app.command()(moving.export)
app.command(name="import")(moving.import_)
app.command()(moving.merge)
app.command()(moving.bake)
app.add_typer(migrate.app, name="migrate")
app.command()(demo.demo)
app.add_typer(bench.app, name="bench")
