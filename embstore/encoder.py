"""CachedEncoder: a store and a model, in the place of a SentenceTransformer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Literal

from embstore import hooks, upstream
from embstore.call import Arguments, BatchSize, Call, Group, Recipes
from embstore.computing import Computer, ModelChangedError
from embstore.delegate import Delegate
from embstore.errors import CacheMissError
from embstore.fingerprint import ModelProfile
from embstore.keys import Namespace, check_storage_dtype
from embstore.lazily import Lazily
from embstore.lookup import Lookup
from embstore.models import FunctionModel, LazyModel, as_model
from embstore.online import Gatherer, OnlineBatching
from embstore.stats import Stats
from embstore.store import EmbeddingStore, StoreLike, as_store
from embstore.threads import Desk, PerLoop, Threads

if TYPE_CHECKING:
    import asyncio
else:
    asyncio = Lazily("asyncio")

_Asked = tuple[list[str], bool, Arguments]
"""Texts, whether they are a single one, and how they are to be encoded."""

_ONLINE = OnlineBatching()
_PROMPTS = {"query": ("query",), "document": ("document", "passage", "corpus")}
"""For each task the names of the prompts that upstream looks for, the first that there is."""


class CachedEncoder(Delegate):
    """A drop-in for ``SentenceTransformer`` that embeds no text twice.

    ``encode``, ``encode_query`` and ``encode_document`` take upstream's arguments and return what
    upstream returns. Every other attribute, read or set, is the model's own.

    Args:
        model: a ``SentenceTransformer``; or the name or path of one, which is loaded when something
            must be computed; or any function from ``list[str]`` to (n, dim) vectors.
        store: where embeddings are kept, or its location; None is the default location.
        model_name: what to call the model in the store; required for a function.
        version: tells apart what has one name: change it when a function changes. For a model it
            replaces the fingerprint, which is then no longer taken.
        device: as in ``SentenceTransformer``.
        model_kwargs: as in ``SentenceTransformer``; so are all further arguments (``revision``,
            ``truncate_dim``, ``prompts``, ``trust_remote_code``, ...), for a name or path only.
        on_miss: "encode" computes what is missing, "raise" raises CacheMissError.
        coalesce: whether workers (threads, processes) that lack the same texts divide them.
        storage_dtype: "float16" stores vectors in half the bytes, rounded; they come back as
            float32. They are kept apart from those of other encoders.
        online: how :meth:`aencode` gathers concurrent requests.

    Raises:
        TypeError: if ``model`` is nothing that can embed texts, or ``store`` nothing that keeps.
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
        store: StoreLike = None,
        *,
        model_name: str | None = None,
        version: str | None = None,
        device: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        on_miss: Literal["encode", "raise"] = "encode",
        coalesce: bool = True,
        storage_dtype: Literal["float16"] | None = None,
        online: OnlineBatching = _ONLINE,
        **loading: Any,
    ) -> None:
        if on_miss not in ("encode", "raise"):
            raise ValueError(f'on_miss is "encode" or "raise", not {on_miss!r}')
        check_storage_dtype(storage_dtype)
        own: dict[str, Any] = {
            "store": as_store(store),
            "_on_miss": on_miss,
            "_device": device,
            "_online": online,
            "_coalesce": coalesce,
            "_storage_dtype": storage_dtype,
        }
        self.__dict__.update(own)
        loading |= {"device": device, "model_kwargs": model_kwargs}
        self.__dict__["_model"] = as_model(
            model, self.store, name=model_name, version=version, loading=loading
        )
        self.__dict__.update(self._fresh())

    store: EmbeddingStore
    _storage_dtype: str | None
    _recipes: Recipes
    _computer: Computer
    _lookups: Threads
    _desks: PerLoop[Desk[tuple[Context, _Asked], Call]]
    _gatherers: PerLoop[Gatherer[Group]]

    # --- encoding -------------------------------------------------------------------------------

    def encode(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: BatchSize = "auto",
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

        ``batch_size="auto"`` fills batches up to a number of padded tokens that suits the model on
        this machine, found on large calls and kept in the store; docs/batching.md tells how. A
        number is taken as upstream takes it. For a function, and for several devices, "auto" is
        upstream's 32 texts.

        Returns:
            By default (n, dim) vectors, float32 unless the model gives another dtype, C-contiguous,
            the caller's own; (dim,) for a single text.

        Raises:
            CacheMissError: if texts are missing and ``on_miss="raise"``.
            ModelOutputError: if a function returns something that is not a vector per text.
            ValueError: for arguments that upstream refuses, even if every text is stored.
        """
        inputs = upstream.take_inputs(inputs, kwargs)
        given = (
            *(prompt_name, prompt, batch_size, show_progress_bar, output_value, precision),
            *(convert_to_numpy, convert_to_tensor, device, normalize_embeddings, truncate_dim),
            *(pool, chunk_size),
        )
        arguments = self._recipes.arguments(given, kwargs)
        texts, singular = upstream.as_texts(inputs)
        if texts is None or not arguments.cacheable:
            return self._bypass(inputs, arguments)
        asked, show = (texts, singular, arguments), upstream.wants_progress(show_progress_bar)
        if not hooks.active:
            return self._encode(asked, show)
        with hooks.Operation("encode", self.store.location, None, len(texts)) as operation:
            return self._encode(asked, show, operation)

    def _encode(self, asked: _Asked, show: bool, operation: hooks.Operation | None = None) -> Any:
        call = self._look_up(asked, self._model.profile)
        if operation is not None:
            operation.namespace = call.recipe.namespace
        if call.lookup.missing or show:
            self._computer.compute(call, call.lookup, call.texts, show)
        return self._finish(call)

    def encode_query(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """:meth:`encode` for queries: with the model's "query" prompt, and task "query"."""
        prompt_name = self._prompt_for("query", prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *args, task="query", **kwargs)

    def encode_document(
        self,
        inputs: Any = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """:meth:`encode` for documents: with the model's first prompt of "document", "passage" and
        "corpus", and task "document"."""
        prompt_name = self._prompt_for("document", prompt_name, prompt)
        return self.encode(inputs, prompt_name, prompt, *args, task="document", **kwargs)

    for _method in (encode_query, encode_document):
        _method.__signature__ = inspect.signature(encode)  # type: ignore[attr-defined]
    del _method

    def _prompt_for(self, task: str, prompt_name: str | None, prompt: str | None) -> str | None:
        if prompt_name is not None or prompt is not None:
            return prompt_name
        prompts = self._model.profile().prompts
        return next((name for name in _PROMPTS[task] if name in prompts), None)

    async def aencode(self, inputs: Any, **arguments: Any) -> Any:
        """:meth:`encode`, from an event loop, together with others.

        What is stored is returned at once. What is not is computed in batches with the missing
        texts of other calls that are awaited at the same time: see
        :class:`~embstore.online.OnlineBatching`. A text that several calls ask for is computed
        once. Whoever is cancelled takes nothing from the others. A call that lacks more texts than
        a batch holds is computed by itself, as :meth:`encode` would, in a thread.

        Args:
            inputs: as in :meth:`encode`.
            **arguments: as in :meth:`encode`.
        """
        how = self._recipes.named_arguments(arguments)
        if how.several_devices or how.show_progress_bar:
            return await asyncio.to_thread(self.encode, inputs, **arguments)
        texts, singular = upstream.as_texts(inputs)
        if texts is None or not how.cacheable:
            return await asyncio.to_thread(self._bypass, inputs, how)
        with hooks.watched(None, "encode", self.store.location, None, len(texts)) as operation:
            while True:
                call = await self._desks.here().ask((copy_context(), (texts, singular, how)))
                if operation is not None:
                    operation.namespace = call.recipe.namespace
                try:
                    if len(call.lookup.missing) > self._online.max_batch:
                        await self._computer.compute_alone(call)
                    else:
                        await call.lookup.complete_together(self._gatherers.here(), Group.of(call))
                except ModelChangedError:
                    continue
                return self._finish(call)

    async def aencode_query(self, inputs: Any, **arguments: Any) -> Any:
        """:meth:`aencode` for queries; see :meth:`encode_query`."""
        return await self._aencode_for("query", inputs, **arguments)

    async def aencode_document(self, inputs: Any, **arguments: Any) -> Any:
        """:meth:`aencode` for documents; see :meth:`encode_document`."""
        return await self._aencode_for("document", inputs, **arguments)

    async def _aencode_for(
        self,
        task: str,
        inputs: Any,
        prompt_name: str | None = None,
        prompt: str | None = None,
        **arguments: Any,
    ) -> Any:
        prompt_name = await self._lookups.run(self._prompt_for, task, prompt_name, prompt)
        return await self.aencode(
            inputs, prompt_name=prompt_name, prompt=prompt, task=task, **arguments
        )

    # --- the steps of encode --------------------------------------------------------------------

    def _look_up_all(self, asked: list[tuple[Context, _Asked]]) -> list[Call | Exception]:
        """:meth:`_look_up` for several calls that are waiting; a loaded model is checked once."""
        known: list[ModelProfile] = []

        def profile() -> ModelProfile:
            if self._is_unloaded:
                return self._model.profile()
            if not known:
                known.append(self._model.profile())
            return known[0]

        found: list[Call | Exception] = []
        for context, each in asked:
            try:
                found.append(context.run(self._look_up, each, profile))
            except Exception as error:
                found.append(error)
        return found

    def _look_up(self, asked: _Asked, profile_now: Callable[[], ModelProfile]) -> Call:
        """Find out what a call is about, and what of it is stored."""
        texts, singular, how = asked
        while True:
            profile = profile_now()
            recipe = self._recipes.of(profile, how)
            if not isinstance(self._model, FunctionModel):
                upstream.check_devices(how.device, how.pool, how.chunk_size, texts)
            lookup = Lookup.find(self.store, recipe.namespace, texts)
            if lookup.missing and self._on_miss == "raise":
                lookup.raise_if_missing()
            if not lookup.missing or not self._changes_by_loading(profile):
                return Call(how, texts, singular, recipe, lookup)

    def _finish(self, call: Call) -> Any:
        how = call.arguments
        vectors = upstream.finish(
            call.lookup.vectors(),
            profile=call.recipe.profile,
            precision=how.precision,
            convert_to_numpy=how.convert_to_numpy,
            convert_to_tensor=how.convert_to_tensor,
            device=lambda: self._computer.output_device(how),
        )
        return vectors[0] if call.singular else vectors

    @property
    def _is_unloaded(self) -> bool:
        return isinstance(self._model, LazyModel) and not self._model.is_loaded

    def _changes_by_loading(self, profile: ModelProfile) -> bool:
        """Load the model if it is not; whether it is another one than its files promised."""
        if not self._is_unloaded:
            return False
        self._model.load()
        return self._model.profile() != profile

    def _bypass(self, inputs: Any, arguments: Arguments) -> Any:
        texts, singular = upstream.as_texts(inputs)
        count = 1 if texts is None and singular else len(inputs if texts is None else texts)
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
        given = inputs if texts is None or singular else texts  # upstream refuses columns
        return model.encode(given, **arguments.for_model())

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
        further = {} if task is None else {"task": task}
        return self._recipes.namespace(profile, settings, further, upstream.numerics())

    def refresh(self) -> None:
        """Take the model's identity anew at the next call: for changes that cannot be seen cheaply
        (docs/keys.md says which)."""
        self._model.refresh()

    def __getstate__(self) -> dict[str, Any]:
        return {name: self.__dict__[name] for name in self.__dict__.keys() - self._fresh().keys()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__dict__.update(self._fresh())

    def _fresh(self) -> dict[str, Any]:
        """What a copy in another process makes anew."""
        limits, lookups = self._online, Threads(1)
        computer = Computer(
            self._model, self.store, limits.concurrency, self._coalesce, self._device
        )
        return {
            "_recipes": Recipes(self._storage_dtype),
            "_computer": computer,
            "_lookups": lookups,
            "_desks": PerLoop(lambda: Desk(self._look_up_all, lookups)),
            "_gatherers": PerLoop(lambda: Gatherer(computer.compute_together, limits)),
        }

    def __repr__(self) -> str:
        return f"CachedEncoder({self._model.__class__.__name__}, {self.store!r})"
