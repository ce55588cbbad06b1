"""Namespaces and digests: what makes two embeddings the same embedding.

A key is 32 bytes: the id of a namespace (everything besides the text that decides a vector) and
the digest of the text. See docs/keys.md.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from hashlib import sha256
from typing import Any

from xxhash import xxh3_128_digest

from embstore import columns
from embstore.errors import NamespaceError

DIGEST_SIZE = 16
"""Bytes of a text digest and of a namespace id."""

STORAGE_DTYPE = "storage dtype"
"""Where ``extra`` has the dtype that vectors are rounded to. No argument of a function has such a
name."""


def check_storage_dtype(dtype: str | None) -> None:
    """Raise ValueError unless vectors may be stored in this dtype; None is their own."""
    if dtype not in (None, "float16"):
        raise ValueError(f'storage_dtype is None or "float16", not {dtype!r}')


@dataclass(frozen=True, eq=False)
class Namespace:
    """Everything besides the text that decides a vector.

    Two namespaces are one if and only if all their fields are equal. The fields are digested as
    canonical JSON, so no value can be mistaken for a separator or run over into the next field.

    Args:
        model_name: the model as its users call it.
        fingerprint: what tells these weights and settings from others of that name: a digest for a
            loaded model, a version for a function; "" if there is nothing to tell apart.
        normalize: whether vectors were scaled to unit length after the model.
        prompt: the resolved prompt put in front of each text; None and "" both mean none.
        task: the task a model with routes was asked for ("query", "document", ...).
        truncate_dim: number of leading dimensions kept; None for all.
        max_seq_length: number of tokens after which the model cuts a text; None if not known.
        dtype: dtype the model computes in, as its library names it; None if not known.
        extra: further JSON values that decide the vector.

    Raises:
        NamespaceError: if a field cannot be written as JSON.

    >>> Namespace("m", prompt="query: ").id == Namespace("m", prompt="query: ").id
    True
    >>> Namespace("m", normalize=True).id == Namespace("m").id
    False
    """

    model_name: str
    fingerprint: str = ""
    normalize: bool = False
    prompt: str | None = None
    task: str | None = None
    truncate_dim: int | None = None
    max_seq_length: int | None = None
    dtype: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.model_name, str) or not self.model_name:
            raise NamespaceError(
                f"a namespace needs a model name, not {self.model_name!r}", namespace=None
            )
        object.__setattr__(self, "prompt", self.prompt or None)
        object.__setattr__(self, "normalize", bool(self.normalize))
        # A copy through JSON: later changes to the caller's dict must not change the key.
        try:
            _refuse_keys(self.extra)
            object.__setattr__(self, "extra", json.loads(canonical_json(dict(self.extra))))
            canonical_json(self.to_dict())
        except (TypeError, ValueError, RecursionError) as error:
            raise NamespaceError(
                f"a namespace holds only JSON values: {error}", namespace=None
            ) from None

    @property
    def stored_as(self) -> str | None:
        """The dtype that vectors are rounded to before they are stored; None for their own."""
        dtype: str | None = self.extra.get(STORAGE_DTYPE)
        return dtype

    @cached_property
    def id(self) -> bytes:
        """16 bytes, the blake2b digest of the canonical JSON.

        blake2b and not xxh3, because prompts may come from strangers, and xxh3 collides on purpose.
        """
        return hashlib.blake2b(canonical_json(self.to_dict()), digest_size=DIGEST_SIZE).digest()

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, as JSON values."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        return {**found, "extra": copy.deepcopy(self.extra)}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Namespace:
        """The namespace that :meth:`to_dict` describes."""
        return cls(**fields)

    def __eq__(self, other: object) -> bool:
        # By what is digested: to Python, 1 and True are equal.
        return self.id == other.id if isinstance(other, Namespace) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.id)


def version_fingerprint(version: str | None) -> str:
    """The fingerprint of what its user tells apart by versions; None is no version."""
    return "" if version is None else f"version:{version}"


def _refuse_keys(value: Any) -> None:
    # json writes 1 and "1" alike.
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise TypeError(f"the key {key!r} is not a text")
            _refuse_keys(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            _refuse_keys(item)


def canonical_json(value: Any) -> bytes:
    """``value`` as JSON in one form only: sorted keys, no spaces, ASCII, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def check_seed(seed: int) -> int:
    """``seed``, if it may be the seed of a store's digests.

    Raises:
        ValueError: if it is not. 0 is not, as that is xxh3 without a seed.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 < seed < 2**63:
        raise ValueError(
            f"a seed is a whole number from 1 to 2**63 - 1, not {seed!r}: draw one at random "
            "(1 + secrets.randbelow(2**63 - 1)) and keep it from strangers"
        )
    return seed


def digest_texts(texts: Iterable[str], seed: int) -> list[bytes]:
    """The 16-byte digest of each text.

    xxh3_128 of the UTF-8 bytes, seeded with the store's own seed: without one, texts that collide
    can be made at once. Of more than 240 bytes it is xxh3_128 of their SHA-256, behind the seed:
    from there on xxh3 adds up what it makes of each 8 bytes, and a pair of texts can be made that
    collides under 1.5 % of all seeds. Lone surrogates are as ``surrogatepass`` writes them.

    Raises:
        TypeError: if a text is not a ``str``.
    """
    try:
        if type(texts) is list and len(texts) == 1:  # all that follows takes 0.4 µs more
            raw = texts[0].encode()
            return [xxh3_128_digest(raw, seed) if len(raw) <= 240 else _of_long(raw, seed)]
    except (AttributeError, UnicodeEncodeError):
        pass
    texts = columns.listed(texts)
    try:
        # In one pass: a list of all bytes first takes half as long again.
        return [
            xxh3_128_digest(raw, seed) if len(raw := text.encode()) <= 240 else _of_long(raw, seed)
            for text in texts
        ]
    except (AttributeError, UnicodeEncodeError):
        pass
    columns.refuse_others(texts)
    every = [text.encode("utf-8", "surrogatepass") for text in texts]
    return [xxh3_128_digest(raw, seed) if len(raw) <= 240 else _of_long(raw, seed) for raw in every]


def _of_long(raw: bytes, seed: int) -> bytes:
    return xxh3_128_digest(sha256(seed.to_bytes(8, "little") + raw).digest(), seed)
