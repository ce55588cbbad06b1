"""The identity of a loaded model: its weights and every setting that reaches a vector.

Two depths. :func:`fingerprint` reads everything (MiniLM: 7 ms). :class:`Watch` says at each call
whether anything changed since, in 0.1 ms: it compares the identity, address and version counter of
every parameter and buffer, some numbers out of each of them, and the settings of the
model's modules and tokenizer. What it cannot see: a change of a few numbers made through
``tensor.data`` or numpy, which leave torch's version counters alone, and a change of an attribute
deep inside a transformers module. ``CachedEncoder.refresh()`` is for these; see docs/keys.md.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import os
from collections.abc import Iterator
from itertools import chain
from operator import is_
from pathlib import Path
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest

from embstore.errors import EmbstoreError
from embstore.keys import canonical_json

_SAMPLES = 16
"""Numbers that Watch compares of each tensor."""

_SCALARS = (str, int, float, bool, bytes, type(None))
_NOT_SETTINGS = {"training", "_is_full_backward_hook", "_non_persistent_buffers_set"}
_NOT_CONFIG = {"_name_or_path", "transformers_version", "_commit_hash", "name_or_path"}
_TOKENIZER_SETTINGS = (
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
        max_seq_length=model.max_seq_length,
        truncate_dim=model.truncate_dim,
        prompts=dict(model.prompts),
        default_prompt_name=model.default_prompt_name,
        keyword_arguments=tuple(sorted(model.get_model_kwargs())),
        similarity_fn_name=str(model.similarity_fn_name),
    )


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
    found: dict[str, Any] = {"modules": [], "weights": {}, "routes": _plain(model.module_kwargs)}
    seen_configs: set[int] = set()
    for path, module in model.named_modules():
        own = _settings(module) if module is not model else {}
        config: Any = getattr(module, "config", None)
        if hasattr(config, "to_dict") and id(config) not in seen_configs:
            seen_configs.add(id(config))
            own["config"] = _plain(
                {key: value for key, value in config.to_dict().items() if key not in _NOT_CONFIG}
            )
        found["modules"].append([path, _qualname(type(module)), own, _hooks(module)])
        for name in ("tokenizer", "processor"):
            tokenizer = vars(module).get(name)
            if tokenizer is not None:
                found[f"{path}.{name}"] = _tokenizer(tokenizer)
    for path, tensor in _tensors(model):
        found["weights"][path] = _digest_tensor(tensor)
    if not found["weights"] or model.get_backend() != "torch":
        found["files"] = _digest_model_files(model)
    digest = hashlib.blake2b(canonical_json(found), digest_size=16)
    return digest.hexdigest()


class Watch:
    """Whether a loaded model is still the one whose fingerprint was taken."""

    def __init__(self, model: Any) -> None:
        # Held, not only their ids: those of what is collected are given to something new.
        own = [vars(module) for module in model.modules()]
        kinds = ("_modules", "_parameters", "_buffers")
        self._dicts: list[dict[str, Any]] = [settings[kind] for settings in own for kind in kinds]
        self._held = list(chain.from_iterable(map(dict.values, self._dicts)))
        self._tensors = [held for held in self._held if hasattr(held, "data_ptr")]
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        torch = _torch()
        integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        probes: dict[Any, list[np.ndarray]] = {}
        for tensor in self._tensors:
            # On other devices a look at the numbers would cost a synchronisation each.
            seen = tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel()
            if seen and tensor.dtype.itemsize in integers:
                # As integers: numpy has no bfloat16, and NaN must equal itself.
                flat = tensor.detach().flatten().view(integers[tensor.dtype.itemsize]).numpy()
                step = max(1, len(flat) // _SAMPLES)
                probes.setdefault(flat.dtype, []).append(flat[step // 2 :: step])
        self._probes = [(same, np.concatenate(same)) for same in probes.values()]
        self._stamp = self._take(model)

    def same(self, model: Any) -> bool:
        """True as long as nothing that can be seen cheaply has changed."""
        held = list(chain.from_iterable(map(dict.values, self._dicts)))
        return (
            len(held) == len(self._held)
            and all(map(is_, held, self._held))
            and self._take(model) == self._stamp
        )

    def _take(self, model: Any) -> tuple[Any, ...]:
        stamp: list[Any] = [id(model)]
        stamp.append([tensor.data_ptr() for tensor in self._tensors])
        stamp.append([tensor._version for tensor in self._counting])
        for module in model.children():
            stamp.append(repr([value for value in vars(module).values() if _is_simple(value)]))
            tokenizer = vars(module).get("tokenizer", vars(module).get("processor"))
            if tokenizer is not None:
                stamp.append(_tokenizer_stamp(tokenizer))
        for probes, samples in self._probes:
            stamp.append(np.concatenate(probes, out=samples).tobytes())
        return tuple(stamp)


def _is_simple(value: Any) -> bool:
    kind = type(value)
    if kind in (list, tuple):
        return len(value) < 50 and all(type(item) in _SCALARS for item in value)
    return kind in _SCALARS


def _tokenizer_stamp(tokenizer: Any) -> tuple[Any, ...]:
    fast: Any = getattr(tokenizer, "_tokenizer", None)
    parts: tuple[Any, ...] = ()
    if hasattr(fast, "pre_tokenizer"):
        parts = (repr(fast.normalizer), repr(fast.pre_tokenizer), fast.get_vocab_size())
    settings = [getattr(tokenizer, name, None) for name in _TOKENIZER_SETTINGS]
    return (id(tokenizer), repr(settings), *parts)


def _tensors(model: Any) -> Iterator[tuple[str, Any]]:
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def _torch() -> Any:
    # A loaded model has imported it; this module alone must not.
    import torch

    return torch


def _digest_tensor(tensor: Any) -> list[Any]:
    plain = tensor.detach().cpu().contiguous()
    raw = plain.flatten().view(_torch().uint8).numpy().data if plain.numel() else b""
    return [str(plain.dtype), list(plain.shape), xxh3_128_hexdigest(raw)]


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


def _qualname(thing: Any) -> str:
    return f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _hooks(module: Any) -> list[str]:
    hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
    return [_qualname(hook) for hook in hooks]


def _settings(module: Any) -> dict[str, Any]:
    """A module's own attributes, as far as they are settings and not torch's or a cache's."""
    kind = type(module)
    library = kind.__module__.partition(".")[0]
    settings = {}
    for name, value in vars(module).items():
        if name in _NOT_SETTINGS or name in ("config", "tokenizer", "processor"):
            continue
        if name.startswith("_"):
            # Private attributes of the libraries are caches and bookkeeping, but for those that
            # stand behind a property. Those of unknown modules may be anything.
            known = library in ("torch", "transformers", "sentence_transformers")
            behind_property = isinstance(getattr(kind, name[1:], None), property)
            if name in _TORCH_INTERNALS or (known and not behind_property):
                continue
        settings[name] = _plain(value)
    return settings


