"""A function called in a new process: ``call(function, argument=1)``.

What a process costs (opening, first look-up, memory) shows in none that has done something before.
Arguments go to the process and figures come from it as JSON, on stdin and stdout.
"""

from __future__ import annotations

import importlib
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

Figures = dict[str, float]
"""Seconds, bytes and numbers by name; ``catalogue.py`` says what each is."""


def call(function: Callable[..., Figures], **arguments: Any) -> Figures:
    """Call a module's function in a new process; adds its whole time, "process"."""
    return call_at_once(function, [arguments])[0]


def call_at_once(
    function: Callable[..., Figures], arguments: Sequence[dict[str, Any]]
) -> list[Figures]:
    """Call it in as many new processes at once as there are arguments.

    Raises:
        RuntimeError: if one fails; why, it says itself on stderr.
    """
    command = [sys.executable, "-m", __name__, function.__module__, function.__name__]
    started = time.perf_counter()
    children = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in arguments
    ]
    try:
        for child, each in zip(children, arguments, strict=True):
            assert child.stdin is not None
            child.stdin.write(json.dumps(each))
            child.stdin.close()
            child.stdin = None  # communicate() would flush it
        outputs = [child.communicate()[0] for child in children]
    finally:
        for child in children:
            child.kill()  # does nothing to one that has ended
            child.wait()
    seconds = time.perf_counter() - started
    if any(child.returncode for child in children):
        raise RuntimeError(f"{function.__name__} failed in a process of its own; see above")
    return [{**json.loads(output), "process": seconds} for output in outputs]


def median_of(times: int, function: Callable[..., Figures], **arguments: Any) -> Figures:
    """Call it in several new processes, one after the other; the median of each figure."""
    taken = [call(function, **arguments) for _ in range(times)]
    return {name: statistics.median(each[name] for each in taken) for name in taken[0]}


def main() -> None:
    """What a new process runs."""
    # A thousand namespaces take more open files than most shells allow; the tables say how many.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    module, name = sys.argv[1:]
    figures = getattr(importlib.import_module(module), name)(**json.load(sys.stdin))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
