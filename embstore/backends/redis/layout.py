"""What is where on a server. All keys begin with the prefix of their store.

    <prefix>:store                  JSON: format version and seed; written once
    <prefix>:namespaces             hash: namespace id -> JSON (namespace, dtype, dim, generation,
                                    seed)
    <prefix>:generations            counter: a number for each namespace, another once it is cleared
    <prefix>:r:<generation>:<digest>     one row, as on a disk: checksum, digest, vector
    <prefix>:n:<generation>         hash: entries, computed, seconds, hits, misses
    <prefix>:c:<namespace id><digest>    a claim, for as long as it is renewed: its token
    <prefix>:o:<namespace id>       sorted set: tokens that have claims, by the end of their lease
    <prefix>:fence                  counter: the number in a token
    <prefix>:models                 hash: what is known of models

Ids and digests are their 16 bytes, generations decimal.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from embstore.backends.rows import RowFormat
from embstore.errors import NamespaceError, StoreDamagedError
from embstore.keys import DIGEST_SIZE, Namespace

FORMAT = 1


class Layout:
    """The names of a store's keys.

    Args:
        prefix: letters, digits, "_", "." and "-".
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.encode()
        self.store = self._prefix + b":store"
        self.namespaces = self._prefix + b":namespaces"
        self.generations = self._prefix + b":generations"
        self.fence = self._prefix + b":fence"
        self.models = self._prefix + b":models"

    def rows(self, generation: int) -> bytes:
        """What the keys of a namespace's rows begin with."""
        return b"%b:r:%d:" % (self._prefix, generation)

    @property
    def all_rows(self) -> bytes:
        """What the keys of all rows begin with."""
        return self._prefix + b":r:"

    def counters(self, generation: int) -> bytes:
        """The figures of a namespace."""
        return b"%b:n:%d" % (self._prefix, generation)

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
        generation: its number.
        seed: of the digests of its rows.
    """

    namespace: Namespace
    dtype: str
    dim: int
    generation: int
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
            if not all(type(number) is int for number in (entry.dim, entry.generation, entry.seed)):
                raise TypeError("numbers are missing")
            _ = entry.format
        except (TypeError, ValueError, KeyError, AttributeError, NamespaceError) as error:
            raise StoreDamagedError(f"the registry has an entry that is none: {error}") from None
        return entry

    @cached_property
    def format(self) -> RowFormat:
        """How its rows are laid out."""
        return RowFormat(self.namespace.id, self.seed, self.dtype, self.dim)


def digest_of(key: bytes) -> bytes:
    """The digest at the end of a key."""
    return key[-DIGEST_SIZE:]
