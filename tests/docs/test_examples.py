"""Every example of the docs runs, and every command in them is one that there is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from docs.cli_reference import commands
from tests.docs.pages import OTHERS, PAGES, blocks, name_of
from tests.docs.pages import commands as commands_in

RUN = {"python", "pycon", "bash", "console"}
KNOWN = RUN | {"", "text", "json", "yaml", "toml", "ini", "dockerfile", "sh", "html", "{toctree}"}
KNOWN |= {"{eval-rst}", "{literalinclude}"}
WITH_EXAMPLES = [
    page
    for page in PAGES
    if any(block.language in ("python", "pycon") or block.flags == "run" for block in blocks(page))
]
COMMANDS = commands()


@pytest.mark.parametrize("page", WITH_EXAMPLES, ids=name_of)
def test_examples_run(page: Path, perform: Callable[[Path], None]) -> None:
    perform(page)


def test_no_example_is_left_out() -> None:
    left_out = [
        f"{name_of(page)}:{block.line}: {block.flags}"
        for page in PAGES
        for block in blocks(page)
        if block.language in RUN and block.flags not in ("", "run")
    ]
    assert left_out == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_says_what_it_is(page: Path) -> None:
    """A block of "py" would be run by nobody."""
    assert {block.language for block in blocks(page)} <= KNOWN


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_commands_exist(page: Path) -> None:
    for line, words in commands_in(page):
        check(words, f"{name_of(page)}:{line}")


def check(words: list[str], where: str) -> None:
    """Fail unless a command has every subcommand and option that ``words`` name."""
    name = "embstore"
    while words and f"{name} {words[0]}" in COMMANDS:
        name = f"{name} {words.pop(0)}"
    command = COMMANDS[name]
    if words and not words[0].startswith("-"):
        assert not hasattr(command, "commands"), f"{where}: {name} has no command {words[0]}"
    context = command.context_class(command, info_name=name)
    given, left, _ = command.make_parser(context).parse_args(list(words))
    assert not left, f"{where}: {name} takes no {left}"
    if words not in ([], ["--help"]):
        missing = [
            each.name for each in command.params if each.required and not given.get(each.name)
        ]
        assert not missing, f"{where}: {name} needs {missing}"


@pytest.mark.parametrize("words", ["stats --nope", "nope", "bench nope", "encode a.txt"])
def test_that_it_would_be_seen(words: str) -> None:
    with pytest.raises(Exception, match=r"nope|needs \['output'\]"):
        check(words.split(), "here")
