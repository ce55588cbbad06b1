"""What computes: a SentenceTransformer, one that is loaded at the first miss, or a function."""

from __future__ import annotations

import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from embstore import fingerprint, locks, snapshot
from embstore.backends.rows import Array
from embstore.fingerprint import ModelProfile
from embstore.keys import version_fingerprint
from embstore.lookup import as_vectors
from embstore.store import EmbeddingStore
from embstore.token_batches import UPSTREAM_BATCH, BatchLimit, encode_by_tokens
from embstore.watch import Watch


class Model(Protocol):
    """What an encoder needs of a model."""

    def profile(self) -> ModelProfile:
        """What the model is now."""

    def load(self) -> Any:
        """The object that computes, to be used and not changed."""

    def share(self) -> Any:
        """The object that computes, for whoever asks for it: it may be changed from now on."""

    def compute(self, texts: list[str], limit: BatchLimit, **settings: Any) -> Any:
        """Vectors, (n, dim), for n texts, in batches of at most ``limit``."""

    def refresh(self) -> None:
        """Take the identity again, from everything."""

    @property
    def is_tunable(self) -> bool:
        """Whether its batches may be cut otherwise than by a fixed number of texts."""


def as_model(
    model: Any,
    store: EmbeddingStore,
    *,
    name: str | None,
    version: str | None,
    loading: dict[str, Any],
) -> Model:
    """The right :class:`Model` for what a user gave.

    Raises:
        TypeError: if it is nothing that can embed texts, or arguments do not go with it.
        ValueError: if a function comes without a name.
    """
    if isinstance(model, (str, os.PathLike)):
        return LazyModel(os.fspath(model), store, name, version, loading)
    if extra := [key for key, value in loading.items() if value is not None and key != "device"]:
        raise TypeError(f"{extra[0]}= goes with a model given by name or path, not a loaded one")
    if _is_sentence_transformer(model):
        if loading.get("device") is not None:
            model.to(loading["device"])
        return LoadedModel(model, name, version)
    if _is_module(model):
        raise TypeError(
            f"{type(model).__name__} is not a SentenceTransformer: wrap it in a function from "
            "list[str] to vectors, and give that"
        )
    if inspect.iscoroutinefunction(model):
        raise TypeError("an async function goes with @embstore.cached, not with CachedEncoder")
    if callable(model):
        if not name:
            raise ValueError(
                "a function needs model_name=: two functions whose vectors differ must not share "
                "one (use version= to tell them apart)"
            )
        return FunctionModel(model, name, version)
    raise TypeError(
        "model is a SentenceTransformer, a name or path of one, or a function from list[str] to "
        f"vectors, not {type(model).__name__}"
    )


def _is_sentence_transformer(model: Any) -> bool:
    # Whoever has one has imported the library; importing it here would take seconds.
    library = sys.modules.get("sentence_transformers")
    return library is not None and isinstance(model, library.SentenceTransformer)


