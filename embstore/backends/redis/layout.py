"""What is where on a server. All keys begin with the prefix of their store.

    <prefix>:store                  hash, all that rows cannot be read without:
        made                        JSON: format version and seed; written once
        <namespace id>              JSON: namespace, dtype, dim, generation, seed
        fence                       counter: the number in a claim's token
    <prefix>:r:<generation>:<digest>     one row, as on a disk: checksum, digest, vector
    <prefix>:n:<generation>         hash: entries, computed, seconds, hits, misses
    <prefix>:c:<namespace id><digest>    a claim, for as long as it is renewed: its token
    <prefix>:o:<namespace id>       sorted set: tokens that have claims, by the end of their lease
    <prefix>:models                 hash: what is known of models

Ids and digests are their 16 bytes. A server that is full may drop any of these keys, and first what
nobody has asked for in a while. So what belongs together is in one, which every request asks for. A
generation is drawn at random, as a counter that was dropped would give the same one again.
"""

from __future__ import annotations

import json
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embstore.backends.rows import RowFormat
from embstore.errors import StoreDamagedError
from embstore.keys import DIGEST_SIZE, Namespace

FORMAT = 1
MADE = b"made"

_GENERATION = re.compile(r"[0-9a-f]{10}")
_DTYPE = re.compile(r"[<|][fiu]\d{1,2}")


def new_generation() -> str:
    """One that no other namespace has, nor had."""
    return secrets.token_hex(5)


class Layout:
    """The names of a store's keys.

    Args:
        prefix: letters, digits, "_", "." and "-".
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.store = self._prefix + b":store"
        self.models = self._prefix + b":models"

    def rows(self, generation: str) -> bytes:
        """What the keys of a namespace's rows begin with."""
        return b"%b:r:%b:" % (self._prefix, generation.encode())

    @property
    def all_rows(self) -> bytes:
        """What the keys of all rows begin with."""
        return self._prefix + b":r:"

    def counters(self, generation: str) -> bytes:
        """The figures of a namespace."""
        return b"%b:n:%b" % (self._prefix, generation.encode())

    def claims(self, namespace_id: bytes) -> bytes:
        """What the keys of a namespace's claims begin with."""
        return self._prefix + b":c:" + namespace_id

    def owners(self, namespace_id: bytes) -> bytes:
        """Those who have claims under a namespace."""
        return self._prefix + b":o:" + namespace_id


@dataclass(frozen=True)
class Entry:
    """A namespace as the server has it.

    Attributes:
        namespace: the namespace.
        dtype: of its vectors, as numpy writes it.
        dim: numbers in a vector.
        generation: stands in the keys of its rows: another one once it was cleared.
        seed: of the digests of its rows.
    """

    namespace: Namespace
    dtype: str
    dim: int
    generation: str
    seed: int

    def written(self) -> bytes:
        """As it stands on the server."""
        fields = {**self.__dict__, "namespace": self.namespace.to_dict()}
        fields.pop("format", None)
        return json.dumps(fields, sort_keys=True).encode()

    @classmethod
    def read(cls, raw: bytes) -> Entry:
        """What :meth:`written` wrote.

        Raises:
            StoreDamagedError: if it did not write this.
        """
        try:
            fields: dict[str, Any] = json.loads(raw)
            namespace = Namespace.from_dict(fields.pop("namespace"))
            entry = cls(namespace=namespace, **fields)
            if type(entry.dim) is not int or type(entry.seed) is not int:
                raise TypeError("numbers are missing")
            if not _GENERATION.fullmatch(entry.generation) or not _DTYPE.fullmatch(entry.dtype):
                raise ValueError("no generation, or no dtype")
            _ = entry.format
        except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
            raise StoreDamagedError(
                f"the registry has an entry that is none ({error}): embstore compact drops it"
            ) from None
        return entry

    @cached_property
    def format(self) -> RowFormat:
        """How its rows are laid out."""
        return RowFormat(self.namespace.id, self.seed, self.dtype, self.dim)


def digest_of(key: bytes) -> bytes:
    """The digest at the end of a key."""
    return key[-DIGEST_SIZE:]
