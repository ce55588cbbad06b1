"""Processes that read one store at once."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from xxhash import xxh3_128_hexdigest

from benchmarks.peers.catalogue import Entry
from benchmarks.peers.stage import Stage


def command(entry: Entry, folder: Path, dim: int) -> list[str]:
    """What starts ``fresh.py`` for a cache."""
    return [sys.executable, "-m", "benchmarks.peers.fresh", *entry.reference, str(folder), str(dim)]


def payload(texts: list[str]) -> str:
    """The first line it reads."""
    return json.dumps(texts) + "\n"


class Crowd:
    """As many processes as there are lists of texts, each with the same store open."""

    def __init__(self, entry: Entry, folder: Path, stage: Stage, asked: list[list[str]]) -> None:
        self._command = command(entry, folder, stage.dim)
        self._asked = asked
        self._expected = [xxh3_128_hexdigest(stage.floor(texts).data) for texts in asked]
        self._stack = ExitStack()
        self._members: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Crowd:
        for _ in self._asked:
            member = subprocess.Popen(
                self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            self._members.append(self._stack.enter_context(member))
            self._stack.callback(self._let_go, member)
        for member, texts in zip(self._members, self._asked, strict=True):
            self._say(member, payload(texts))
        for member in self._members:
            self._hear(member)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def ask(self) -> None:
        """Have all answer at once, and wait for the last.

        Raises:
            AssertionError: if one has other vectors than those stored.
        """
        for member in self._members:
            self._say(member, "go\n")
        answers = [self._hear(member) for member in self._members]
        if answers != self._expected:
            raise AssertionError("a process has other vectors than those that were stored")

    @staticmethod
    def _say(member: subprocess.Popen[str], line: str) -> None:
        assert member.stdin is not None
        member.stdin.write(line)
        member.stdin.flush()

    @staticmethod
    def _hear(member: subprocess.Popen[str]) -> str:
        assert member.stdout is not None
        line = member.stdout.readline().strip()
        if not line:
            raise RuntimeError("a process that was to read failed; see above")
        return line

    @staticmethod
    def _let_go(member: subprocess.Popen[str]) -> None:
        """The end of its stdin is its end; one that does not see it is killed."""
        assert member.stdin is not None
        try:
            member.stdin.close()
            member.wait(30)
        except (OSError, subprocess.TimeoutExpired):
            member.kill()
