"""Processes for trials: a new one to run in, and forks of that."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from embstore import StoreWarning
from tests.soak.trial import Outcome

PATIENCE = 60
"""Seconds after which a child counts as stuck: it says where, and is ended."""
STUCK = 1
"""Exit code of a child that was stuck."""
FAILED = 2
"""Exit code of a child that raised."""

Run = Callable[[Path, int], Outcome]


def apart(run: Run, place: Path, count: int) -> Outcome:
    """Run a trial in a new process, which has none of this one's threads, models and signals."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, run, place, count))
    process.start()
    sender.close()
    try:
        outcome: Outcome = receiver.recv()
        process.join()
    except EOFError:
        process.join()
        outcome = Outcome({}, [f"the trial's process ended with {process.exitcode}"])
    finally:
        process.kill()
    return outcome


def _send(sender: Connection, run: Run, place: Path, count: int) -> None:
    strict()
    try:
        outcome = run(place, count)
    except Exception:
        outcome = Outcome({}, [traceback.format_exc()])
    sender.send(outcome)


def strict() -> None:
    """A store that warns is a store that failed."""
    warnings.simplefilter("error", StoreWarning)
    # Python 3.12 and newer warn of what these trials are there to show.
    warnings.filterwarnings("ignore", ".*multi-threaded, use of fork", DeprecationWarning)


def fork(work: Callable[[int], None], patience: float | None = PATIENCE) -> tuple[int, int]:
    """Fork a child that does ``work``, given a pipe to write to.

    Args:
        work: what the child does; when it returns, the child ends.
        patience: seconds after which the child counts as stuck; None if it takes as long as it
            takes.

    Returns:
        The child's process id, and the pipe's end to read from.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            if patience is not None:
                faulthandler.dump_traceback_later(patience, exit=True)
            work(writer)
            os._exit(0)  # nothing of the parent's is to be cleaned up here
        except BaseException:
            traceback.print_exc()
            os._exit(FAILED)
    os.close(writer)
    return pid, reader


def read_lines(reader: int) -> list[str]:
    """The whole lines that a child wrote until it ended. Closes the pipe."""
    with open(reader, "rb") as pipe:
        lines = pipe.read().splitlines(keepends=True)
    return [line.decode().strip() for line in lines if line.endswith(b"\n")]


def wait_for(pid: int) -> int:
    """The exit code of a child; the negative number of the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def is_kill(code: int) -> bool:
    """Whether it was kill -9."""
    return code == -signal.SIGKILL
