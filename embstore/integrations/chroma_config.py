"""What a Chroma collection keeps of its embedding function: JSON, from which it is made again."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NoReturn

from chromadb import EmbeddingFunction
from chromadb.utils.embedding_functions import known_embedding_functions

from embstore.keys import canonical_json

Config = dict[str, Any]

_KINDS: dict[str, tuple[type, ...]] = {
    "model": (str, dict),
    "store": (str, type(None)),
    "model_name": (str, type(None)),
    "version": (str, type(None)),
    "normalize_embeddings": (bool,),
    "batch_size": (int, type(None)),
    "encoder_kwargs": (dict,),
}
"""The keys of a config, and what stands under them."""

_DECISIVE = {"revision", "truncate_dim", "prompts", "default_prompt_name", "storage_dtype"}
_UNDECISIVE = {"device", "cache_folder", "local_files_only", "similarity_fn_name"}
_UNDECISIVE |= {"on_miss", "coalesce"}
_KEPT = _DECISIVE | _UNDECISIVE
"""Arguments of ``CachedEncoder`` that a collection may keep. Not trust_remote_code: whoever opens a
collection must not run what others have written into it. No token, either."""

_NOT_DECISIVE = {"api_key", "token", "password", "session_args", "device", "timeout"}
"""What decides no vector in the configs of Chroma's embedding functions."""

_SECRET = re.compile(
    r"(token|secret|password|authorization|cookie|credentials?|key|headers)$", re.IGNORECASE
)
_LOGIN = re.compile(r"://[^/@\s]+@")
"""Whoever is named in a URL, usually with a password."""

_GIVE_IT = "give it to get_collection, as embedding_function=CachedEmbeddingFunction(...)"


@dataclass(frozen=True)
class Known:
    """One of the embedding functions that Chroma knows by name, not made yet.

    Args:
        name: that it is registered under.
        config: of its ``get_config``.
    """

    name: str
    config: Config

    @property
    def kind(self) -> type:
        """Its class.

        Raises:
            ValueError: if none is registered under the name.
        """
        found: type | None = known_embedding_functions.get(self.name)
        if found is None:
            raise ValueError(
                f"Chroma knows no embedding function {self.name!r}: import the module that "
                f"registers it, or {_GIVE_IT}"
            )
        return found

    def make(self) -> Any:
        """The embedding function itself.

        Raises:
            ValueError: if it cannot be made, as where the key to its service is not set.
        """
        kind: Any = self.kind
        try:
            return kind.build_from_config(self.config)
        except Exception as error:
            raise ValueError(
                f"Chroma's embedding function {self.name!r} cannot be made from what the "
                f"collection keeps of it: {error}. If that cannot be mended, {_GIVE_IT}"
            ) from error


@dataclass(frozen=True)
class Absent:
    """A model that a collection cannot keep.

    Args:
        what: it was.
    """

    what: str

    def refuse(self) -> NoReturn:
        """Say what to do.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"this collection was made with {self.what}, which cannot be kept in it: {_GIVE_IT}"
        )


def is_embedding_function(model: Any) -> bool:
    """Whether this is an embedding function of Chroma's protocol, no model or plain function."""
    # Asked of its class: a CachedEncoder would load its model to tell.
    kind = type(model)
    if kind is Known or EmbeddingFunction in kind.__mro__:
        return True
    return callable(model) and hasattr(kind, "embed_query")


def overrides(kind: type, method: str) -> bool:
    """Whether a class of embedding functions has a method of its own, and not Chroma's for all."""
    own = getattr(kind, method, None)
    return own is not None and own is not getattr(EmbeddingFunction, method)


def described(model: Any) -> Known | None:
    """What an embedding function of Chroma's says of itself; None if it cannot be told again."""
    if isinstance(model, Known):
        return model
    if not all(overrides(type(model), method) for method in ("name", "get_config")):
        return None
    config = model.get_config()
    if not isinstance(config, dict) or not _is_json(config):
        return None
    return Known(model.name(), json.loads(canonical_json(config)))


def decisive(known: Known | None) -> Config:
    """What tells the vectors of an embedding function from another's, by what it says of itself.

    As a digest, since names of vectors can be read in the store. What is None counts as absent, so
    that a setting that a later Chroma brings makes no difference unless it is used.
    """
    if known is None:
        return {}
    settings = {
        key: value
        for key, value in known.config.items()
        if value is not None and key not in _NOT_DECISIVE and not key.endswith("_env_var")
    }
    digest = blake2b(canonical_json([known.name, settings]), digest_size=16)
    return {"embedding function": digest.hexdigest()}


