"""Claims on a server: leases, renewed as long as their process lives."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from embstore.backends.base import Claimed, Found
from embstore.backends.redis.scripts import CLAIM, RELEASE, RENEW
from embstore.backends.redis.server import Server
from embstore.errors import StoreError
from embstore.keys import Namespace

_Held = tuple[bytes, list[bytes]]
"""A token, and the digests that were claimed with it."""


class Claims:
    """This process's claims, and those of others.

    A claim is a key that its owner made (``SET NX PX``), with a token that no other claim ever has:
    its owner, and a number that only grows. Renewing and releasing compare it, so whoever was away
    for longer than the lease changes nothing of another's claim.

    Args:
        server: has them.
        lease: seconds that a claim outlives its process.
    """

    def __init__(self, server: Server, lease: float) -> None:
        self._server = server
        self._lease = lease
        self._held: dict[tuple[bytes, bytes], _Held] = {}
        self._renewing: threading.Thread | None = None
        self._over = threading.Event()
        self._lock = threading.Lock()
        _OPEN.add(self)

    def claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed:
        """See :meth:`embstore.backends.base.Backend.claim`."""
        self.release(namespace, owner)
        return self._server.settled(lambda: self._claim(namespace, digests, owner, most))

    def _claim(
        self, namespace: Namespace, digests: Sequence[bytes], owner: bytes, most: int
    ) -> Claimed | None:
        server, keys = self._server, self._server.layout
        raw, entry = server.known(namespace) or (b"", None)
        generation = "" if entry is None else entry.generation
        told: list[Any] = [namespace.id, raw, keys.rows(generation), keys.claims(namespace.id)]
        told += [owner, int(1000 * self._lease), most]
        places = [keys.store, keys.owners(namespace.id), keys.counters(generation)]
        answer = server.run(CLAIM, places, [*told, *digests])
        if answer is None:
            server.look_up(namespace)
            return None
        is_, token, others, computed, seconds = cast(
            "tuple[bytes, bytes, int, bytes, bytes]", tuple(answer)
        )
        which = np.frombuffer(is_, np.uint8)
        mine, stored, theirs = (which == ord(letter) for letter in "mst")
        if mine.any():
            self._hold(
                (namespace.id, owner),
                (token, [digests[place] for place in np.flatnonzero(mine).tolist()]),
            )
        pace = float(seconds) / int(computed) if int(computed) else 0.0
        return Claimed(mine, stored, theirs, others, pace)

    def claimed(self, namespace: Namespace, digests: Sequence[bytes]) -> Found:
        """See :meth:`embstore.backends.base.Backend.claimed`."""
        start = self._server.layout.claims(namespace.id)
        keys = [start + digest for digest in digests]
        found = self._server.ask(lambda client: client.mget(keys)) if keys else []
        return np.array([one is not None for one in cast("list[Any]", found)], np.bool_)

    def release(self, namespace: Namespace, owner: bytes) -> None:
        """See :meth:`embstore.backends.base.Backend.release`."""
        self._release(namespace.id, owner)

    def _release(self, namespace_id: bytes, owner: bytes) -> None:
        held, keys = self._held.pop((namespace_id, owner), None), self._server.layout
        if held is not None:
            token, digests = held
            arguments = [keys.claims(namespace_id), token, *digests]
            self._server.run(RELEASE, [keys.owners(namespace_id)], arguments)

    def leave(self) -> None:
        """Release all that this process holds, if the server answers."""
        with contextlib.suppress(StoreError):
            for key in list(self._held):
                self._release(*key)
        self._held.clear()
        self._over.set()
        if (thread := self._renewing) is not None:
            thread.join()  # it may be asking the server, whose connections are closed next

    def forget(self) -> None:
        """Hold nothing, in a child: it is all its parent's."""
        self._held.clear()
        self._renewing, self._lock = None, threading.Lock()

    # --- renewing -------------------------------------------------------------------------------

    def _hold(self, key: tuple[bytes, bytes], held: _Held) -> None:
        self._held[key] = held
        with self._lock:
            if self._renewing is None:
                self._over.clear()
                how = weakref.ref(self), self._over, self._lease / 3
                self._renewing = threading.Thread(
                    target=_renew, args=how, name="embstore leases", daemon=True
                )
                self._renewing.start()

    def renew(self) -> bool:
        """Renew all that is held; whether that is anything."""
        with self._lock:
            if not self._held:
                self._renewing = None
                return False
        for (namespace_id, _), (token, digests) in list(self._held.items()):
            keys, lease = self._server.layout, int(1000 * self._lease)
            with contextlib.suppress(StoreError):  # the next time, perhaps
                self._server.run(
                    RENEW,
                    [keys.owners(namespace_id)],
                    [keys.claims(namespace_id), token, lease, *digests],
                )
        return True


_OPEN: weakref.WeakSet[Claims] = weakref.WeakSet()


def _renew(reference: weakref.ref[Claims], over: threading.Event, pause: float) -> None:
    """Renew until nothing is held. By a weak reference: what nobody uses is not kept by this."""
    while (claims := reference()) is not None and claims.renew():
        del claims
        over.wait(pause)


def _forget_in_child() -> None:
    for claims in list(_OPEN):
        claims.forget()


os.register_at_fork(after_in_child=_forget_in_child)
