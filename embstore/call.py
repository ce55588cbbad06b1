"""One call of an encoder: what it was asked, and what has been found out on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_
from typing import Any, Literal, NamedTuple

from embstore import upstream
from embstore.errors import NamespaceError
from embstore.fingerprint import ModelProfile
from embstore.keys import STORAGE_DTYPE, Namespace
from embstore.lookup import Lookup
from embstore.token_batches import UPSTREAM_BATCH

BatchSize = int | Literal["auto"]

_MOST = 1000
"""Sets of arguments that an encoder remembers."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Arguments:
    """The arguments of ``SentenceTransformer.encode`` besides the inputs, with their defaults."""

    prompt_name: str | None = None
    prompt: str | None = None
    batch_size: BatchSize = "auto"
    show_progress_bar: bool | None = None
    output_value: Literal["sentence_embedding", "token_embeddings"] | None = "sentence_embedding"
    precision: Literal["float32", "int8", "uint8", "binary", "ubinary"] | None = "float32"
    convert_to_numpy: bool = True
    convert_to_tensor: bool = False
    device: Any = None
    normalize_embeddings: bool = False
    truncate_dim: int | None = None
    pool: dict[str, Any] | None = None
    chunk_size: int | None = None
    further: dict[str, Any] = field(default_factory=dict)
    """Those that are the model's own: the task, and what its modules take."""

    @cached_property
    def cacheable(self) -> bool:
        """Whether what is asked for is a vector that belongs to a text."""
        return (
            self.output_value == "sentence_embedding"
            and self.truncate_dim != 0
            and _is_json(self.further)
        )

    @property
    def texts_a_batch(self) -> int:
        """``batch_size`` where it has to be a number."""
        return UPSTREAM_BATCH if self.batch_size == "auto" else self.batch_size

    @property
    def several_devices(self) -> bool:
        """Whether upstream is to divide the texts among processes."""
        return self.pool is not None or isinstance(self.device, list)

    def for_model(self) -> dict[str, Any]:
        """As arguments of ``encode``."""
        named = {name: getattr(self, name) for name in self.__dataclass_fields__}
        further = named.pop("further")
        return {**named, **further, "batch_size": self.texts_a_batch}

    def for_computing(self, profile: ModelProfile) -> dict[str, Any]:
        """As arguments of ``encode`` that decide vectors, resolved; and where to compute them.

        Raises:
            ValueError: upstream's own, if the model has no such prompt.
            TypeError: upstream's own.
        """
        return {
            "device": self.device,
            "normalize_embeddings": self.normalize_embeddings,
            "pool": self.pool,
            "chunk_size": self.chunk_size,
            **self.further,
            "prompt": upstream.resolve_prompt(profile, self.prompt, self.prompt_name),
            "truncate_dim": upstream.choose_dim(profile, self.truncate_dim),
        }


_FIELDS = tuple(name for name in Arguments.__dataclass_fields__ if name != "further")


def _is_json(further: dict[str, Any]) -> bool:
    if not further:
        return True
    try:
        Namespace("any", extra=further)
    except NamespaceError:
        return False
    return True


class Recipe(NamedTuple):
    """What calls with the same arguments have in common, as long as the model is the same.

    Attributes:
        profile: what the model is.
        numerics: torch's switches, see :func:`embstore.upstream.numerics`.
        settings: arguments for computing, as :meth:`Arguments.for_computing` gives them.
        namespace: what decides the vectors besides the texts.
    """

    profile: ModelProfile
    numerics: dict[str, Any]
    settings: dict[str, Any]
    namespace: Namespace


@dataclass(slots=True)
class Call:
    """A call whose texts have been looked up.

    Attributes:
        arguments: as given.
        texts: the n texts.
        singular: whether one text was given, and not a list.
        recipe: what follows from the arguments.
        lookup: what was found.
    """

    arguments: Arguments
    texts: list[str]
    singular: bool
    recipe: Recipe
    lookup: Lookup


@dataclass(frozen=True)
class Group:
    """Calls whose texts may be computed together: those whose vectors mean the same thing.

    Attributes:
        namespace: its id.
        batch_size: as given.
        device: as given.
        call: the first of them.
    """

    namespace: bytes
    batch_size: BatchSize
    device: str
    call: Call = field(compare=False)

    @classmethod
    def of(cls, call: Call) -> Group:
        """That of a call."""
        how = call.arguments
        return cls(call.recipe.namespace.id, how.batch_size, str(how.device), call)


