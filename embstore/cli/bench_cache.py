"""``embstore bench cache`` and ``embstore bench hit-rate``: what a cache gains, and how large."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from embstore.batching import cache_benchmark, figures, hit_rates, impact
from embstore.batching.cache_benchmarks import notebook_texts
from embstore.batching.corpus import sample, stdlib_paragraphs
from embstore.batching.hit_rate import SIZES
from embstore.batching.report import write_report
from embstore.cli import bench_result
from embstore.cli import options as opt
from embstore.cli.output import print_json
from embstore.cli.texts import read_texts

# With these, all of it takes about a minute on two cores.
_PARAGRAPHS = 300
_IMPACT_TEXTS = 200
_SIZES = ",".join(map(str, SIZES))

Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Take a sample of so many texts.",
        show_default=f"all of FILE, {_PARAGRAPHS} docstring paragraphs",
    ),
]
Sizes = Annotated[str, typer.Option(metavar="N,N,...", help="Entries that are kept at most.")]


def cache(
    file: bench_result.File = None,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.OwnModel = None,
    device: opt.Device = None,
    rounds: bench_result.Rounds = 3,
    limit: Limit = None,
    plot: bench_result.Plot = None,
    html: bench_result.Html = None,
    as_json: opt.Json = False,
) -> None:
    """Measure no cache, a cold one and a warm one, in this process and in a new one.

    Then, what batching and caching gain with few and with many repeats; --plot draws the former.
    Without FILE, 500 sentences and docstring paragraphs of the standard library are embedded.

    [bold]Example:[/bold] embstore bench cache queries.txt --plot cache.svg
    """
    bench_result.check_targets(plot, html)
    if file is None:
        texts = stdlib_paragraphs(limit or _PARAGRAPHS)
        lists = {"notebook": notebook_texts(), "docstrings": texts}
    else:
        texts = read_texts(file, file_format=file_format, column=column, encoding=encoding)
        if limit is not None:
            texts = sample(texts, limit)
        lists = {_name(file): texts}
    path = model or opt.default_model()
    name = opt.DEFAULT_MODEL if model is None else None
    show = bench_result.show_progress()
    measured = cache_benchmark(
        path, lists, rounds=rounds, model_name=name, device=device, progress=show
    )
    table = impact(
        path,
        list(dict.fromkeys(texts))[:_IMPACT_TEXTS],
        rounds=rounds,
        model_name=name,
        device=device,
        progress=show,
    )
    sections = [measured.section(), table.section()]
    if plot is not None:
        figures.save(measured.figure(), plot)
    if html is not None:
        write_report(html, sections)
    if as_json:
        print_json({"cache": json.loads(measured.to_json()), "impact": json.loads(table.to_json())})
    else:
        print(*sections, sep="\n\n\n")


def hit_rate(
    file: bench_result.File = None,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    sizes: Sizes = _SIZES,
    plot: bench_result.Plot = None,
    html: bench_result.Html = None,
    as_json: opt.Json = False,
) -> None:
    """Count how many texts of a stream memory tiers of several sizes answer.

    The stream is FILE in its own order: a log of queries, for instance. Without FILE, it is drawn
    from real texts by Zipf's law. No model is needed.

    [bold]Example:[/bold] embstore bench hit-rate queries.txt --sizes 100,1000,10000
    """
    bench_result.check_targets(plot, html)
    wanted = bench_result.numbers(sizes, "--sizes")
    if file is None:
        rates = hit_rates(None, wanted)
    else:
        texts = read_texts(file, file_format=file_format, column=column, encoding=encoding)
        rates = hit_rates(texts, wanted, stream=_name(file))
    document = json.loads(rates.to_json())
    bench_result.give_back(rates.section(), document, as_json=as_json, plot=plot, html=html)


def _name(file: str) -> str:
    return "standard input" if file == "-" else Path(file).name
