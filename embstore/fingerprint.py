"""The identity of a loaded model: its weights and every setting that reaches a vector.

:func:`fingerprint` reads everything (MiniLM: 50 ms); whether anything changed since is told by
watch.py, at each call.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from embstore.errors import EmbstoreError
from embstore.keys import canonical_json
from embstore.plain import digest_tensor, plain, qualname

_LIBRARIES = ("torch", "transformers", "sentence_transformers")
_NOT_SETTINGS = {"training", "config", "tokenizer", "processor", "name_or_path"}
_NOT_CONFIG = {"_name_or_path", "transformers_version", "_commit_hash", "name_or_path"}
TOKENIZER_SETTINGS = (
    "model_max_length",
    "padding_side",
    "truncation_side",
    "chat_template",
    "do_lower_case",
    "split_special_tokens",
    "add_prefix_space",
    "model_input_names",
)


@dataclasses.dataclass(frozen=True)
class ModelProfile:
    """What has to be known of a model to name its vectors and to check a call's arguments.

    Attributes:
        name: the model as its users call it.
        fingerprint: 32 hex digits of weights and settings; a version for a function.
        dtype: dtype of its parameters, as torch names it ("float32"); None if it has none.
        max_seq_length: tokens after which a text is cut; None if unknown.
        truncate_dim: the model's own default.
        prompts: prompt texts by name.
        default_prompt_name: the prompt applied when none is asked for.
        keyword_arguments: further arguments that its ``encode`` takes.
        similarity_fn_name: "cosine", "dot", "euclidean" or "manhattan".
    """

    name: str
    fingerprint: str
    dtype: str | None = None
    max_seq_length: int | None = None
    truncate_dim: int | None = None
    prompts: dict[str, str] = dataclasses.field(default_factory=dict)
    default_prompt_name: str | None = None
    keyword_arguments: tuple[str, ...] = ()
    similarity_fn_name: str = "cosine"

    def same_vectors(self, other: ModelProfile) -> bool:
        """Whether a text with its prompt has the same vector; their defaults may differ."""
        fields = ("name", "fingerprint", "dtype", "max_seq_length")
        return all(getattr(self, name) == getattr(other, name) for name in fields)

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelProfile:
        """The profile that :meth:`to_dict` describes.

        Raises:
            TypeError: if fields are missing or unknown.
        """
        return cls(**{**fields, "keyword_arguments": tuple(fields["keyword_arguments"])})


def profile(model: Any, model_fingerprint: str, name: str | None = None) -> ModelProfile:
    """The profile of a loaded SentenceTransformer."""
    return ModelProfile(
        name=name or model_name(model),
        fingerprint=model_fingerprint,
        dtype=None if model.dtype is None else str(model.dtype).removeprefix("torch."),
        max_seq_length=_finite(model.max_seq_length),
        truncate_dim=model.truncate_dim,
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        keyword_arguments=tuple(sorted(model.get_model_kwargs())),
        similarity_fn_name=str(model.similarity_fn_name),
    )


def _finite(length: float | None) -> int | None:
    # A static embedding cuts nothing, and says so with infinity.
    return None if length is None or length == float("inf") else int(length)


def model_name(model: Any) -> str:
    """What a loaded model is called: its hub name, or the last part of the folder it came from.

    A folder's whole path would give the same weights another name on every machine.
    """
    config = getattr(model, "config", None)
    name = str(getattr(config, "_name_or_path", "") or "")
    parts = Path(name).parts
    for part in parts:
        if part.startswith("models--"):  # a snapshot in the hub's cache
            return part.removeprefix("models--").replace("--", "/")
    if len(parts) > 2 or Path(name).is_absolute() or os.path.isdir(name):
        name = Path(name).absolute().name
    return name or type(model).__name__


def fingerprint(model: Any) -> str:
    """32 hex digits that change when a weight, or a setting that reaches the vector, does.

    Raises:
        EmbstoreError: if the weights are out of reach (a model with neither parameters nor files).
    """
    return hashlib.blake2b(canonical_json(describe(model)), digest_size=16).hexdigest()


def describe(model: Any) -> dict[str, Any]:
    """What the fingerprint is taken of, as JSON values: to see what tells two models apart."""
    found: dict[str, Any] = {"modules": [], "weights": {}, "routes": plain(model.module_kwargs)}
    seen_configs: set[int] = set()
    for path, module in model.named_modules():
        own = _settings(module) if module is not model else {}
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict") and id(config) not in seen_configs:
            seen_configs.add(id(config))
            own["config"] = plain(
                {key: value for key, value in config.to_dict().items() if key not in _NOT_CONFIG}
            )
        found["modules"].append([path, qualname(type(module)), own, _hooks(module)])
        for name in ("tokenizer", "processor"):
            tokenizer = vars(module).get(name)
            if tokenizer is not None:
                found[f"{path}.{name}"] = _tokenizer(tokenizer)
    for path, tensor in _tensors(model):
        found["weights"][path] = digest_tensor(tensor)
    if not found["weights"] or model.get_backend() != "torch":
        found["files"] = _digest_model_files(model)
    return found


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _digest_model_files(model: Any) -> list[list[str]]:
    # ONNX and OpenVINO models keep their weights in files of their own.
    for module in model.children():
        inner = getattr(module, "model", None)
        for name in ("model_save_dir", "model_path", "path"):
            place = getattr(inner, name, None)
            if place is not None and Path(str(place)).exists():
                place = Path(str(place))
                files = [place] if place.is_file() else sorted(place.rglob("*"))
                return [[file.name, digest_file(file)] for file in files if file.is_file()]
    raise EmbstoreError(
        f"cannot see the weights of {type(model).__name__} ({model.get_backend()} backend): give "
        "CachedEncoder a version= that you change whenever they do"
    )


def digest_file(path: Path) -> str:
    """xxh3_128 of a file's bytes, 32 hex digits.

    Raises:
        OSError: if it cannot be read.
    """
    if path.stat().st_size == 0:
        return xxh3_128_hexdigest(b"")
    return xxh3_128_hexdigest(np.memmap(path, np.uint8, mode="r").data)


def _hooks(module: Any) -> list[Any]:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return [plain(hook) for hook in hooks]


def _settings(module: Any) -> dict[str, Any]:
    """A module's own attributes, as far as they are settings and not torch's or a cache's."""
    own = vars(module).items()
    return {name: plain(value) for name, value in own if is_setting(module, name)}