class Recipes:
    """The recipes of an encoder's calls, each made once: that takes 30 µs, a look-up 10.

    Args:
        storage_dtype: dtype that vectors are rounded to; None for their own.
    """

    def __init__(self, storage_dtype: str | None = None) -> None:
        self._storage_dtype = storage_dtype
        self._arguments: dict[tuple[Any, ...], Arguments] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._known: set[Arguments] = set()
        self._made: dict[Arguments, Recipe] = {}

    def arguments(self, given: tuple[Any, ...], further: dict[str, Any]) -> Arguments:
        """The arguments of a call.

        Args:
            given: the values of the fields of :class:`Arguments`, in their order.
            further: those that are the model's own.
        """
        if not further and all(map(is_, given, _DEFAULTS)):
            return _DEFAULT  # as most calls are
        task = further.get("task")
        if len(further) > (task is not None):
            return _arguments(given, further)
        # With their types: 1 is no True, and 32.0 no number of texts.
        name = (task, *given, *map(type, given))
        try:
            known = self._arguments.get(name)
        except TypeError:  # a list or dict among them
            return _arguments(given, further)
        if known is None:
            if len(self._arguments) > _MOST:
                for each in (self._arguments, self._known, self._made):
                    each.clear()
            known = self._arguments[name] = _arguments(given, further)
            self._known.add(known)
        return known

    def named_arguments(self, named: dict[str, Any]) -> Arguments:
        """:meth:`arguments`, given by name and only where they are not the defaults."""
        given = tuple(named.get(name, getattr(Arguments, name)) for name in _FIELDS)
        return self.arguments(given, {name: named[name] for name in named.keys() - _FIELDS})

    def of(self, profile: ModelProfile, arguments: Arguments) -> Recipe:
        """The recipe of a call.

        Args:
            profile: what the model is now.
            arguments: of the call.

        Raises:
            ValueError: upstream's own, for arguments that it would not take.
            TypeError: upstream's own.
        """
        known, numerics = self._made.get(arguments), upstream.numerics()
        if known is not None and known.profile is profile and known.numerics == numerics:
            return known
        how = arguments
        upstream.check_arguments(profile, how.texts_a_batch, how.precision, how.further)
        settings = how.for_computing(profile)
        recipe = Recipe(
            profile, numerics, settings, self.namespace(profile, settings, how.further, numerics)
        )
        is_lasting = how is _DEFAULT or how in self._known
        # If both are given, upstream warns at each call.
        if is_lasting and (how.prompt is None or how.prompt_name is None):
            self._made[how] = recipe
        return recipe

    def namespace(
        self,
        profile: ModelProfile,
        settings: Mapping[str, Any],
        further: Mapping[str, Any],
        numerics: Mapping[str, Any],
    ) -> Namespace:
        """The namespace of calls.

        Args:
            profile: what the model is.
            settings: as :meth:`Arguments.for_computing` gives them.
            further: arguments that are the model's own.
            numerics: as :func:`embstore.upstream.numerics` gives them.
        """
        extra = dict(numerics)
        if modules := {name: value for name, value in further.items() if name != "task"}:
            extra["encode"] = modules
        if self._storage_dtype not in (None, profile.dtype):
            extra[STORAGE_DTYPE] = self._storage_dtype
        fields = {
            "model_name": profile.name,
            "fingerprint": profile.fingerprint,
            "normalize": bool(settings["normalize_embeddings"]),
            "prompt": settings["prompt"] or None,
            "task": further.get("task"),
            "truncate_dim": settings["truncate_dim"],
            "max_seq_length": profile.max_seq_length,
            "dtype": profile.dtype,
            "extra": extra,
        }
        name = repr(fields)
        if name not in self._namespaces:
            if len(self._namespaces) > _MOST:
                self._namespaces.clear()
            self._namespaces[name] = Namespace(**fields)
        return self._namespaces[name]


_DEFAULT = Arguments()
_DEFAULTS = tuple(getattr(_DEFAULT, name) for name in _FIELDS)


def _arguments(given: tuple[Any, ...], further: dict[str, Any]) -> Arguments:
    return Arguments(**dict(zip(_FIELDS, given, strict=True)), further=further)
