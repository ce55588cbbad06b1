"""Runs the examples of pages, each page in a process of its own.

For each page there is a line of JSON on stdin, and one on stdout when it was run. A page's process
is a fork of this one, so that torch is imported once and not for each page.
"""

from __future__ import annotations

import doctest
import faulthandler
import json
import linecache
import os
import subprocess
import sys
import traceback
import types
import warnings
from pathlib import Path

from embstore import StoreWarning
from tests.docs.pages import Block, blocks

SECONDS = 60
"""What the examples of a page may take, on a busy machine."""

MISSING = 77
"""Exit code of a page that needs a library which is not installed."""


def perform(page: Path) -> int:
    """Run the blocks of a page in order, in one namespace; returns the exit code."""
    if any("\ndef test_" in block.code for block in blocks(page)):
        return perform_tests(page)
    warnings.simplefilter("error", StoreWarning)
    # As a script, so that what is defined can be pickled for another process.
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    for block in blocks(page):
        try:
            run(block, vars(module))
        except ImportError as error:
            theirs = isinstance(error, ModuleNotFoundError) and error.name != "embstore"
            if theirs or "pip install 'embstore[" in str(error):
                print(f"line {block.line}: {error}")
                return MISSING
            raise
    return 0


def perform_tests(page: Path) -> int:
    """Run a page whose examples are tests, as the test module that they make together."""
    code = ""
    for block in blocks(page):
        if block.language == "python":
            code += "\n" * (block.line - code.count("\n")) + block.code
    module = Path(f"test_{page.stem.replace('-', '_')}.py")
    module.write_text(code)
    arguments = ["-q", "-p", "no:cacheprovider", "-p", "no:asyncio", "-W", "error", str(module)]
    return subprocess.run([sys.executable, "-m", "pytest", *arguments], check=False).returncode


def run(block: Block, names: dict[str, object]) -> None:
    """Run one block, if it is to be run."""
    if block.language == "python" and not block.flags.startswith("no-run"):
        # With the page's own line numbers.
        exec(compile("\n" * block.line + block.code, block.page, "exec"), names)
    elif block.language == "pycon":
        example = doctest.DocTestParser().get_doctest(
            block.code, names, block.page.name, str(block.page), block.line
        )
        options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        outcome = doctest.DocTestRunner(optionflags=options).run(example, clear_globs=False)
        assert not outcome.failed, "the example gives something else"
        names.update(example.globs)
    elif block.language in ("bash", "console") and block.flags == "run":
        subprocess.run(["bash", "-euo", "pipefail", "-c", block.code], check=True)


def serve() -> None:
    """Run page after page, until stdin ends."""
    if sys.argv[1] == "models":
        import sentence_transformers  # noqa: F401
    for line in sys.stdin:
        page, folder = map(Path, json.loads(line))
        child = os.fork()
        if not child:
            sys.exit(in_folder(page, folder))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print(json.dumps(code), flush=True)


def in_folder(page: Path, folder: Path) -> int:
    """Run a page in a folder, with what it writes beside that."""
    written = os.open(folder.with_suffix(".out"), os.O_WRONLY | os.O_CREAT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for number, place in enumerate((nothing, written, written)):
        os.dup2(place, number)
    faulthandler.dump_traceback_later(SECONDS, exit=True)
    os.chdir(folder)
    os.environ["EMBSTORE_HOME"] = str(folder.with_suffix(".home"))
    linecache.clearcache()
    try:
        return perform(page)
    except BaseException:
        traceback.print_exc()
        return 1


if __name__ == "__main__":
    serve()
