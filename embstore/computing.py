"""Computing what is missing, and keeping it, chunk by chunk."""

from __future__ import annotations

from contextvars import copy_context
from functools import partial
from typing import Any

from embstore.backends.rows import Array
from embstore.call import Arguments, Call, Group
from embstore.commits import Commits
from embstore.lookup import Lookup
from embstore.models import FunctionModel, LazyModel, Model
from embstore.share import Work, share_of
from embstore.store import EmbeddingStore
from embstore.threads import Threads
from embstore.token_batches import BatchLimit
from embstore.tuning import Place, Plan, TunedPlan, Tuner

_POOL_CHUNK_TEXTS = 8192
"""Texts between two commits when several processes compute: each chunk has to keep all busy."""


class ModelChangedError(Exception):
    """The model has been changed since a call's texts were looked up: look again."""


class Computer:
    """Computes with a model, in batches that suit it, and commits as it goes.

    Args:
        model: computes.
        store: keeps vectors, and what is learnt of the model's best batches.
        concurrency: batches of several calls' texts that are computed at the same time.
        coalesce: whether texts that another worker is computing are left to it.
        device: where, unless a call says otherwise; None is the model's own.
    """

    def __init__(
        self,
        model: Model,
        store: EmbeddingStore,
        concurrency: int,
        coalesce: bool,
        device: str | None,
    ) -> None:
        self._model = model
        self._device = device
        self._coalesce = coalesce
        self._store = store
        self._tuner = Tuner(store)
        self._together = Threads(concurrency)
        self._alone = Threads(1)

    def compute(self, call: Call, lookup: Lookup, texts: list[str], show: bool = False) -> None:
        """Compute and commit chunk by chunk, longest texts first.

        Sorted over the whole call, as upstream does within each of its calls: batches are then of
        like lengths, and the estimate of the time left errs on the safe side.
        """
        missing = sorted(lookup.missing, key=lambda position: -len(texts[position]))
        with (
            share_of(lookup, missing, texts, coalesce=self._coalesce) as work,
            Commits(lookup, work) as commits,
            _progress(len(texts), len(texts) - len(missing), show) as bar,
        ):
            plan = self._plan(call, work, texts)
            for chunk, limit in plan:
                these = [texts[position] for position in chunk]
                output, seconds = commits.timed(
                    len(these), partial(self._model.compute, these, limit, **call.recipe.settings)
                )
                plan.took(seconds)
                commits.add(chunk, output, seconds)
                bar.update(len(chunk) + work.take_found())
            bar.update(work.take_found())

    async def compute_together(self, group: Group, texts: list[str], digests: list[bytes]) -> Array:
        """Compute and commit texts of several calls, in a thread.

        Raises:
            ModelChangedError: if the model is no longer what it was when they were looked up.
        """
        lookup = Lookup.absent(self._store, group.call.recipe.namespace, texts, digests)
        await self._together.run(self._compute_now, group.call, lookup, texts)
        return lookup.vectors()

    async def compute_alone(self, call: Call) -> None:
        """Compute and commit a large call, in a thread for such.

        Raises:
            ModelChangedError: as :meth:`compute_together`.
        """
        run = copy_context().run  # what hooks are told belongs to this call
        await self._alone.run(run, self._compute_now, call, call.lookup, call.texts)

    def _compute_now(self, call: Call, lookup: Lookup, texts: list[str]) -> None:
        if not self._model.profile().same_vectors(call.recipe.profile):
            raise ModelChangedError
        # Others may have computed some, until it was this one's turn.
        lookup.missing = lookup.look_again(lookup.missing)
        self.compute(call, lookup, texts)

    def output_device(self, arguments: Arguments) -> Any:
        """Where the tensors of a call belong: where they are computed or, if all of them are known
        and the model is not loaded, would be."""
        if arguments.several_devices:
            return "cpu"
        if arguments.device is not None:
            return arguments.device
        if isinstance(self._model, FunctionModel):
            return self._device or "cpu"
        if isinstance(self._model, LazyModel) and not self._model.is_loaded:
            from sentence_transformers.util import get_device_name

            return self._device or get_device_name()
        return self._model.load().device

    def _plan(self, call: Call, work: Work, texts: list[str]) -> Plan:
        how = call.arguments
        fixed = BatchLimit(how.texts_a_batch, "texts")
        if how.several_devices:
            return Plan(work, fixed, _POOL_CHUNK_TEXTS)
        if not work.ahead or how.batch_size != "auto" or not self._model.is_tunable:
            return Plan(work, fixed)
        place = Place.of(self._model.load(), call.recipe.profile, how.device)
        return TunedPlan(self._tuner, place, work, texts)


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
