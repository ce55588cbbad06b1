"""Whether a loaded model is still the one whose fingerprint was taken: asked at each call.

A :class:`Watch` compares the identity, address and version counter of every parameter and buffer,
some numbers out of each of them, and the settings of the model's modules and tokenizer; MiniLM's in
40 µs. What it cannot see: a change of a few numbers made through ``tensor.data`` or numpy, which
leave torch's version counters alone, and a change of an attribute deep inside a transformers
module. ``CachedEncoder.refresh()`` is for these; see docs/keys.md.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from ctypes import c_uint8, c_uint16, c_uint32, c_uint64
from itertools import chain, islice
from operator import attrgetter, is_
from typing import Any

import numpy as np

from embstore.fingerprint import TOKENIZER_SETTINGS, is_setting

_SAMPLES = 16
"""Numbers that are compared of each tensor."""

_INTEGERS = {1: c_uint8, 2: c_uint16, 4: c_uint32, 8: c_uint64}

_VERSION = attrgetter("_version")

_LONG = 50
"""Items of a list or dict beyond which only that is compared, whether it is the same one."""

_SCALARS = (str, int, float, bool, bytes, type(None))


class Watch:
    """Whether a loaded model is still the one whose fingerprint was taken.

    Args:
        model: it.
        weights: whether to look at what the fingerprint is taken of; not where the model's owner
            answers for it. What a profile says otherwise is looked at in any case.

    Attributes:
        turns: how often something was looked at closely, and proved to be the same: an attribute
            that decides no vector may have changed.
    """

    def __init__(self, model: Any, *, weights: bool = True) -> None:
        # A loaded model has imported it; this module alone must not.
        import torch

        self._address = torch.Tensor.data_ptr
        modules, self._weights = list(model.modules()), weights
        self._set = [module for module in modules if module is not model and _is_set(module)]
        if not weights:  # but for the first, which tells the model's dtype
            modules = [model, *self._set, *islice(filter(_has_weights, modules), 1)]
        # Held, not only their ids: those of what is collected are given to something new.
        own = [vars(module) for module in modules]
        kinds = ("_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks")
        self._dicts: list[dict[str, Any]] = [settings[kind] for settings in own for kind in kinds]
        self._held = list(chain.from_iterable(map(dict.values, self._dicts)))
        self._tensors = [held for held in self._held if isinstance(held, torch.Tensor)]
        self._counting = [tensor for tensor in self._tensors if not tensor.is_inference()]
        self._samples = _Samples(self._tensors)
        self._addresses = self._where()
        self._numbers = self._read_numbers()
        self._kept = [list(vars(module).values()) for module in self._set]
        self._settings = self._read_settings(model)
        self.turns = 0
        self._containers: list[Any] = []
        self._contained: list[Any] = []
        self._remember(model)

    def same(self, model: Any) -> bool:
        """True as long as nothing that can be seen cheaply has changed."""
        return (
            self._looks_same(model)
            # Before the numbers are looked at: sharing a model with other processes, for one,
            # moves its memory and gives back what the samples stood in.
            and self._where() == self._addresses
            and (not self._weights or self._read_numbers() == self._numbers)
        )

    def _looks_same(self, model: Any) -> bool:
        # All that 600 dicts hold, in one call; as long as these are the same objects in the same
        # places, nothing of it has changed. The tokenizer is Rust's, and has no such dicts.
        contained = gc.get_referents(*self._containers)
        if len(contained) == len(self._contained) and all(map(is_, contained, self._contained)):
            return self._read_tokenizing(model) == self._tokenizers
        held = list(chain.from_iterable(map(dict.values, self._dicts)))
        if (
            len(held) != len(self._held)
            or not all(map(is_, held, self._held))
            or self._read_settings(model) != self._settings
            or self._read_tokenizing(model) != self._tokenizers
        ):
            return False
        self.turns += 1
        self._remember(model)
        return True

    def _remember(self, model: Any) -> None:
        settings = [vars(model), *map(vars, self._set)]
        self._containers = [*self._dicts, *_containers(settings)]
        self._contained = gc.get_referents(*self._containers)
        self._tokenizers = self._read_tokenizing(model)

    def _where(self) -> list[int]:
        return list(map(self._address, self._tensors))

    def _read_numbers(self) -> tuple[list[int], list[bytes]]:
        return list(map(_VERSION, self._counting)), self._samples.read()

    def _read_settings(self, model: Any) -> list[Any]:
        read: list[Any] = [id(model)]
        for module in self._set:
            own = vars(module).items()
            read.append([_brief(value) for name, value in own if is_setting(module, name)])
        return read

    def _read_tokenizing(self, model: Any) -> list[Any]:
        if not self._weights:  # the one setting of a tokenizer that a profile has
            return [model.max_seq_length]
        found: list[Any] = []
        for module in self._set:
            own = vars(module)
            tokenizer = own.get("tokenizer", own.get("processor"))
            if tokenizer is not None:
                found.append(_tokenizer_stamp(tokenizer))
        return found


class _Samples:
    """Some numbers out of each tensor, read from where they stand: for a hundred tensors, joining
    views of them takes three times as long.

    As integers: numpy has no bfloat16, and NaN must equal itself. Only to be read while the tensors
    are known to be where they were.
    """

    def __init__(self, tensors: Iterable[Any]) -> None:
        found: dict[tuple[int, int], list[int]] = {}
        for tensor in tensors:
            size, first = tensor.dtype.itemsize, tensor.data_ptr()
            # On other devices a look at the numbers would cost a synchronisation each.
            seen = tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.numel()
            if seen and size in _INTEGERS:
                step = max(1, tensor.numel() // _SAMPLES)
                places = range(first + step // 2 * size, first + tensor.numel() * size, step * size)
                found.setdefault((size, first % size), []).extend(places)
        self._parts = [self._part(size, places) for (size, _), places in found.items()]

    def _part(self, size: int, places: list[int]) -> tuple[Any, Any]:
        first = min(places)
        whole = (_INTEGERS[size] * ((max(places) - first) // size + 1)).from_address(first)
        return np.frombuffer(memoryview(whole), f"u{size}"), (np.array(places) - first) // size

    def read(self) -> list[bytes]:
        """The numbers, as bytes that can be compared."""
        return [numbers.take(places).tobytes() for numbers, places in self._parts]


def _containers(values: Iterable[Any]) -> Iterator[Any]:
    """Dicts, lists and tuples among values, and what of their kind they hold, as deep as
    :func:`_brief` looks."""
    for value in values:
        if isinstance(value, dict):
            yield value
            yield from _containers(value.values() if len(value) < _LONG else ())
        elif isinstance(value, (list, tuple)):
            yield value
            yield from _containers(value if len(value) < _LONG else ())


def _has_weights(module: Any) -> bool:
    return any(tensor is not None for tensor in module._parameters.values())


def _is_set(module: Any) -> bool:
    """Whether a module has settings that people change; torch's and transformers' own are built
    from a configuration, and too many to look at in each call."""
    return type(module).__module__.partition(".")[0] not in ("torch", "transformers")


def _brief(value: Any) -> Any:
    if type(value) in _SCALARS:
        return value
    if isinstance(value, (list, tuple)) and len(value) < _LONG:
        return [_brief(item) for item in value]
    if isinstance(value, dict) and len(value) < _LONG:
        return [(_brief(key), _brief(item)) for key, item in value.items()]
    return id(value)  # the Watch holds it, so nothing else can have it


def _tokenizer_stamp(tokenizer: Any) -> list[Any]:
    fast: Any = getattr(tokenizer, "_tokenizer", tokenizer)
    stamp: list[Any] = [id(tokenizer)]
    stamp += [repr(getattr(tokenizer, name, None)) for name in TOKENIZER_SETTINGS]
    if hasattr(fast, "pre_tokenizer"):
        stamp.append(repr((fast.normalizer, fast.pre_tokenizer, fast.post_processor)))
        stamp.append(fast.get_vocab_size())
        if fast is tokenizer:
            stamp.append(repr((fast.truncation, fast.padding)))
    return stamp
