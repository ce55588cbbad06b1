"""``embstore bench batch-size``: which batch size suits a model on this machine."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Annotated

import typer

from embstore.batching import sweep
from embstore.batching.corpus import sample
from embstore.batching.recommend import GOALS, Goal
from embstore.batching.sweeps import BATCH_SIZES, SENTENCES, UNNOTICED_MS
from embstore.cli import bench_result
from embstore.cli import options as opt
from embstore.cli.bench_result import check_targets, give_back, numbers
from embstore.cli.texts import read_texts

_SIZES = ",".join(map(str, BATCH_SIZES))

BatchSizes = Annotated[str, typer.Option(metavar="N,N,...", help="The sizes to measure.")]
OneGoal = Annotated[
    Goal | None, typer.Option(help="Recommend for this goal only.", show_default="each")
]
Budget = Annotated[
    float, typer.Option(min=0.001, help="What a batch may take when latency is the goal, in ms.")
]


def batch_size(
    file: bench_result.File = None,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.OwnModel = None,
    device: opt.Device = None,
    batch_sizes: BatchSizes = _SIZES,
    rounds: bench_result.Rounds = 3,
    limit: bench_result.Limit = None,
    goal: OneGoal = None,
    budget_ms: Budget = UNNOTICED_MS,
    plot: bench_result.Plot = None,
    html: bench_result.Html = None,
    as_json: opt.Json = False,
) -> None:
    """Measure throughput, latency and memory over batch sizes, and recommend one for each use.

    Without FILE, 1,000 short sentences are embedded. Exit code 1 if --goal latency is asked for and
    no size keeps within the budget.

    [bold]Example:[/bold] embstore bench batch-size queries.txt --goal latency --budget-ms 50
    """
    check_targets(plot, html)
    sizes = numbers(batch_sizes, "--batch-sizes")
    if file is None:
        texts = list(SENTENCES)
    else:
        texts = read_texts(file, file_format=file_format, column=column, encoding=encoding)
    if limit is not None:
        texts = sample(texts, limit)
    if max(sizes) > len(texts):
        print(f"sizes above the {len(texts):,} texts are left out", file=sys.stderr)
    measured = sweep(
        model or opt.default_model(),
        texts,
        sizes,
        rounds,
        model_name=opt.DEFAULT_MODEL if model is None else None,
        device=device,
        progress=bench_result.show_progress(),
    )
    goals = GOALS if goal is None else (goal,)
    found = measured.recommendations(goals, budget_ms=budget_ms)
    document = json.loads(measured.to_json())
    document["recommendations"] = [asdict(recommended) for recommended in found.values()]
    give_back(
        measured.section(goals, budget_ms=budget_ms),
        document,
        as_json=as_json,
        plot=plot,
        html=html,
    )
    if goal is not None and goal not in found:
        raise typer.Exit(1)
