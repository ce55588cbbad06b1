"""Anything as JSON values that tell it apart from others: settings, functions, tensors."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import types
from typing import Any

import numpy as np
from xxhash import xxh3_128_hexdigest


def plain(value: Any, depth: int = 0) -> Any:
    """A value as JSON; of things JSON does not know, what tells them apart without running them."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, np.generic):
        return [value.dtype.str, xxh3_128_hexdigest(value.tobytes())]
    if isinstance(value, float):
        return repr(value)
    if depth > 6:
        return qualname(type(value))
    if isinstance(value, enum.Enum):
        return [qualname(type(value)), value.name]
    if isinstance(value, dict):
        pairs = ([str(key), plain(item, depth + 1)] for key, item in value.items())
        return sorted(pairs, key=lambda pair: pair[0])
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(plain(item, depth + 1)) for item in value)
    if isinstance(value, bytes):
        return xxh3_128_hexdigest(value)
    if isinstance(value, np.ndarray):
        return [value.dtype.str, list(value.shape), xxh3_128_hexdigest(value.tobytes())]
    if hasattr(value, "data_ptr"):
        return digest_tensor(value)
    if type(value).__module__ == "torch":  # dtype; a device decides no vector
        return "device" if type(value).__name__ == "device" else str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value), depth + 1)
    if isinstance(value, types.CodeType):
        return plain([value.co_code, value.co_names, value.co_consts], depth + 1)
    if isinstance(value, functools.partial):
        return ["partial", plain([value.func, value.args, value.keywords], depth + 1)]
    if hasattr(value, "__code__"):
        # Functions of one name may differ in what they do, call and hold.
        held = [_held(cell) for cell in value.__closure__ or ()]
        given = [value.__defaults__, value.__kwdefaults__, held, getattr(value, "__self__", None)]
        return [qualname(value), plain([value.__code__, *given], depth + 1)]
    if hasattr(value, "__qualname__"):
        return qualname(value)
    library = type(value).__module__.partition(".")[0]
    opaque = library in ("torch", "transformers", "sentence_transformers", "builtins")
    state = None if opaque else getattr(value, "__dict__", None)
    return [qualname(type(value)), None if state is None else plain(dict(state), depth + 1)]


def _held(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not yet filled
        return None


def qualname(thing: Any) -> str:
    """Module and name of a class or function."""
    return f"{thing.__module__}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def digest_tensor(tensor: Any) -> list[Any]:
    """A tensor's dtype, shape and the digest of its bytes."""
    import torch  # whoever has a tensor has imported it

    flat = tensor.detach().cpu().contiguous()
    raw = flat.flatten().view(torch.uint8).numpy().data if flat.numel() else b""
    return [str(flat.dtype), list(flat.shape), xxh3_128_hexdigest(raw)]