_TORCH_INTERNALS = {
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


def _plain(value: Any) -> Any:
    """A value as JSON; of things JSON does not know, what tells them apart without running them."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, enum.Enum):
        return [_qualname(type(value)), value.name]
    if isinstance(value, dict):
        return sorted([str(key), _plain(item)] for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(_plain(item)) for item in value)
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), xxh3_128_hexdigest(value.tobytes())]
    if hasattr(value, "data_ptr"):
        return _digest_tensor(value)
    if hasattr(value, "__qualname__"):
        return _qualname(value)
    if type(value).__module__ == "torch":  # dtype; a device decides no vector
        return "device" if type(value).__name__ == "device" else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _plain(dataclasses.asdict(value))
    return _qualname(type(value))


def _tokenizer(tokenizer: Any) -> dict[str, Any]:
    found = {name: _plain(getattr(tokenizer, name, None)) for name in _TOKENIZER_SETTINGS}
    found["class"] = _qualname(type(tokenizer))
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "to_str"):
        document = json.loads(fast.to_str())
        # Set by each call for itself.
        document.pop("truncation", None)
        document.pop("padding", None)
        found["backend"] = hashlib.blake2b(canonical_json(document), digest_size=16).hexdigest()
    elif hasattr(tokenizer, "get_vocab"):
        found["vocabulary"] = _plain(tokenizer.get_vocab())
    inner = getattr(tokenizer, "tokenizer", None)  # a processor of several modalities
    if inner is not None and inner is not tokenizer:
        found["tokenizer"] = _tokenizer(inner)
    return found