def written_model(model: Any, encoder_kwargs: Config) -> str | Config:
    """A model, as a collection keeps it: a name or path; name and config of one of Chroma's
    embedding functions; or else what it was, from which nobody can make it again."""
    if isinstance(model, Absent):
        return {"given": model.what}
    if isinstance(model, str):
        lost = sorted(encoder_kwargs.keys() - kept(encoder_kwargs).keys())
        return {"given": f"{model!r} with {', '.join(lost)}"} if lost else model
    if is_embedding_function(model):
        known = described(model)
        if known is not None and known.config == _to_keep(known.config):
            return {"embedding_function": known.name, "config": known.config}
    name = getattr(model, "__name__", None)
    return {"given": type(model).__name__ + (f" {name!r}" if name else "")}


def kept(encoder_kwargs: Config) -> Config:
    """Those arguments of ``CachedEncoder`` that a collection keeps."""
    return {key: value for key, value in encoder_kwargs.items() if key in _KEPT and _is_json(value)}


def read_model(written: str | Config) -> str | Known | Absent:
    """What :func:`written_model` wrote."""
    if isinstance(written, str):
        return written
    if "given" in written:
        return Absent(written["given"])
    return Known(written["embedding_function"], written["config"])


def check(config: Config) -> None:
    """Refuse what :meth:`CachedEmbeddingFunction.get_config` has never written.

    Raises:
        ValueError: it says what is wrong.
    """
    if unknown := sorted(config.keys() - _KINDS):
        raise ValueError(f"config has {unknown[0]!r}, which this embstore does not know")
    for key, kinds in _KINDS.items():
        value = config.get(key, ...)
        if not isinstance(value, kinds) or (bool not in kinds and isinstance(value, bool)):
            raise ValueError(f"config has {value!r} as its {key!r}, or none")
    if refused := sorted(config["encoder_kwargs"].keys() - _KEPT):
        raise ValueError(f"{refused[0]} is not taken from a collection: {_GIVE_IT}")
    model = config["model"]
    if not isinstance(model, str):
        found = {key: type(value) for key, value in model.items()}
        if found not in ({"given": str}, {"embedding_function": str, "config": dict}):
            raise ValueError(f"config has {model!r} as its 'model'")
        if "config" in model and model["config"] != _to_keep(model["config"]):
            raise ValueError(f"secrets and foreign code are not taken from here: {_GIVE_IT}")


def check_update(old: Config, new: Config) -> None:
    """Refuse to mix vectors of two models in one collection, as far as configs can tell.

    Device, store, and the folder that a model is in may change. A model that was given as an object
    is taken for the same, and so is one of the same ``model_name``.

    Raises:
        ValueError: if vectors would differ.
    """
    for key in ("model_name", "version", "normalize_embeddings"):
        if old[key] != new[key]:
            raise _mixed(key, old[key], new[key])
    kwargs = old["encoder_kwargs"], new["encoder_kwargs"]
    for key in sorted(_DECISIVE):
        if kwargs[0].get(key) != kwargs[1].get(key):
            raise _mixed(key, kwargs[0].get(key), kwargs[1].get(key))
    before, now = read_model(old["model"]), read_model(new["model"])
    if isinstance(before, Known) and isinstance(now, Known):
        same = decisive(before) == decisive(now)
    elif isinstance(before, Absent) or isinstance(now, Absent) or new["model_name"] is not None:
        same = True
    else:
        same = before == now or (isinstance(now, str) and os.path.isdir(now))
    if not same:
        raise _mixed("model", old["model"], new["model"])


def _mixed(key: str, old: Any, new: Any) -> ValueError:
    return ValueError(
        f"{key} was {old!r} and is to be {new!r}: the collection would have vectors of both. Make "
        "another collection, and add the documents to that"
    )


def _is_json(value: Any) -> bool:
    try:
        canonical_json(value)
    except (TypeError, ValueError):
        return False
    return True


def _to_keep(value: Any) -> Any:
    """A config without what looks like a secret, and without leave to run a model's own code."""
    if isinstance(value, dict):
        return {key: _to_keep(item) for key, item in value.items() if not _hidden(key, item)}
    if isinstance(value, list):
        return [_to_keep(item) for item in value]
    return _LOGIN.sub("://", value) if isinstance(value, str) else value


def _hidden(key: str, value: Any) -> bool:
    if key == "trust_remote_code":
        return bool(value)
    return bool(value) and value is not True and _SECRET.search(key) is not None
