"""The server behind a store: its client, its seed and its registry."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

from embstore.backends.redis.layout import FORMAT, MADE, Entry, Layout, new_generation
from embstore.backends.redis.location import Location
from embstore.backends.redis.patience import Patience
from embstore.errors import NamespaceError, StoreDamagedError, StoreError, StoreRefusedError
from embstore.keys import DIGEST_SIZE, Namespace

if TYPE_CHECKING:
    import redis

T = TypeVar("T")

_TRIES = 5
"""How often something is begun anew because somebody has cleared the namespace meanwhile."""


class Server:
    """What a store has to do with its server.

    Args:
        location: where it is.
        timeout: most seconds to wait for an answer.
        read_only: whether nothing is written.
        seed: that a store must have, and a new one is given; None for any.

    Attributes:
        layout: the names of keys.
        seed: of all digests.
        read_only: whether nothing is written.
        patience: knows when it may be asked.

    Raises:
        ImportError: if the client's library is not installed.
        StoreRefusedError: if there is no store and ``read_only``, or one that may not be used.
        StoreError: if the server does not answer.
    """

    def __init__(
        self, location: Location, *, timeout: float, read_only: bool, seed: int | None
    ) -> None:
        self.location = location
        self.layout = Layout(location.prefix)
        self.read_only = read_only
        self.patience = Patience()
        self._client: redis.Redis | None = location.connect(timeout)
        self._scripts: dict[str, Any] = {}
        self._entries: dict[bytes, tuple[bytes, Entry]] = {}
        self.seed = 0 if seed is None else seed
        stored = self._stored_seed()
        if seed not in (None, stored):
            raise self._refused("was made with another seed: its digests are not those asked for")
        self.seed = stored

    def _stored_seed(self) -> int:
        """The seed of the store, which is made if there is none."""
        raw = self._made()
        if raw is None:
            if self.read_only:
                raise self._refused("has no store, and was to be read only")
            seed = self.seed or 1 + secrets.randbelow(2**63 - 1)
            new = json.dumps({"format": FORMAT, "seed": seed})
            self._note(MADE, new)
            raw = self._made()
        try:
            fields = json.loads(raw or b"")
            number, seed = fields["format"], fields["seed"]
            if type(number) is not int or type(seed) is not int or not 0 < seed < 2**63:
                raise ValueError("no format, or no seed")
        except (TypeError, ValueError, KeyError, RecursionError) as error:
            raise self._refused(
                f"has something else than a store under {self.layout.store!r} ({error}): choose "
                "another prefix"
            ) from None
        if number > FORMAT:
            raise self._refused(f"has format {number}: upgrade embstore")
        return seed

    def _made(self) -> bytes | None:
        try:
            raw = self.ask(lambda client: client.hget(self.layout.store, MADE))
        except StoreError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise self._refused(
                f"has something else than a store under {self.layout.store!r}: choose another "
                "prefix"
            ) from None
        return cast("bytes | None", raw)

    def _refused(self, why: str) -> StoreRefusedError:
        return StoreRefusedError(f"{self.location.shown} {why}", path=self.location.shown)

    def _begun_anew(self) -> StoreError:
        return StoreError(
            "it was emptied, and begun anew by others, with another seed",
            path=self.location.shown,
            cause="seed",
        )

    def ask(self, work: Callable[[redis.Redis], T]) -> T:
        """What the client answers.

        Raises:
            StoreError: if it does not; without asking, if it did not a short while ago.
        """
        if self._client is None:
            raise StoreError("is closed", path=self.location.shown)
        if why := self.patience.why_not:
            raise StoreError(why, path=self.location.shown, cause="away")
        import redis

        start = time.monotonic()
        try:
            answer = work(self._client)
        # UnicodeError: of a host's name that cannot be one.
        except (redis.RedisError, OSError, UnicodeError) as error:
            # Pipelines tell which command it was, with its keys: that would be another fault each.
            said = str(error).rpartition("of pipeline caused error: ")[2]
            message, cause = f"{type(error).__name__}: {said}", _cause(error)
            if cause == "away":
                self.patience.failed(start, message)
            raise StoreError(message, path=self.location.shown, cause=cause) from error
        except BaseException:
            # After an interrupt (Ctrl-C in a notebook) the answer may still be on its way, and
            # would be read as the next one's.
            self._disconnect()
            raise
        self.patience.answered()
        return answer

    def write(self, work: Callable[[redis.Redis], T]) -> T:
        """:meth:`ask`, if anything may be written.

        Raises:
            StoreError: if nothing may, or the server does not answer.
        """
        self.refuse_if_read_only()
        return self.ask(work)

    def refuse_if_read_only(self) -> None:
        """Raise StoreError if nothing may be written."""
        if self.read_only:
            raise StoreError(
                f"{self.location.shown} was opened read-only", path=self.location.shown
            )

    def run(self, script: str, keys: Sequence[bytes], arguments: Sequence[Any]) -> Any:
        """What a script gives, the server having it already or not."""
        registered = self._scripts.get(script)
        if registered is None:
            registered = self._scripts[script] = self.ask(lambda one: one.register_script(script))
        return self.write(lambda one: registered(keys, arguments, client=one))

    def close(self) -> None:
        """Let go of all connections."""
        self._disconnect()
        self._client = None

    def _disconnect(self) -> None:
        """End the connections that nobody is using."""
        if (client := self._client) is not None:
            client.connection_pool.disconnect(inuse_connections=False)

    # --- the registry ---------------------------------------------------------------------------

    def known(self, namespace: Namespace) -> tuple[bytes, Entry] | None:
        """A namespace's entry, as this process has seen it last: as it is written, and read."""
        return self._entries.get(namespace.id)

    def take(self, namespace_id: bytes, raw: bytes | None) -> tuple[bytes, Entry] | None:
        """Remember how the entry of a namespace is written now; None for not at all.

        Raises:
            StoreDamagedError: if it is none.
            StoreError: if it is of another seed than this process works with.
        """
        known = self._entries.get(namespace_id)
        if known is not None and known[0] == raw:
            return known
        self._entries.pop(namespace_id, None)
        if raw is None:
            return None
        entry = Entry.read(raw)
        if entry.namespace.id != namespace_id:
            raise StoreDamagedError(
                "the registry has a namespace under another's id", path=self.location.shown
            )
        if entry.seed != self.seed:
            raise self._begun_anew()
        self._entries[namespace_id] = raw, entry
        return raw, entry

    def look_up(self, namespace: Namespace) -> tuple[bytes, Entry] | None:
        """A namespace's entry as it is now; None if there is none."""
        fields = [MADE, namespace.id]
        found = self.ask(lambda client: client.hmget(self.layout.store, fields))
        made, raw = cast("list[bytes | None]", found)
        if made is None:
            self._put_back()
            return self.known(namespace)
        return self.take(namespace.id, raw)

    def _put_back(self) -> None:
        """Put back what is known of a store that was emptied, or whose registry the server has
        dropped: the rows may still be there."""
        if self.read_only:
            return
        if self._stored_seed() != self.seed:
            raise self._begun_anew()
        for key, (raw, _) in list(self._entries.items()):
            self._note(key, raw)

    def _note(self, field: bytes, value: bytes | str) -> None:
        """Put this into the store's hash, if there is nothing under that name."""
        self.write(lambda client: client.hsetnx(self.layout.store, field, value))

    def register(self, namespace: Namespace, dtype: str, dim: int) -> tuple[bytes, Entry]:
        """The entry of a namespace; it is made if there is none.

        Raises:
            NamespaceError: if the namespace has vectors of another dtype or dim, or such cannot be
                stored.
        """
        found = self.known(namespace) or self.look_up(namespace)
        if found is None:
            if self._stored_seed() != self.seed:
                raise self._begun_anew()
            new = Entry(namespace, dtype, dim, new_generation(), self.seed)
            _ = new.format  # or NamespaceError
            self._note(namespace.id, new.written())
            found = self.look_up(namespace)
            if found is None:
                raise StoreError("it is emptied again and again", path=self.location.shown)
        entry = found[1]
        if (entry.dtype, entry.dim) != (dtype, dim):
            raise NamespaceError(
                f"{namespace.model_name}: vectors of {dim} x {dtype} do not fit the {entry.dim} x "
                f"{entry.dtype} that are stored under the same namespace; clear it, or give the "
                "model another name or version",
                namespace=namespace,
            )
        return found

    def entries(self) -> list[Entry]:
        """All namespaces but those whose entry is :meth:`damaged`.

        Raises:
            StoreError: if they are of another seed than this process works with.
        """
        found = []
        for key, raw in self._registry().items():
            with contextlib.suppress(StoreDamagedError):
                taken = self.take(key, raw)
                found += [] if taken is None else [taken[1]]
        return found

    def damaged(self) -> dict[bytes, bytes]:
        """Namespace ids whose entry is none, and what is there instead."""
        found = {}
        for key, raw in self._registry().items():
            try:
                self.take(key, raw)
            except StoreDamagedError:
                found[key] = raw
        return found

    def _registry(self) -> dict[bytes, bytes]:
        def read() -> dict[bytes, bytes]:
            found = self.ask(lambda client: client.hgetall(self.layout.store))
            return cast("dict[bytes, bytes]", found)

        fields = read()
        if MADE not in fields:
            self._put_back()
            fields = read()
        return {key: raw for key, raw in fields.items() if len(key) == DIGEST_SIZE}

    def settled(self, work: Callable[[], T | None]) -> T:
        """What ``work`` gives; it is done again while it gives None, as somebody else has cleared
        the namespace meanwhile.

        Raises:
            StoreError: if that happens again and again.
        """
        for _ in range(_TRIES):
            if (done := work()) is not None:
                return done
        raise StoreError("it is emptied again and again", path=self.location.shown)


def _cause(error: Exception) -> str:
    """What is wrong, in a word; what the error says if there is none."""
    from redis import exceptions

    for kinds, cause in (
        ((exceptions.AuthenticationError, exceptions.AuthorizationError), "password"),
        ((exceptions.NoPermissionError,), "permission"),
        ((exceptions.OutOfMemoryError,), "full"),
        ((exceptions.ConnectionError, exceptions.TimeoutError, OSError, UnicodeError), "away"),
    ):
        if isinstance(error, kinds):
            return cause
    return ""
