"""``embstore bench``: the list of its commands, and all of them on one page."""

from __future__ import annotations

from typing import Any

import typer

from embstore.batching import cache_benchmark, hit_rates, impact, sweep
from embstore.batching.report import write_report
from embstore.cli import bench_batch_size, bench_cache, bench_result
from embstore.cli import options as opt
from embstore.cli.errors import InputError

# Two are enough to see whether they agree; all takes some minutes on two cores.
_ROUNDS = 2

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


@app.callback(invoke_without_command=True)
def bench(
    context: typer.Context,
    html: bench_result.Html = None,
    model: opt.OwnModel = None,
    device: opt.Device = None,
    rounds: bench_result.Rounds = _ROUNDS,
) -> None:
    """Measure how embeddings are made here: batch sizes, caches, hit rates.

    A command measures one thing, with its own options. Without one, --html measures everything, on
    texts that embstore brings along, and writes it to one page.

    [bold]Example:[/bold] embstore bench --html report.html
    """
    if context.invoked_subcommand is not None:
        # Options in front of a command are not the command's, and would be ignored in silence.
        if any((html, model, device)) or rounds != _ROUNDS:
            raise InputError(f"put options behind the command, {context.invoked_subcommand}")
        return
    if html is None:
        raise InputError("say where the page goes with --html, or name a command: see --help")
    bench_result.check_targets(None, html)
    how: dict[str, Any] = {
        "rounds": rounds,
        "model_name": opt.DEFAULT_MODEL if model is None else None,
        "device": device,
        "progress": bench_result.show_progress(),
    }
    path = model or opt.default_model()
    sections = []
    for measure in (sweep, cache_benchmark, impact):
        sections.append(measure(path, **how).section())
        print(sections[-1], end="\n\n\n", flush=True)
    sections.append(hit_rates().section())
    print(sections[-1])
    write_report(html, sections)


app.command("batch-size")(bench_batch_size.batch_size)
app.command()(bench_cache.cache)
app.command("hit-rate")(bench_cache.hit_rate)
