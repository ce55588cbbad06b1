"""Values whose damage shows: they end in a checksum of key and value."""

from __future__ import annotations

import json
from typing import Any

from xxhash import xxh3_64_digest

from embstore.keys import canonical_json

_SEAL = 8


def sealed(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """A key, and the value to be put under it with its checksum."""
    return key, value + xxh3_64_digest(key + value)


class Sealed:
    """Such values in a cache: a part of HardenedCache."""

    get: Any
    set: Any
    damaged: Any

    def get_sealed(self, key: bytes) -> bytes | None:
        """The value under ``key``, if its checksum over key and value is right."""
        sealed = self.get(key)
        return None if sealed is None else self.unseal(key, sealed)

    def unseal(self, key: bytes, sealed: bytes) -> bytes:
        """A sealed value that was read from under ``key``, without its checksum."""
        value, seal = sealed[:-_SEAL], sealed[-_SEAL:]
        if xxh3_64_digest(key + value) != seal:
            self.damaged(f"the entry {key[:1].decode()!r} does not match its checksum")
        return bytes(value)

    def put_sealed(self, key: bytes, value: bytes) -> None:
        """Write a value with its checksum. In a transaction."""
        self.set(*sealed(key, value))

    def get_json(self, key: bytes) -> dict[str, Any] | None:
        """The JSON object under ``key``."""
        value = self.get_sealed(key)
        return None if value is None else dict(json.loads(value))

    def put_json(self, key: bytes, value: dict[str, Any]) -> None:
        """Write a JSON object. In a transaction."""
        self.put_sealed(key, canonical_json(value))
