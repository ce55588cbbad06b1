"""A process of another user, for tests that root runs.

It is forked, and so has imported already what its user might not be allowed to read.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any


class User:
    """A process of another user, which keeps the stores it opened.

    Args:
        uid: who it is.
    """

    def __init__(self, uid: int) -> None:
        context = multiprocessing.get_context("fork")
        self._here, there = context.Pipe()
        self._process = context.Process(target=serve, args=(uid, there), daemon=True)
        self._process.start()
        there.close()
        assert self.do(os.getuid) == uid

    def do(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """What ``work`` returns in that process, where nothing may be raised or warned of."""
        self._here.send((work, arguments))
        assert self._here.poll(60), "no answer"
        result, trouble = self._here.recv()
        assert trouble is None, trouble
        return result

    def end(self) -> None:
        """End the process."""
        self._here.send(None)
        self._process.join(60)
        assert self._process.exitcode == 0


def serve(uid: int, asked: Connection) -> None:
    """Become another user, and do what is asked for until that is None."""
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    while task := asked.recv():
        work, arguments = task
        try:
            asked.send((work(*arguments), None))
        except BaseException:
            asked.send((None, traceback.format_exc()))
    os._exit(0)  # nothing that was inherited is to be cleaned up here
