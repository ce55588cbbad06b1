"""``embstore demo``: embed a real corpus, then again in a new process, and compare."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from typing import Annotated

import typer

from embstore.batching.corpus import sample, stdlib_paragraphs
from embstore.cli import options as opt
from embstore.cli.demo_pass import Job, Pass
from embstore.cli.errors import InputError
from embstore.cli.output import print_json, print_table
from embstore.cli.texts import read_texts
from embstore.stats import format_bytes

# About half a minute on two cores; the whole corpus takes two to three minutes.
_SAMPLE = 3000

File = Annotated[
    str | None,
    typer.Option(
        "--file", help="Your own texts; - for stdin.", show_default="the standard library's"
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Embed a sample of so many texts; 0 for all.",
        show_default=f"{_SAMPLE:,} of the standard library's, all of FILE's",
    ),
]
DemoStore = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="LOCATION",
        help="Directory or URL of the store.",
        show_default="a new temporary directory",
    ),
]


def demo(
    file: File = None,
    file_format: opt.FileFormat = None,
    column: opt.Column = None,
    encoding: opt.Encoding = "utf-8",
    model: opt.OwnModel = None,
    limit: Limit = None,
    location: DemoStore = None,
    as_json: opt.Json = False,
) -> None:
    """Embed texts, embed them again in a new process, and show what that took.

    The texts are the paragraphs of the standard library's docstrings, or yours. Exit code 1 if the
    second process returns other vectors than the first, computes any, or imports torch.

    [bold]Example:[/bold] embstore demo --file mine.csv --column body --model ./my-model
    """
    if file is None:
        texts = stdlib_paragraphs()
        limit = _SAMPLE if limit is None else limit
        what = f"docstring paragraphs of Python {platform.python_version()}'s standard library"
    else:
        texts = read_texts(file, file_format=file_format, column=column, encoding=encoding)
        what = f"texts of {file}"
    total = len(texts)
    if limit:
        texts = sample(texts, limit)
    model = model or opt.default_model()
    location = location or tempfile.mkdtemp(prefix="embstore-demo-")

    if not as_json:
        print(f"{total:,} {what}")
        if len(texts) < total:
            print(f"a sample of {len(texts):,} of them; --limit 0 takes all")
        # Flushed, so that it stands above the progress bar in a log too.
        print(f"model {model}\n", flush=True)
    job = Job(texts, model, location, progress=not as_json or sys.stderr.isatty())
    first = _run(job, "first process")
    second = _run(job, "second process, same store")
    problems = _check(first, second)
    if as_json:
        print_json(
            {
                "corpus": {"what": what, "total": total, "texts": len(texts)},
                "model": model,
                "store": first.location,
                "first": asdict(first),
                "second": asdict(second),
                "problems": problems,
            }
        )
    else:
        _show(first, second)
    for problem in problems:
        print(f"check failed: {problem}", file=sys.stderr)
    if problems:
        raise typer.Exit(1)


def _run(job: Job, which: str) -> Pass:
    if job.progress:
        print(which, file=sys.stderr)
    started = time.perf_counter()
    # stderr is left alone: the progress bar, warnings and errors go to the user. -P, lest a file of
    # the working directory be taken for a module.
    child = subprocess.run(
        [sys.executable, "-P", "-m", "embstore.cli.demo_pass"],
        input=json.dumps(asdict(job)),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if child.returncode:
        raise InputError(f"the {which} ended with exit code {child.returncode}; see above")
    report = json.loads(child.stdout)
    report["shape"] = tuple(report["shape"])
    return replace(Pass(**report), process_seconds=time.perf_counter() - started)


def _check(first: Pass, second: Pass) -> list[str]:
    """What the demo is there to show, and did not."""
    problems = []
    if (first.shape, first.dtype, first.sha256) != (second.shape, second.dtype, second.sha256):
        problems.append("the second process returned other vectors than the first")
    if second.misses:
        problems.append(f"the second process computed {second.misses:,} texts again")
    if second.torch_imported:
        problems.append("the second process imported torch")
    return problems


def _show(first: Pass, second: Pass) -> None:
    def count(name: str, label: str) -> tuple[str, str, str]:
        return label, f"{getattr(first, name):,}", f"{getattr(second, name):,}"

    def seconds(name: str, label: str) -> tuple[str, str, str]:
        return label, f"{getattr(first, name):,.3f}", f"{getattr(second, name):,.3f}"

    print_table(
        ("", "first process", "second process"),
        (
            count("texts", "texts"),
            count("unique", "unique"),
            count("deduplicated", "repeats"),
            count("memory_hits", "hits, memory tier"),
            count("disk_hits", "hits, disk tier"),
            count("misses", "computed by the model"),
            ("torch imported", _yes(first.torch_imported), _yes(second.torch_imported)),
            seconds("model_seconds", "seconds in the model"),
            seconds("encode_seconds", "seconds in encode(), model load included"),
            seconds("process_seconds", "seconds of the whole process"),
            (
                "texts/s in encode()",
                *(f"{done.texts / done.encode_seconds:,.0f}" for done in (first, second)),
            ),
            ("speed-up of encode()", "1", _ratio(first.encode_seconds, second.encode_seconds)),
            (
                "speed-up of the process",
                "1",
                _ratio(first.process_seconds, second.process_seconds),
            ),
        ),
    )
    same = "bit for bit the same" if first.sha256 == second.sha256 else "and they DIFFER"
    print(f"arrays  {' x '.join(map(str, first.shape))} {first.dtype} from both, {same}")
    print(
        f"store   {second.stored_vectors:,} vectors in {format_bytes(second.stored_bytes)} on disk "
        f"(bare arrays: {format_bytes(second.raw_bytes)})"
    )
    print(f"        {second.location}")
    if known := first.unique - first.misses:
        print(f"        {known:,} of the texts were in it before: the first process was not cold")


def _ratio(slow: float, fast: float) -> str:
    return f"{slow / fast:,.0f} x"


def _yes(value: bool) -> str:
    return "yes" if value else "no"
