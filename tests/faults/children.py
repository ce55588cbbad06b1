"""Processes of their own for what must not happen to the one that runs the tests."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NOBODY = 65534


def in_child(work: Callable[[], T], seconds: int = 60) -> T:
    """What ``work`` returns (JSON) in a forked process.

    Raises:
        AssertionError: if it raises anything, takes longer than ``seconds``, or ends its process.
    """
    receiver, sender = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(receiver)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(seconds)
        said = {}
        sys.unraisablehook = lambda error: said.update(error=f"destructor: {error.exc_value!r}")
        try:
            said["result"] = work()
        except BaseException:
            said["error"] = traceback.format_exc()
        with open(sender, "w") as pipe:
            json.dump(said, pipe)
        os._exit(0)
    os.close(sender)
    with open(receiver) as pipe:
        text = pipe.read()
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    assert status == 0, f"the process ended with {status}"
    said = json.loads(text)
    assert "error" not in said, said["error"]
    return said["result"]


def as_user(directory: Path | None, work: Callable[[], T]) -> T:
    """The same without root's rights, in a process that owns everything below ``directory``."""

    def unprivileged() -> T:
        if os.geteuid() == 0:
            if directory is not None:
                give(directory)
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
        return work()

    return in_child(unprivileged)


def give(directory: Path, user: int = NOBODY) -> None:
    """Make a directory and everything below it a user's."""
    for path in [directory, *directory.rglob("*")]:
        shutil.chown(path, user, user)


def allow(directory: Path, folders: int, files: int) -> None:
    """Set the permissions of a directory and everything below it."""
    if folders & 0o200:
        directory.chmod(folders)  # or nobody could look into it
    for path in directory.iterdir():
        if path.is_dir():
            allow(path, folders, files)
        else:
            path.chmod(files)
    directory.chmod(folders)
