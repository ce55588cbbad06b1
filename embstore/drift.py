"""Whether what is stored is still what the model gives: a sample of it is embedded again.

A store keeps no texts, so they have to be given: those that are stored are found among them.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from embstore import upstream
from embstore.backends.rows import Array
from embstore.encoder import CachedEncoder
from embstore.errors import CacheMissError, ModelOutputError
from embstore.keys import Namespace
from embstore.lookup import as_vectors
from embstore.store import EmbeddingStore
from embstore.token_batches import BatchLimit

TOLERANCES = {"float16": 5e-3, "bfloat16": 4e-2}
"""How far vectors may be off that were computed in these dtypes: some times what other batches make
of the same texts with MiniLM on a CPU (1.2e-3 and 9.6e-3)."""
TOLERANCE = 1e-5
"""The same for float32 and all others (MiniLM: 9e-7)."""

_ROUNDED = 2.0**-11
"""What rounding to float16 adds."""
_PART = 8192


@dataclass(frozen=True)
class DriftReport:
    """How far a model's vectors are from those that are stored.

    A distance is Euclidean and a share of the vector's length: for vectors of length 1, a plain
    distance.

    Attributes:
        namespace: what was looked at.
        given: distinct texts given.
        stored: how many of them are stored.
        checked: how many of those were embedded again.
        differing: how many are further off than the tolerance.
        tolerance: the distance up to which vectors count as the same.
        max_difference: the largest difference of two numbers.
        max_distance: the largest distance.
        min_cosine: the smallest cosine between what is stored and what was computed.
        mean_cosine: their mean.
        furthest: the text that is furthest off: its position among those given, from 0.
    """

    namespace: Namespace
    given: int
    stored: int
    checked: int
    differing: int
    tolerance: float
    max_difference: float
    max_distance: float
    min_cosine: float
    mean_cosine: float
    furthest: int

    @property
    def ok(self) -> bool:
        """Whether none is further off than the tolerance."""
        return not self.differing

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values."""
        return {**asdict(self), "namespace": self.namespace.to_dict(), "ok": self.ok}

    def __str__(self) -> str:
        found = "no drift" if self.ok else f"{self.differing:,} drifted"
        lines = [
            f"{self.namespace.model_name}: {found}",
            f"checked         {self.checked:,} of {self.stored:,} stored, {self.given:,} given",
            f"furthest off    {self.max_distance:.2g} of its length, text {self.furthest}",
            f"tolerance       {self.tolerance:.2g}",
            f"max difference  {self.max_difference:.2g}",
            f"cosine          at least {self.min_cosine:.8f}, {self.mean_cosine:.8f} on average",
        ]
        return "\n".join(lines)


