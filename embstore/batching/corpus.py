"""A real corpus that every Python carries: the docstrings of its standard library."""

from __future__ import annotations

import ast
import gc
import re
import sysconfig
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

_SKIPPED = {"site-packages", "dist-packages", "test", "tests"}
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def stdlib_paragraphs(limit: int | None = None) -> list[str]:
    """The paragraphs of the standard library's docstrings, some 16,600 in Python 3.11.

    About 7 % are repeats. The same Python gives the same list on every machine. Nothing is imported
    from the library: its files are only parsed, which takes some seconds.

    Args:
        limit: number of paragraphs to return, chosen as :func:`sample` does; None for all.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix())
    paragraphs = [
        paragraph.strip()
        for path in files
        if _SKIPPED.isdisjoint(path.relative_to(root).parts)
        for docstring in _docstrings(path.read_bytes())
        for paragraph in re.split(r"\n\s*\n", docstring)
        if paragraph.strip()
    ]
    return paragraphs if limit is None else sample(paragraphs, limit)


def sample(texts: Sequence[str], limit: int) -> list[str]:
    """``limit`` of the texts, in their order; all, if there are not as many.

    A text is taken or left by its own checksum, and with it all its repeats, so that the sample
    repeats itself as much as the whole does. Every k-th text would keep a third of that.

    >>> sample(["c", "a", "b", "c"], 2)
    ['c', 'c']
    """
    order = sorted(range(len(texts)), key=lambda i: crc32(texts[i].encode(errors="surrogatepass")))
    return [texts[i] for i in sorted(order[:limit])]


def _docstrings(source: bytes) -> Iterator[str]:
    for node in _statements(_parsed(source)):
        if isinstance(node, _DOCUMENTED) and (docstring := ast.get_docstring(node)):
            yield docstring


def _parsed(source: bytes) -> ast.Module:
    # A tree has no cycles; looking for some among its nodes takes three times as long as parsing.
    is_collecting = gc.isenabled()
    gc.disable()
    try:
        with warnings.catch_warnings():
            # Old files have invalid escapes, of which the parser warns.
            warnings.simplefilter("ignore")
            return ast.parse(source)
    except (SyntaxError, ValueError):  # templates and fixtures that are not Python
        return ast.Module([], [])
    finally:
        if is_collecting:
            gc.enable()


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All of a file's statements, those further up first; expressions have no docstrings."""
    waiting: deque[ast.AST] = deque([tree])
    while waiting:
        node = waiting.popleft()
        yield node
        for block in ("body", "handlers", "orelse", "finalbody", "cases"):
            waiting.extend(getattr(node, block, ()))
