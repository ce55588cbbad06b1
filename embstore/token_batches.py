"""Batches of like cost: texts packed by their tokens, not by their number.

A transformer works on a rectangle: every text of a batch is padded to the longest. Upstream sorts
by characters and cuts every 32 texts, so that batches of long texts outgrow the processor's caches
and batches of short ones leave it idle. Here texts are sorted by tokens, and a batch is filled up
to a budget of padded tokens: 0.6 of upstream's time on paragraphs of mixed lengths
(docs/batching.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from embstore.backends.rows import Array

UPSTREAM_BATCH = 32
"""``batch_size`` of ``SentenceTransformer.encode`` unless it is given."""

_TOKEN_FEATURES = {"input_ids", "attention_mask", "token_type_ids"}
_TEXT_FEATURES = {"modality", "prompt_length"}


@dataclass(frozen=True)
class BatchLimit:
    """How much a batch holds.

    Attributes:
        size: of ``unit``.
        unit: "texts", or "tokens", padding included.
    """

    size: int
    unit: Literal["tokens", "texts"]


def countable(features: Mapping[str, Any]) -> bool:
    """Whether what a model made of texts are rows of tokens that can be cut to smaller batches.

    They are if padding goes up to the longest text, as :meth:`Transformer.preprocess` does it, and
    there is nothing among the features of which that is not known.
    """
    if not {"input_ids", "attention_mask"} <= features.keys() <= _TOKEN_FEATURES | _TEXT_FEATURES:
        return False
    mask = features["attention_mask"]
    tensors = [features[name] for name in _TOKEN_FEATURES & features.keys()]
    return (
        mask.ndim == 2
        and all(tensor.shape == mask.shape for tensor in tensors)
        and int(mask.sum(1).max()) == mask.shape[1]
    )


def pack(counts: Sequence[int] | npt.NDArray[np.int64], budget: int) -> Iterator[list[int]]:
    """Cut texts into batches of at most ``budget`` tokens, padding included.

    Args:
        counts: tokens of each of n texts.
        budget: most tokens of a batch; a text that has more is a batch by itself.

    Yields:
        The positions of a batch's texts. Longest first: the first batch is the dearest.

    >>> list(pack([3, 9, 4, 1], 10))
    [[1], [2, 0], [3]]
    """
    batch: list[int] = []
    longest = 0
    for position in np.argsort(-np.asarray(counts), kind="stable").tolist():
        if batch and longest * (len(batch) + 1) > budget:
            yield batch
            batch = []
        if not batch:
            longest = max(int(counts[position]), 1)
        batch.append(position)
    if batch:
        yield batch


def encode_by_tokens(
    model: Any, texts: list[str], budget: int, settings: dict[str, Any]
) -> Array | None:
    """``model.encode(texts)``, in batches of at most ``budget`` padded tokens.

    Texts are tokenized once, all together; each batch is given its part of that.

    Args:
        model: a SentenceTransformer.
        texts: n > 0 different texts.
        budget: padded tokens.
        settings: further arguments of ``encode``: those that return an array.

    Returns:
        (n, dim), of the dtype that ``encode`` returns; None where the model's features cannot be
        cut: see :func:`countable`.
    """
    asked = {"prompt": None, **_for_preprocess(settings)}
    features = model.preprocess(texts, **asked)
    if not countable(features) or len(features["attention_mask"]) != len(texts):
        return None
    rows = {text: row for row, text in enumerate(texts)}

    def preprocess(inputs: list[str], **how: Any) -> Any:
        if not rows.keys() >= set(inputs) or how != asked:
            return model.preprocess(inputs, **how)  # a subclass whose encode() changes them
        return _part(features, [rows[text] for text in inputs])

    twin = _twin(model, preprocess)
    vectors: Array | None = None
    for batch in pack(features["attention_mask"].sum(1).tolist(), budget):
        part = twin.encode(
            [texts[row] for row in batch],
            batch_size=len(batch),
            show_progress_bar=False,
            **settings,
        )
        if vectors is None:
            vectors = np.empty((len(texts), part.shape[1]), part.dtype)
        vectors[batch] = part
    return vectors


_ENCODE_ONLY = {"device", "normalize_embeddings", "truncate_dim", "pool", "chunk_size"}


def _for_preprocess(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``encode`` hands on to ``preprocess``: prompt, task, and further keyword arguments."""
    return {name: value for name, value in settings.items() if name not in _ENCODE_ONLY}


def _twin(model: Any, preprocess: Callable[..., Any]) -> Any:
    """The same model, modules and all, but for its ``preprocess``.

    Upstream's ``encode`` takes no tokens, and all that it does besides tokenizing (devices,
    truncation, normalization) had better stay its own. The model itself is not touched: others may
    be using it.
    """
    twin = object.__new__(type(model))
    twin.__dict__.update(model.__dict__)
    twin.__dict__["preprocess"] = preprocess
    return twin


def _part(features: Mapping[str, Any], rows: list[int]) -> dict[str, Any]:
    """The features of some of the texts, padded to the longest of these."""
    used = features["attention_mask"][rows].any(0).nonzero()
    # Padding may stand on either side; texts without any token are all padding.
    columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return {
        name: value[rows][:, columns] if name in _TOKEN_FEATURES else value
        for name, value in features.items()
    }