def measure_drift(
    encoder: CachedEncoder,
    texts: Iterable[str],
    *,
    sample: int | None = 100,
    seed: int = 0,
    tolerance: float | None = None,
    **arguments: Any,
) -> DriftReport:
    """Embed a sample of what is stored again, and compare.

    Tells whether an old cache may be trusted under new versions of the libraries, on another
    device, or with a ``version=`` that promises more than it keeps. The model computes as it would
    for ``encoder.encode``. No vector is stored, no look-up counted, and nothing comes from memory.

    Args:
        encoder: whose model and namespace are meant; loads the model.
        texts: among which to look for stored ones, as ``encode`` takes them.
        sample: how many of the stored ones to embed; None for all.
        seed: decides which: the same for the same texts and store.
        tolerance: the distance, as a share of the vector's length, up to which vectors count as the
            same; None is 1e-5, or more where the model computes in half precision. For vectors that
            are stored rounded to float16 the rounding is added.
        **arguments: as in ``encode``: those that the vectors were stored with (``prompt_name``,
            ``normalize_embeddings``, ``task``, ...; what ``encode_query`` stores has the task
            "query" and the prompt of that name).

    Raises:
        CacheMissError: if none of the texts is stored.
        ModelOutputError: if the model gives vectors of another length, or numbers that are none.
        ValueError: if there is no text, ``sample`` is below 1, or the arguments are for something
            that is never stored (token embeddings).
        TypeError: if something is not a text.

    >>> import tempfile
    >>> def lengths(texts):
    ...     return [[float(len(text)), 1.0] for text in texts]
    >>> encoder = CachedEncoder(lengths, EmbeddingStore(tempfile.mkdtemp()), model_name="lengths")
    >>> vectors = encoder.encode(["one", "three"])
    >>> measure_drift(encoder, ["one", "two", "three"]).ok
    True
    """
    if sample is not None and sample < 1:
        raise ValueError(f"sample is a number from 1 on, not {sample}")
    listed, _ = upstream.as_texts(texts if isinstance(texts, str) else list(texts))
    if listed is None:
        raise TypeError("only texts are stored: give a list of str")
    if not listed:
        raise ValueError("there is no text to look for")
    how = encoder._recipes.named_arguments(arguments)
    if not how.cacheable:
        raise ValueError("what these arguments ask for is never stored")
    model = encoder._model
    model.load()  # by which it may turn out to be another one than its files promised
    recipe = encoder._recipes.of(model.profile(), how)
    namespace, dtype = recipe.namespace, recipe.profile.dtype

    positions: dict[str, int] = {}
    for position, text in enumerate(listed):
        positions.setdefault(text, position)
    # A reader of its own counts nothing, and keeps nothing in memory.
    where = encoder.store.location
    with EmbeddingStore(where, read_only=True, memory_limit=0, on_error="raise") as reader:
        stored = _stored(reader, namespace, list(positions))
        count = len(stored) if sample is None else min(sample, len(stored))
        drawn = sorted(random.Random(seed).sample(stored, count), key=len, reverse=True)
        before, _ = reader.get_many(namespace, drawn)
    limit = BatchLimit(how.texts_a_batch, "texts")
    now = _checked(model.compute(drawn, limit, **recipe.settings), before, namespace.model_name)

    if tolerance is None:
        tolerance = TOLERANCES.get(dtype or before.dtype.name, TOLERANCE)
    if namespace.stored_as == "float16":
        tolerance += _ROUNDED
    distances, cosines = _compare(before, now)
    furthest = int(distances.argmax())
    return DriftReport(
        namespace=namespace,
        given=len(positions),
        stored=len(stored),
        checked=count,
        differing=int((distances > tolerance).sum()),
        tolerance=tolerance,
        max_difference=float(np.abs(now.astype(np.float64) - before).max()),
        max_distance=float(distances[furthest]),
        min_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        furthest=positions[drawn[furthest]],
    )


def _stored(store: EmbeddingStore, namespace: Namespace, texts: list[str]) -> list[str]:
    found = []
    for start in range(0, len(texts), _PART):
        part = texts[start : start + _PART]
        places = np.flatnonzero(store.get_many(namespace, part)[1])
        found += [part[place] for place in places.tolist()]
    if not found:
        raise CacheMissError(
            f"none of these {len(texts):,} texts is stored for {namespace.model_name} with these "
            "settings: 'embstore namespaces' lists what is",
            missing=len(texts),
            total=len(texts),
            namespace=namespace,
        )
    return found


def _checked(output: Any, before: Array, name: str) -> Array:
    """A model's output as vectors that can be compared with those before."""
    now = as_vectors(output, len(before), name)
    if now.shape != before.shape:
        wrong = f"vectors of {now.shape[1]} numbers where those stored have {before.shape[1]}"
    elif not np.isfinite(now).all():
        wrong = "numbers that are infinite or none, where those stored are not"
    else:
        return now
    raise ModelOutputError(f"{name} returned {wrong}", model_name=name)


def _compare(before: Array, now: Array) -> tuple[Array, Array]:
    """The distances and cosines of n pairs of vectors, each (n,)."""
    one, other = before.astype(np.float64), now.astype(np.float64)
    lengths = np.linalg.norm(one, axis=1), np.linalg.norm(other, axis=1)
    longest, product = np.maximum(*lengths), lengths[0] * lengths[1]
    distances = np.linalg.norm(one - other, axis=1) / np.where(longest, longest, 1)
    # Two vectors of zeros are the same; one of them alone is like nothing.
    alike = np.where(longest, 0.0, 1.0)
    cosines = np.where(product, (one * other).sum(axis=1) / np.where(product, product, 1), alike)
    return distances, np.clip(cosines, -1, 1)
