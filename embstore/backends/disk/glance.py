"""What is going on in a store on disk, at a glance: nothing is written, made or waited for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embstore.backends.disk.health import is_pending
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.workers import Workers
from embstore.errors import StoreDamagedError, StoreError, StoreRefusedError

_TIMEOUT = 2.0


@dataclass(frozen=True)
class Glance:
    """What is going on in a store.

    Attributes:
        workers: processes alive that compute for it, or did since they opened it; None if that
            cannot be told.
        claimed: texts that are being computed; None likewise.
        identities: everything that was recorded of models.
        problems: what is wrong with the ledger, a sentence each. (Vectors are not looked at.)
        unread: why the ledger could not be looked at; "" if it was.
    """

    workers: int | None = None
    claimed: int | None = None
    identities: tuple[dict[str, Any], ...] = ()
    problems: tuple[str, ...] = ()
    unread: str = ""


def glance(directory: Path) -> Glance:
    """Look at a store.

    Raises:
        StoreRefusedError: if a newer embstore made it, or it is something else.
    """
    workers = Workers(directory)
    alive = workers.count_alive()
    if is_pending(directory):
        return Glance(alive, unread="SQLite's log waits to be taken over by whoever writes next")
    ledger: Ledger | None = None
    try:
        ledger = Ledger(directory, _TIMEOUT, "ro")
        problems = ledger.check()
        claimed = None if alive is None else _count_claimed(ledger, workers)
        return Glance(alive, claimed, tuple(ledger.identities().values()), tuple(problems))
    except StoreRefusedError:
        raise
    except StoreDamagedError as damage:
        return Glance(alive, problems=(str(damage),))
    except StoreError as error:
        return Glance(alive, unread=str(error))
    finally:
        if ledger is not None:
            ledger.close()


def _count_claimed(ledger: Ledger, workers: Workers) -> int:
    claims = [
        claimed
        for namespace_id in ledger.claims.namespaces()
        for claimed in ledger.claims.others(namespace_id, b"", workers.is_alive)[0]
    ]
    return sum(map(len, claims))
