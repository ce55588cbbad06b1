"""CachedEncoder: a store and a model, in the place of a SentenceTransformer."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Mapping
from typing import Any, Literal

from embstore import upstream
from embstore.delegate import Delegate
from embstore.errors import CacheMissError, NamespaceError
from embstore.fingerprint import ModelProfile
from embstore.keys import Namespace
from embstore.lookup import Lookup
from embstore.models import FunctionModel, LazyModel, as_model
from embstore.stats import Stats
from embstore.store import EmbeddingStore

_CHUNK_TEXTS = 256
"""Texts computed between two commits: what a crash can cost. Always whole batches, so that cutting
a call into chunks leaves upstream's batches as they are."""
_POOL_CHUNK_TEXTS = 8192
"""The same when several processes compute: each chunk has to keep all of them busy."""


class CachedEncoder(Delegate):
    """A drop-in for ``SentenceTransformer`` that embeds no text twice.

    ``encode``, ``encode_query`` and ``encode_document`` take upstream's arguments and return what
    upstream returns. Every other attribute, read or set, is the model's own.

    Args:
        model: a ``SentenceTransformer``; or the name or path of one, which is loaded when something
            must be computed; or any function from ``list[str]`` to (n, dim) vectors.
        store: where embeddings are kept; None is ``EmbeddingStore()``, at its default location.
        model_name: what to call the model in the store; required for a function.
        version: tells apart what has one name: change it when a function changes. For a model it
            replaces the fingerprint, which is then no longer taken.
        device: as in ``SentenceTransformer``.
        model_kwargs: as in ``SentenceTransformer``; so are all further arguments (``revision``,
            ``truncate_dim``, ``prompts``, ``trust_remote_code``, ...), for a name or path only.
        on_miss: "encode" computes what is missing, "raise" raises CacheMissError.

    Raises:
        TypeError: if ``model`` is nothing that can embed texts.
        ValueError: if a function has no ``model_name``.

    >>> import tempfile
    >>> def letters(texts):
    ...     return [[float(len(text)), float(text.count("a"))] for text in texts]
    >>> encoder = CachedEncoder(letters, EmbeddingStore(tempfile.mkdtemp()), model_name="letters")
    >>> encoder.encode(["banana", "apple", "banana"])
    array([[6., 3.],
           [5., 1.],
           [6., 3.]], dtype=float32)
    >>> encoder.stats().deduplicated
    1
    """

    def __init__(
        self,
        model: Any,
        store: EmbeddingStore | None = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        device: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        on_miss: Literal["encode", "raise"] = "encode",
        **loading: Any,
    ) -> None:
        if on_miss not in ("encode", "raise"):
            raise ValueError(f'on_miss is "encode" or "raise", not {on_miss!r}')
        own: dict[str, Any] = {
            "store": EmbeddingStore() if store is None else store,
            "_on_miss": on_miss,
            "_device": device,
            "_namespaces": {},
        }
        self.__dict__.update(own)
        self.__dict__["_model"] = as_model(
            model,
            self.store,
            name=model_name,
            version=version,
            loading={"device": device, "model_kwargs": model_kwargs, **loading},
        )

    store: EmbeddingStore

    # --- encoding -------------------------------------------------------------------------------

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: Literal["sentence_embedding", "token_embeddings"] | None = (
            "sentence_embedding"
        ),
        precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: dict[str, Any] | None = None,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> Any:
        """Embed texts, computing only those that are not stored.

        Arguments and results are those of ``SentenceTransformer.encode``; see there. Inputs other
        than texts, token embeddings and ``output_value=None`` go to the model uncached.

        Returns:
            By default the vectors, (n, dim), float32 unless the model gives another dtype,
            C-contiguous, the caller's own; (dim,) for a single text.

        Raises:
            CacheMissError: if texts are missing and ``on_miss="raise"``.
            ModelOutputError: if a function returns something that is not a vector per text.
            ValueError: for arguments that upstream refuses, even if every text is stored.
        """
        if "sentences" in kwargs:
            upstream.logger.warning(
                "The `sentences` argument was renamed and is now deprecated. "
                "Please use `inputs` instead."
            )
            renamed = kwargs.pop("sentences")
            inputs = renamed if inputs is None else inputs
        if inputs is None:
            raise TypeError("encode() missing 1 required positional argument: 'inputs'")
        settings: dict[str, Any] = {
            "batch_size": batch_size,
            "device": device,
            "normalize_embeddings": normalize_embeddings,
            "pool": pool,
            "chunk_size": chunk_size,
            **kwargs,
        }
        texts, singular = upstream.as_texts(inputs)
        cacheable = output_value == "sentence_embedding" and truncate_dim != 0 and _is_json(kwargs)
        if texts is None or not cacheable:
            return self._bypass(
                inputs,
                1 if texts is None and singular else len(inputs if texts is None else texts),
                prompt_name=prompt_name,
                prompt=prompt,
                show_progress_bar=show_progress_bar,
                output_value=output_value,
                precision=precision,
                convert_to_numpy=convert_to_numpy,
                convert_to_tensor=convert_to_tensor,
                truncate_dim=truncate_dim,
                **settings,
            )
        while True:
            profile = self._model.profile()
            upstream.check_arguments(profile, batch_size, precision, kwargs)
            if not isinstance(self._model, FunctionModel):
                upstream.check_devices(device, pool, chunk_size, texts)
            settings["prompt"] = upstream.resolve_prompt(profile, prompt, prompt_name)
            settings["truncate_dim"] = upstream.choose_dim(profile, truncate_dim)
            namespace = self._namespace(profile, settings, kwargs)
            lookup = Lookup(self.store, namespace, texts)
            if lookup.missing and self._on_miss == "raise":
                lookup.raise_if_missing()
            if not lookup.missing or not self._changes_by_loading(profile):
                break
        show = upstream.wants_progress(show_progress_bar)
        if lookup.missing or show:
            self._compute_missing(lookup, texts, settings, show)
        vectors = upstream.finish(
            lookup.vectors(),
            profile=profile,
            precision=precision,
            convert_to_numpy=convert_to_numpy,
            convert_to_tensor=convert_to_tensor,
            device=lambda: self._output_device(device, pool),
        )
        return vectors[0] if singular else vectors

    def encode_query(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """:meth:`encode` for queries: with the model's "query" prompt, and task "query"."""
        return self._encode_for(("query",), "query", inputs, *args, **kwargs)

    def encode_document(self, inputs: Any = None, *args: Any, **kwargs: Any) -> Any:
        """:meth:`encode` for documents: with the model's first prompt of "document", "passage" and
        "corpus", and task "document"."""
        return self._encode_for(
            ("document", "passage", "corpus"), "document", inputs, *args, **kwargs
        )

    def _encode_for(
        self,
        prompt_names: tuple[str, ...],
        task: str,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        if prompt_name is None and prompt is None:
            prompts = self._model.profile().prompts
            prompt_name = next((name for name in prompt_names if name in prompts), None)
        if "task" in kwargs:
            raise TypeError("encode() got multiple values for keyword argument 'task'")
        return self.encode(inputs, prompt_name, prompt, *args, task=task, **kwargs)

    for _method in (encode_query, encode_document):
        _method.__signature__ = inspect.signature(encode)  # type: ignore[attr-defined]
    del _method

    async def aencode(self, inputs: Any, **kwargs: Any) -> Any:
        """:meth:`encode` in a thread, so that an event loop goes on meanwhile."""
        return await asyncio.to_thread(self.encode, inputs, **kwargs)

    # --- the steps of encode --------------------------------------------------------------------

    def _namespace(
        self, profile: ModelProfile, settings: Mapping[str, Any], kwargs: Mapping[str, Any]
    ) -> Namespace:
        """The namespace of a call. Made once for each combination: its id takes 20 µs."""
        extra: dict[str, Any] = upstream.numerics()
        further = {key: value for key, value in kwargs.items() if key != "task"}
        if further:
            extra["encode"] = further
        fields = {
            "model_name": profile.name,
            "fingerprint": profile.fingerprint,
            "normalize": bool(settings["normalize_embeddings"]),
            "prompt": settings["prompt"] or None,
            "task": kwargs.get("task"),
            "truncate_dim": settings["truncate_dim"],
            "max_seq_length": profile.max_seq_length,
            "dtype": profile.dtype,
            "extra": extra,
        }
        made: dict[str, Namespace] = self.__dict__["_namespaces"]
        name = repr(fields)
        if name not in made:
            if len(made) > 1000:
                made.clear()
            made[name] = Namespace(**fields)
        return made[name]

    def _changes_by_loading(self, profile: ModelProfile) -> bool:
        """Load the model if it is not; whether it is another one than its files promised."""
        if not isinstance(self._model, LazyModel) or self._model.is_loaded:
            return False
        self._model.load()
        return self._model.profile() != profile

    def _compute_missing(
        self, lookup: Lookup, texts: list[str], settings: dict[str, Any], show: bool
    ) -> None:
        """Compute and commit chunk by chunk, longest texts first.

        Sorted over the whole call, as upstream does within each of its calls: batches are then of
        like lengths, and the estimate of the time left errs on the safe side.
        """
        missing = sorted(lookup.missing, key=lambda position: -len(texts[position]))
        batch = settings["batch_size"]
        several = settings["pool"] is not None or isinstance(settings["device"], list)
        wanted = _POOL_CHUNK_TEXTS if several else _CHUNK_TEXTS
        size = batch * max(1, wanted // batch)
        with _progress(len(texts), len(texts) - len(missing), show) as bar:
            for start in range(0, len(missing), size):
                chunk = missing[start : start + size]
                began = time.perf_counter()
                output = self._model.compute([texts[position] for position in chunk], **settings)
                lookup.complete(chunk, output, time.perf_counter() - began)
                bar.update(len(chunk))

    def _bypass(self, inputs: Any, count: int, **settings: Any) -> Any:
        if self._on_miss == "raise":
            raise CacheMissError(
                "what is not a text, and what is not a sentence embedding, is never stored",
                missing=count,
                total=count,
            )
        model = self._model.load()
        if isinstance(self._model, FunctionModel):
            raise TypeError(
                "a function embeds texts: inputs must be a str or a list of str, output_value "
                '"sentence_embedding", and further arguments JSON values'
            )
        self.store.count(bypassed=count)
        return model.encode(inputs, **settings)

    def _output_device(self, device: Any, pool: Any) -> Any:
        if pool is not None or isinstance(device, list):
            return "cpu"
        if device is not None:
            return device
        if isinstance(self._model, FunctionModel):
            return self._device or "cpu"
        if isinstance(self._model, LazyModel) and not self._model.is_loaded:
            from sentence_transformers.util import get_device_name

            return self._device or get_device_name()
        return self._model.load().device

    # --- around it ------------------------------------------------------------------------------

    def stats(self) -> Stats:
        """What the store did for this and any other encoder on it; see EmbeddingStore.stats."""
        return self.store.stats()

    def namespace(self, *, task: str | None = None, **arguments: Any) -> Namespace:
        """The namespace that a call of :meth:`encode` with these arguments uses.

        Args:
            task: as in ``encode``.
            **arguments: ``prompt``, ``prompt_name``, ``normalize_embeddings``, ``truncate_dim``.
        """
        profile = self._model.profile()
        names = (arguments.get("prompt"), arguments.get("prompt_name"))
        settings = {
            "prompt": upstream.resolve_prompt(profile, *names),
            "normalize_embeddings": arguments.get("normalize_embeddings", False),
            "truncate_dim": upstream.choose_dim(profile, arguments.get("truncate_dim")),
        }
        return self._namespace(profile, settings, {} if task is None else {"task": task})

    def refresh(self) -> None:
        """Take the model's identity anew at the next call, from all of its weights and settings.

        For changes that cannot be seen cheaply; docs/keys.md says which these are.
        """
        self._model.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_namespaces": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)

    def __repr__(self) -> str:
        return f"CachedEncoder({self._model.__class__.__name__}, {self.store!r})"


def _is_json(kwargs: Mapping[str, Any]) -> bool:
    if not kwargs:
        return True
    try:
        Namespace("any", extra=kwargs)
    except NamespaceError:
        return False
    return True


def _progress(total: int, hits: int, show: bool) -> Any:
    """A bar that counts texts and says how many were there already."""
    from tqdm.auto import tqdm

    return tqdm(
        total=total,
        initial=hits,
        desc="Texts",
        unit="text",
        disable=not show,
        postfix={"hits": f"{hits:,}"},
    )