def is_setting(module: Any, name: str) -> bool:
    """Whether an attribute of a module may decide a vector."""
    if name in _NOT_SETTINGS or name in _TORCH_INTERNALS:
        return False
    if name.startswith("_"):
        # Private attributes of the libraries are caches and bookkeeping, but for those that stand
        # behind a property. Those of unknown modules may be anything.
        known = type(module).__module__.partition(".")[0] in _LIBRARIES
        return not known or isinstance(getattr(type(module), name[1:], None), property)
    return True


_TORCH_INTERNALS = {
    "_is_full_backward_hook",
    "_non_persistent_buffers_set",
    "_parameters",
    "_buffers",
    "_modules",
    "_compiled_call_impl",
    "_backward_pre_hooks",
    "_backward_hooks",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
    "_hf_hook",
    "_old_forward",
}


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    found = {name: plain(getattr(tokenizer, name, None)) for name in TOKENIZER_SETTINGS}
    found["class"] = qualname(type(tokenizer))
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "to_str"):
        document = json.loads(fast.to_str())
        # A bare tokenizer's own; those of transformers set them anew in each call.
        if fast is not tokenizer:
            document.pop("truncation", None)
            document.pop("padding", None)
        found["backend"] = hashlib.blake2b(canonical_json(document), digest_size=16).hexdigest()
    elif hasattr(tokenizer, "get_vocab"):
        found["vocabulary"] = plain(tokenizer.get_vocab())
    inner = getattr(tokenizer, "tokenizer", None)  # a processor of several modalities
    if inner is not None and inner is not tokenizer:
        found["tokenizer"] = _tokenizer(inner)
    return found
