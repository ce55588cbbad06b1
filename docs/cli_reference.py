"""Writes the reference in ``cli.md`` from the command line itself: ``make docs`` runs it.

What stands above the marker is written by hand. A test compares the rest with what it would be now,
so no command or option is undocumented.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import typer

from embstore.cli.app import app

PAGE = Path(__file__).with_name("cli.md")
MARKER = "<!-- From here on: python docs/cli_reference.py -->\n"

HEADED = re.compile(r"\[bold\](.+?):\[/bold\]\s*", re.DOTALL)
VALUES = {int: "N", float: "X", Path: "PATH"}
"""What stands for the value of an option that does not say it itself."""


def walk(command: Any, *above: str) -> Iterator[tuple[str, Any]]:
    """A command and all below it, each with its name as it is typed."""
    yield " ".join(above), command
    for name, below in getattr(command, "commands", {}).items():
        if not below.hidden:
            yield from walk(below, *above, name)


def commands() -> dict[str, Any]:
    """Every command of the command line, by its name as it is typed."""
    return dict(walk(typer.main.get_command(app), "embstore"))


def reference() -> str:
    """The reference of all commands, as Markdown."""
    return "\n".join(section(name, command) for name, command in commands().items())


def section(name: str, command: Any) -> str:
    """The reference of one command."""
    usage = [name, "[OPTIONS]"]
    usage += [shown(argument) for argument in command.params if is_argument(argument)]
    if hasattr(command, "commands"):
        usage.append("COMMAND")
    lines = [f"## {name}", "", f"    {' '.join(usage)}", "", prose(command.help or "")]
    if rows := [row(command, each) for each in command.params if not each.hidden]:
        lines += ["", "| | |", "| --- | --- |", *rows]
    return "\n".join(lines) + "\n"


def is_argument(parameter: Any) -> bool:
    """Whether it is given by its place, and not by a name."""
    return bool(parameter.param_type_name == "argument")


def shown(argument: Any) -> str:
    """An argument as it stands in the usage."""
    name = argument.metavar or argument.name.upper()
    name += "..." if argument.nargs == -1 else ""
    return name if argument.required else f"[{name}]"


def prose(help_text: str) -> str:
    """A help text as Markdown: headed lines in bold, examples as code."""
    return "\n\n".join(paragraph(each) for each in inspect.cleandoc(help_text).split("\n\n"))


def paragraph(text: str) -> str:
    """One paragraph of a help text."""
    lines_matter = "\b" in text
    text = text.replace("\b", "").strip()
    head = HEADED.match(text)
    if head is None:
        return text.replace("\\[", "[")
    rest = text[head.end() :].replace("\\[", "[")
    if not head[1].startswith("Example"):
        return f"**{head[1]}:** {rest}"
    code = rest if lines_matter else " ".join(rest.split())
    return f"{head[1]}:\n\n{textwrap.indent(code, '    ')}"


def row(command: Any, parameter: Any) -> str:
    """A line of the table: how it is given, and what it means."""
    if is_argument(parameter):
        given = shown(parameter)
    else:
        given = ", ".join([*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag:
            given += f" {value(command, parameter)}"
    means = parameter.help or ""
    if default := default_of(parameter):
        means += f" Default: {default}."
    elif parameter.required and not is_argument(parameter):
        means += " Required."
    return f"| `{given}` | {means} |"


def value(command: Any, option: Any) -> str:
    """What stands for the value of an option."""
    if option.metavar:
        return str(option.metavar)
    hints = get_type_hints(inspect.unwrap(command.callback)) if command.callback else {}
    kinds = [
        each for each in (get_args(hints.get(option.name)) or [hints.get(option.name)]) if each
    ]
    for kind in kinds:
        if inspect.isclass(kind) and issubclass(kind, Enum):
            return "{" + ",".join(each.value for each in kind) + "}"
        if get_origin(kind) is Literal:
            return "{" + ",".join(get_args(kind)) + "}"
        if kind in VALUES:
            return VALUES[kind]
    return str(option.opts[0]).strip("-").upper().replace("-", "_")


def default_of(parameter: Any) -> str:
    """The default that the command shows; "" if there is none to show."""
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    hidden = parameter.show_default is False or callable(parameter.default)
    if hidden or parameter.default in (None, False, ()) or parameter.is_flag:
        return ""
    return f"`{getattr(parameter.default, 'value', parameter.default)}`"


def page() -> str:
    """The whole page as it is to be."""
    return PAGE.read_text().partition(MARKER)[0] + MARKER + "\n" + reference()


if __name__ == "__main__":
    PAGE.write_text(page())
