"""What an exported file says of itself: the seed of its digests, and what it holds.

It is a JSON document that ends in a checksum of the rest. Each row's checksum is taken with the
seed, the namespace, the dtype and the dim besides, so that none of these can be changed and a row
still be taken for sound.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from xxhash import xxh3_64_hexdigest

from embstore.backends.rows import RowFormat
from embstore.errors import EmbstoreError, StoreDamagedError, StoreRefusedError
from embstore.keys import Namespace, canonical_json, check_seed

KEY = "embstore"
"""What the manifest is called in every format."""

_VERSION = 1


@dataclass(frozen=True)
class Part:
    """The rows of one namespace in a file.

    Attributes:
        namespace: the namespace.
        dtype: dtype of the vectors, as numpy names it.
        dim: numbers in a vector.
        rows: number of vectors.
        checksum: sum of the rows' checksums, modulo 2**64: whether all are there.
        computed: vectors that were ever computed under the namespace.
        encode_seconds: what that took, in seconds.
    """

    namespace: Namespace
    dtype: str
    dim: int
    rows: int
    checksum: int
    computed: int = 0
    encode_seconds: float = 0.0

    @property
    def pace(self) -> float:
        """Seconds that computing a vector took on average; 0.0 if that is not known."""
        return self.encode_seconds / self.computed if self.computed else 0.0

    def row_format(self, seed: int) -> RowFormat:
        """How a store with this seed lays out the rows, and so what their checksums are."""
        return RowFormat(self.namespace.id, seed, self.dtype, self.dim)


@dataclass(frozen=True)
class Manifest:
    """What an exported file holds.

    Attributes:
        seed: seed of the digests: a store that takes them over has the same.
        parts: the namespaces.
    """

    seed: int
    parts: tuple[Part, ...]

    @property
    def rows(self) -> int:
        """Number of vectors in all."""
        return sum(part.rows for part in self.parts)

    def to_json(self) -> bytes:
        """The document, ASCII."""
        return canonical_json(_sealed({"version": _VERSION, **self._fields()}))

    def _fields(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "namespaces": [
                {
                    "namespace": part.namespace.to_dict(),
                    "id": part.namespace.id.hex(),
                    "dtype": part.dtype,
                    "dim": part.dim,
                    "rows": part.rows,
                    "checksum": f"{part.checksum:016x}",
                    "computed": part.computed,
                    "encode_seconds": part.encode_seconds,
                }
                for part in self.parts
            ],
        }

    @classmethod
    def from_json(cls, document: bytes, path: str) -> Manifest:
        """The manifest that :meth:`to_json` wrote to the file at ``path``.

        Raises:
            StoreDamagedError: if it is not what was written.
            StoreRefusedError: if a newer embstore wrote it.
        """
        try:
            fields = json.loads(document)
            if fields != _sealed({name: fields[name] for name in fields if name != "checksum"}):
                raise ValueError("it does not match its checksum")
            if fields["version"] > _VERSION:
                raise StoreRefusedError(
                    f"{path} was written by a newer embstore: upgrade embstore", path=path
                )
            found = cls(check_seed(fields["seed"]), tuple(map(_part, fields["namespaces"])))
            for part in found.parts:
                part.row_format(found.seed)
            if len({part.namespace for part in found.parts}) < len(found.parts):
                raise ValueError("it names a namespace twice")
        except StoreRefusedError:
            raise
        except (KeyError, TypeError, ValueError, RecursionError, EmbstoreError) as error:
            raise StoreDamagedError(
                f"{path}: its manifest is damaged: {error}", path=path
            ) from error
        return found


def _sealed(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "checksum": xxh3_64_hexdigest(canonical_json(fields))}


def _part(fields: dict[str, Any]) -> Part:
    part = Part(
        Namespace.from_dict(fields["namespace"]),
        fields["dtype"],
        fields["dim"],
        fields["rows"],
        int(fields["checksum"], 16),
        fields["computed"],
        fields["encode_seconds"],
    )
    counts = (part.dim, part.rows, part.computed)
    if any(type(count) is not int or count < 0 for count in counts):
        raise ValueError("a number of rows is none")
    if not math.isfinite(part.encode_seconds) or part.encode_seconds < 0:
        raise ValueError("a time is none")
    if part.namespace.id.hex() != fields["id"] or np.dtype(part.dtype).name != part.dtype:
        raise ValueError("a namespace is another than it says")
    return part
