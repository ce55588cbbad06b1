"""What SentenceTransformer.encode (6.2) does around the model: inputs, arguments, outputs.

Followed here without importing it, so that a call whose texts are all known needs neither it nor
torch. Source: sentence_transformers/sentence_transformer/model.py and base/model.py.
"""

from __future__ import annotations

import logging
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from embstore import columns
from embstore.backends.rows import Array
from embstore.fingerprint import ModelProfile

logger = logging.getLogger("sentence_transformers.sentence_transformer.model")

_DEVICES = {"cpu", "cuda", "mps", "xpu", "npu", "hpu"}
"""Devices that are taken on trust as long as torch is not imported."""

PRECISIONS = {"float32", "int8", "uint8", "binary", "ubinary"}


def take_inputs(inputs: Any, kwargs: dict[str, Any]) -> Any:
    """The inputs, also under their deprecated name, which is taken out of ``kwargs``.

    Raises:
        TypeError: if there are none.
    """
    if "sentences" in kwargs:
        logger.warning(
            "The `sentences` argument was renamed and is now deprecated. "
            "Please use `inputs` instead."
        )
        renamed = kwargs.pop("sentences")
        inputs = renamed if inputs is None else inputs
    if inputs is None:
        raise TypeError("encode() missing 1 required positional argument: 'inputs'")
    return inputs


def as_texts(inputs: Any) -> tuple[list[str] | None, bool]:
    """The texts among upstream's many kinds of input, and whether it is a single one.

    The list is None if there is anything but texts (images, pairs, conversations, ...).

    Columns of pandas, polars and Arrow, which upstream refuses, are lists of their values.

    Raises:
        TypeError: if a column has anything but texts, or a whole frame is given.
    """
    if isinstance(inputs, str):
        return [inputs], True
    if isinstance(inputs, np.ndarray):
        if inputs.ndim < 1 or inputs.dtype.kind not in "UO":
            return None, True
        listed = inputs.tolist()
    elif isinstance(inputs, (list, tuple)) or _is_column(inputs):
        listed = list(inputs)  # a copy: the caller's may be changed while an event loop goes on
    else:
        column = columns.column_texts(inputs)
        return column, column is None
    return (listed if set(map(type, listed)) <= {str} or _all_texts(listed) else None), False


def _all_texts(listed: Iterable[Any]) -> bool:
    return all(isinstance(text, str) for text in listed)


def _is_column(inputs: Any) -> bool:
    column = getattr(sys.modules.get("datasets"), "Column", None)
    return column is not None and isinstance(inputs, column)


def check_arguments(
    profile: ModelProfile, batch_size: int, precision: str | None, further: Mapping[str, Any]
) -> None:
    """Raise upstream's own errors for arguments it would not take."""
    if batch_size <= 0:
        raise ValueError(f"batch_size must be a positive integer, got {batch_size}.")
    operator.index(batch_size)
    accepted = list(profile.keyword_arguments)
    if unused := set(further) - set(accepted) - {"task", "processing_kwargs"}:
        raise ValueError(
            "SentenceTransformer.encode() has been called with additional keyword arguments that "
            f"this model does not use: {list(unused)}. "
            + (
                "As per SentenceTransformer.get_model_kwargs(), the valid additional keyword "
                f"arguments are: {accepted}."
                if accepted
                else "As per SentenceTransformer.get_model_kwargs(), this model does not accept "
                "any additional keyword arguments."
            )
        )
    if precision is not None and precision not in PRECISIONS:
        raise ValueError(f"Precision {precision!r} is not supported, must be one of {PRECISIONS}")


def check_devices(device: Any, pool: Any, chunk_size: int | None, texts: Sequence[str]) -> None:
    """Raise upstream's own errors for a device or chunk size it would not take."""
    if pool is not None or (isinstance(device, list) and device):
        if chunk_size is not None and chunk_size <= 0 and texts:
            raise ValueError(f"chunk_size must be a positive integer, got {chunk_size}.")
    elif device is not None and ("torch" in sys.modules or device not in _DEVICES):
        import torch

        torch.empty(0, device=device)


