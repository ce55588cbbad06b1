"""Having a ledger: opening or making it, mending it when it is damaged, going on without one."""

from __future__ import annotations

import logging
import os
import secrets
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from embstore.backends.disk import location, repair
from embstore.backends.disk.hardened import FILE
from embstore.backends.disk.ledger import Ledger
from embstore.backends.disk.vectors import SUFFIX
from embstore.backends.disk.verify import first_fault
from embstore.errors import StoreDamagedError, StoreError, StoreRefusedError
from embstore.faults import Warnings
from embstore.locks import LEDGER

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


class Session:
    """The ledger of a store, as long as there is one.

    A damaged ledger is rebuilt from the vector files. One that cannot be used for another reason
    (disk full, locked, permissions) is tried again later; until then vectors are read from the
    files alone, and nothing is written.

    Args:
        directory: the store; made if there is none, unless ``read_only``.
        timeout: seconds to wait for other processes' locks.
        read_only: write nothing.
        seed: seed of a new store; None for a random one.
        forget: called when all that was learnt from the ledger is void.
        warnings: says what was mended, and what this has to do without.

    Attributes:
        ledger: the ledger; None while there is none.
        seed: the seed of the store's digests.
        read_only: whether nothing is written.

    Raises:
        StoreRefusedError: if the store must not be used as it is.
        StoreError: if there is neither a ledger nor any vector file.
    """

    def __init__(
        self,
        directory: Path,
        timeout: float,
        read_only: bool,
        seed: int | None,
        forget: Callable[[], None],
        warnings: Warnings,
    ) -> None:
        self.directory = directory
        self.vectors = directory / location.VECTORS
        self.ledger: Ledger | None = None
        self.seed = 1 + secrets.randbelow(2**63 - 1) if seed is None else seed
        self._timeout = timeout
        self.read_only = read_only
        self._forget = forget
        self._warnings = warnings
        self._fault: StoreError | None = None
        self._retry_at = 0.0
        self._closed = False
        self._is_open = False
        self._open()
        self._is_open = True
        self.seed = self._stored_seed()
        if seed not in (None, self.seed):
            self.close()
            self._refuse("was made with another seed: its digests are not those asked for")

    def _stored_seed(self) -> int:
        if self.ledger is not None:
            return self.ledger.seed
        headers = repair.headers(self.vectors)
        return headers[-1].seed if headers else self.seed

    def _refuse(self, why: str) -> None:
        raise StoreRefusedError(f"{self.directory} {why}", path=str(self.directory))

    # --- opening --------------------------------------------------------------------------------

    def _open(self) -> None:
        if self.read_only:
            self._open_read_only()
            return
        try:
            location.prepare(self.directory)
            file = self.directory / FILE
            if not os.path.lexists(file):
                with LEDGER:
                    location.exclusively(self.directory, self._timeout, self._make)
                if self.ledger is not None:
                    return
            location.check(file)
            self.ledger = Ledger(self.directory, self._timeout)
        except StoreRefusedError:
            raise
        except StoreDamagedError as damage:
            self._recover(damage)
        except StoreError as error:
            self._go_without(error)
        except OSError as error:
            fault = StoreError(f"{self.directory}: {error}", path=str(self.directory))
            fault.__cause__ = error
            self._go_without(fault)
        self._refuse_another_store()

    def _refuse_another_store(self) -> None:
        """Let go of a ledger that took the place of this store's own since that was opened."""
        if self._is_open and self.ledger is not None and self.ledger.seed != self.seed:
            self._drop()
            self._retry_at = time.monotonic() + self._timeout
            self._fault = StoreError(
                f"{self.directory} was replaced by another store: open it again",
                path=str(self.directory),
            )

    def _open_read_only(self) -> None:
        try:
            if not stat.S_ISDIR(os.stat(self.vectors).st_mode):
                self._refuse("holds no store: check the path")
            for path in (self.directory, self.vectors, self.directory / FILE):
                if os.path.lexists(path):
                    location.check(path, foreign=True)
            os.listdir(self.vectors)
        except FileNotFoundError:
            self._refuse("holds no store: check the path")
        except OSError as error:
            message = f"cannot read {self.directory}: {error}"
            raise StoreError(message, path=str(self.directory)) from error
        for mode in ("ro", "immutable"):
            try:
                self.ledger = Ledger(self.directory, self._timeout, mode)
                return
            except StoreRefusedError:
                raise
            except StoreError as fault:
                self._fault = fault

    def _make(self) -> None:
        if os.path.lexists(self.directory / FILE):
            return  # another process has made it while this one waited
        if self._has_files():
            self._mend(StoreDamagedError(f"{self.directory / FILE} is missing"), believe=False)
        else:
            self.ledger = repair.create(self.directory, self._timeout, self.seed)
            _LOG.info("made a store at %r", str(self.directory))

    def _has_files(self) -> bool:
        try:
            return any(self.vectors.glob(f"*{SUFFIX}"))
        except OSError:
            return False

    # --- faults ---------------------------------------------------------------------------------

    def mending(self, work: Callable[[], T]) -> T:
        """Do ``work``; if the ledger proves damaged, mend it and do it again."""
        if self._closed:
            raise StoreError(f"the store at {self.directory} is closed", path=str(self.directory))
        try:
            return work()
        except StoreDamagedError as damage:
            self._recover(damage)
        try:
            return work()
        except StoreDamagedError as damage:
            # Whatever is wrong, looking for it did not find it.
            self._recover(damage, believe=False)
        return work()

    def writable(self) -> Ledger:
        """The ledger, to write.

        Raises:
            StoreError: if the store was opened read-only, or there is no ledger now.
        """
        if self.read_only:
            raise StoreError(f"{self.directory} was opened read-only", path=str(self.directory))
        if self.ledger is None and time.monotonic() >= self._retry_at:
            with LEDGER:
                self._forget()
                self._open()
        if self.ledger is None:
            raise self._fault or StoreError("there is no ledger", path=str(self.directory))
        return self.ledger

    def _recover(self, damage: StoreDamagedError, *, believe: bool = True) -> None:
        """Get a sound ledger, or go on reading without one.

        Unless ``believe``, the ledger is rebuilt even if it looks sound.
        """
        with LEDGER:
            self._drop()
            try:
                if self.read_only:
                    self._open_read_only()  # it may have been rebuilt, or written just then
                    if self.ledger is None:
                        raise self._fault or damage
                    return
                location.exclusively(
                    self.directory, self._timeout, lambda: self._mend(damage, believe=believe)
                )
            except StoreRefusedError:
                raise
            except (StoreError, OSError) as error:
                fault = StoreError(
                    f"{damage}, and cannot be mended now: {error}", path=str(self.directory)
                )
                fault.__cause__ = error
                self._go_without(fault)
            self._refuse_another_store()

    def _mend(self, damage: StoreDamagedError, *, believe: bool) -> None:
        # Another process may have rebuilt it while this one waited.
        if not believe or not self._reopen():
            self.ledger, rows = repair.rebuild(self.directory, self._timeout, self.seed)
            self._warnings.warn(
                f"{damage}; rebuilt it from the vector files, with {rows:,} vectors"
            )

    def _reopen(self) -> bool:
        try:
            ledger = Ledger(self.directory, self._timeout)
        except StoreRefusedError:
            raise
        except StoreError:
            return False
        if first_fault(ledger) is not None:
            ledger.close()
            return False
        self.ledger = ledger
        return True

    def _go_without(self, fault: StoreError) -> None:
        if not self._has_files():
            raise fault
        self._fault = fault
        self._retry_at = time.monotonic() + self._timeout
        self._warnings.warn(f"{fault}; stored vectors are still read, new ones are not kept", fault)

    def _drop(self) -> None:
        self._forget()
        if self.ledger is not None:
            self.ledger.close()
            self.ledger = None

    def close(self) -> None:
        """Let go of everything, for good."""
        with LEDGER:
            self._drop()
            self._closed = True