def _is_module(model: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(model, torch.nn.Module)


class LoadedModel:
    """A SentenceTransformer in memory. Its fingerprint is taken again when it has changed."""

    def __init__(self, model: Any, name: str | None, version: str | None) -> None:
        self._model = model
        self._name = name
        self._version = version
        self._taken: tuple[Watch, str] | None = None
        self._profile: tuple[int, ModelProfile] | None = None
        self._countable = True

    def profile(self) -> ModelProfile:
        """What the model is now: 40 µs if it has not changed, else a full fingerprint; 6 µs with a
        version. The same object as long as nothing has."""
        taken, known = self._taken, self._profile
        if taken is None or not taken[0].same(self._model):
            # Watched first: what changes while the fingerprint is taken is noticed next time.
            watch = Watch(self._model, weights=self._version is None)
            taken = self._taken = (watch, self._fingerprint())
            self._countable = True
        elif known is not None and known[0] == taken[0].turns:
            return known[1]
        return self._latest(taken[0].turns, taken[1])

    def _fingerprint(self) -> str:
        if self._version is None:
            return fingerprint.fingerprint(self._model)
        return version_fingerprint(self._version)

    def _latest(self, turns: int, model_fingerprint: str) -> ModelProfile:
        profile = fingerprint.profile(self._model, model_fingerprint, self._name)
        known = self._profile
        if known is not None and known[1] == profile:
            profile = known[1]
        self._profile = turns, profile
        return profile

    def refresh(self) -> None:
        """Take the fingerprint again at the next call."""
        self._taken = None

    def load(self) -> Any:
        """The SentenceTransformer."""
        return self._model

    share = load

    @property
    def is_tunable(self) -> bool:
        """Unless its tokens turned out not to be countable."""
        return self._countable

    def compute(self, texts: list[str], limit: BatchLimit, **settings: Any) -> Any:
        """``SentenceTransformer.encode``."""
        size = limit.size
        if limit.unit == "tokens":
            if self._countable:
                vectors = encode_by_tokens(self._model, texts, size, settings)
                if vectors is not None:
                    return vectors
                self._countable = False  # so that no other chunk is tokenized in vain
            size = UPSTREAM_BATCH
        return self._model.encode(texts, batch_size=size, show_progress_bar=False, **settings)

    def __getstate__(self) -> dict[str, Any]:
        return {"model": self._model, "name": self._name, "version": self._version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]  # addresses differ in another process


class LazyModel:
    """A SentenceTransformer that is loaded when something has to be computed."""

    def __init__(
        self,
        name_or_path: str,
        store: EmbeddingStore,
        name: str | None,
        version: str | None,
        loading: dict[str, Any],
    ) -> None:
        self._name_or_path = name_or_path
        self._store = store
        self._name = name
        self._version = version
        self._arguments = {key: value for key, value in loading.items() if value is not None}
        self._decisive = self._decisive_arguments()
        self._loaded: LoadedModel | None = None
        self._recalled: tuple[snapshot.Watched, ModelProfile] | None = None
        self._own: ModelProfile | None = None
        """That of the loaded model, as long as nobody else has been given it, who could change
        it."""

    def profile(self) -> ModelProfile:
        """What the model is, from its files if their identity is known; else it is loaded."""
        if (own := self._own) is not None:
            return own
        with locks.LOADING:
            if self._loaded is None:
                known = self._recall()
                if known is not None:
                    return known
                self.load()
            assert self._loaded is not None
            return self._loaded.profile()

    def _recall(self) -> ModelProfile | None:
        recalled = self._recalled
        if recalled is not None and recalled[0].same:
            return recalled[1]
        self._recalled = None
        folder, arguments = self._folder(), self._decisive
        if folder is None or arguments is None:
            return None
        try:
            files = snapshot.Watched(folder, self._name_or_path, self._arguments.get("revision"))
        except OSError:
            return None
        known = snapshot.recall(self._store, folder, arguments)
        if known is not None:
            self._recalled = files, known
        return known

    def _folder(self) -> Path | None:
        return snapshot.locate(
            self._name_or_path, self._arguments.get("revision"), self._arguments.get("cache_folder")
        )

    def _decisive_arguments(self) -> dict[str, Any] | None:
        """What, besides the files, decides what is loaded; None if that cannot be told."""
        if self._arguments.get("trust_remote_code"):
            return None  # code from other repositories may be fetched and run
        undecisive = ("device", "cache_folder", "local_files_only", "token")
        chosen = {key: value for key, value in self._arguments.items() if key not in undecisive}
        chosen["name"] = [self._name, self._version]
        try:
            return dict(json.loads(json.dumps(chosen, default=_name_of_dtype, sort_keys=True)))
        except (TypeError, ValueError):
            return None

    def load(self) -> Any:
        """The SentenceTransformer, loaded now if it was not."""
        with locks.LOADING:
            if self._loaded is None:
                before = self._metadata()
                try:
                    from sentence_transformers import SentenceTransformer
                except ImportError as error:
                    raise ImportError(
                        f"loading {self._name_or_path} needs an extra: "
                        "pip install 'embstore[sentence-transformers]'"
                    ) from error
                model = SentenceTransformer(self._name_or_path, **self._arguments)
                self._loaded = LoadedModel(model, self._name, self._version)
                self._own = self._loaded.profile()
                self._remember(before)
            return self._loaded.load()

    def share(self) -> Any:
        """The SentenceTransformer, for others to use."""
        model = self.load()
        self._own = None
        return model

    def _metadata(self) -> snapshot.Metadata | None:
        folder = self._folder()
        try:
            return None if folder is None else snapshot.metadata(folder)
        except OSError:
            return None

    def _remember(self, before: snapshot.Metadata | None) -> None:
        folder, arguments = self._folder(), self._decisive
        # Files that changed while they were loaded say nothing of what was loaded. A hub snapshot
        # that was not there before has just been fetched, and is never changed in place.
        fetched = before is None and not os.path.isdir(self._name_or_path)
        now = self._metadata()
        if folder is None or arguments is None or now is None or self._loaded is None:
            return
        if fetched or before == now:
            snapshot.record(self._store, folder, arguments, self._loaded.profile(), now)

    @property
    def is_loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._loaded is not None

    @property
    def is_tunable(self) -> bool:
        """As the loaded model has it."""
        return self._loaded is None or self._loaded.is_tunable

    def refresh(self) -> None:
        """Take the identity again at the next call."""
        self._recalled = self._own = None
        if self._loaded is not None:
            self._loaded.refresh()

    def compute(self, texts: list[str], limit: BatchLimit, **settings: Any) -> Any:
        """``SentenceTransformer.encode``."""
        self.load()
        assert self._loaded is not None
        return self._loaded.compute(texts, limit, **settings)

    def __getstate__(self) -> dict[str, Any]:
        # Not the loaded model: the copy loads it if it ever misses.
        return {
            "name_or_path": self._name_or_path,
            "store": self._store,
            "name": self._name,
            "version": self._version,
            "loading": self._arguments,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


class FunctionModel:
    """Any function from a list of texts to vectors."""

    def __init__(
        self, function: Callable[[list[str]], Any], name: str, version: str | None
    ) -> None:
        self._function = function
        self._profile = ModelProfile(name, version_fingerprint(version))

    def profile(self) -> ModelProfile:
        """Its name and version."""
        return self._profile

    def refresh(self) -> None:
        """Nothing to take again."""

    @property
    def is_tunable(self) -> bool:
        """No: how many texts a function takes at once, its author knows."""
        return False

    def load(self) -> Any:
        """The function."""
        return self._function

    share = load

    def compute(
        self,
        texts: list[str],
        limit: BatchLimit,
        *,
        prompt: str | None = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        **_: Any,
    ) -> Array:
        """The function's vectors, ``limit.size`` texts a call, treated as upstream treats a
        model's: prompt in front, then truncated, then normalized."""
        prompted = [prompt + text for text in texts] if prompt else texts
        parts = [
            self._call(prompted[start : start + limit.size])
            for start in range(0, len(prompted), limit.size)
        ]
        vectors = np.concatenate(parts) if len(parts) > 1 else parts[0]
        if truncate_dim is not None:
            vectors = vectors[:, :truncate_dim]
        return normalized(vectors) if normalize_embeddings else vectors

    def _call(self, texts: Sequence[str]) -> Array:
        output = self._function(list(texts))
        if inspect.isawaitable(output):
            raise TypeError("an async function goes with @embstore.cached, not with CachedEncoder")
        return as_vectors(output, len(texts), self._profile.name)


def normalized(vectors: Array) -> Array:
    """Vectors scaled to unit length; a vector of zeros stays one, as in torch's ``normalize``."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Array = (vectors / np.maximum(lengths, 1e-12)).astype(vectors.dtype)
    return scaled


def _name_of_dtype(value: Any) -> str:
    if type(value).__module__ == "torch" and type(value).__name__ == "dtype":
        return str(value)
    raise TypeError(type(value).__name__)