def choose_dim(profile: ModelProfile, truncate_dim: int | None) -> int | None:
    """The dimension to cut vectors to: what is asked for, else the model's own default.

    Raises:
        TypeError: upstream's own, if it is no integer.
    """
    chosen = profile.truncate_dim if truncate_dim is None else truncate_dim
    _ = ()[:chosen]
    return None if chosen is None else operator.index(chosen)  # numpy's integers too


def resolve_prompt(
    profile: ModelProfile, prompt: str | None, prompt_name: str | None
) -> str | None:
    """The prompt text that applies, or None.

    Raises:
        ValueError: if the model has no prompt of that name.
        TypeError: if the prompt is no text.
    """
    if prompt is not None:
        _ = (prompt or "") + ""
        if prompt_name is not None:
            logger.warning(
                "Provide either a `prompt`, a `prompt_name`, or neither, but not both. "
                "Ignoring the `prompt_name` in favor of `prompt`."
            )
        return prompt
    if prompt_name is not None:
        if prompt_name not in profile.prompts:
            raise ValueError(
                f"Prompt name '{prompt_name}' not found in the configured prompts dictionary with "
                f"keys {list(profile.prompts)!r}."
            )
        return profile.prompts[prompt_name]
    if profile.default_prompt_name is not None:
        return profile.prompts.get(profile.default_prompt_name)
    return None


def wants_progress(show_progress_bar: bool | None) -> bool:
    """Upstream's rule: unless told, a bar is shown when its logger is at INFO or DEBUG."""
    if show_progress_bar is None:
        return logger.getEffectiveLevel() in (logging.INFO, logging.DEBUG)
    return show_progress_bar


def numerics() -> dict[str, Any]:
    """Torch's switches that change every vector computed under them; empty at their defaults."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "get_float32_matmul_precision"):
        return {}
    found: dict[str, Any] = {}
    if (precision := torch.get_float32_matmul_precision()) != "highest":
        found["float32_matmul_precision"] = precision
    for device in ("cpu", "cuda"):
        if torch.is_autocast_enabled(device):
            found[f"autocast_{device}"] = str(torch.get_autocast_dtype(device))
    return found


def finish(
    vectors: Array,
    *,
    profile: ModelProfile,
    precision: str | None,
    convert_to_numpy: bool,
    convert_to_tensor: bool,
    device: Any,
) -> Any:
    """The (n, dim) array as upstream would return it: quantized, and as array, tensor or list.

    Quantization to int8 and uint8 is calibrated over the whole call, which is why it is done here
    and not on what is stored.

    Args:
        vectors: what the model gives at full precision.
        profile: the model's.
        precision: as in ``encode``.
        convert_to_numpy: as in ``encode``.
        convert_to_tensor: as in ``encode``.
        device: where tensors are wanted, or a function that tells.
    """
    quantized = len(vectors) > 0 and precision is not None and precision != "float32"
    if quantized:
        from sentence_transformers.util.quantization import quantize_embeddings

        vectors = quantize_embeddings(vectors, precision=precision)
    if convert_to_numpy and not convert_to_tensor:
        return vectors if len(vectors) else np.array([])
    import torch

    if not len(vectors):
        return torch.tensor([], device=device()) if convert_to_tensor else []
    tensor = torch.from_numpy(vectors)
    if not quantized:
        if profile.dtype == "bfloat16" and vectors.dtype == np.float32:
            # numpy has no bfloat16; those numbers are stored as float32, without loss.
            narrow = tensor.to(torch.bfloat16)
            tensor = narrow if torch.equal(narrow.float(), tensor) else tensor
        tensor = tensor.to(device())
    return tensor if convert_to_tensor else list(tensor)
