"""What embeds from an event loop: each test is for an encoder and for an async function."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from embstore import CachedEncoder, EmbeddingStore, OnlineBatching, cached
from tests.online.model import Embed, Make, Model


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture(params=["encoder", "cached"])
def make(request: pytest.FixtureRequest, model: Model, store: EmbeddingStore) -> Make:
    """Makes what embeds from an event loop: an encoder's aencode, or an async function."""

    def make(**limits: Any) -> Embed:
        online = OnlineBatching(**limits)
        if request.param == "encoder":
            return CachedEncoder(model, store, model_name="model", online=online).aencode

        @cached(store, model_name="model", online=online)
        async def embed(texts: list[str]) -> Any:
            return await asyncio.to_thread(model, texts)

        return embed

    return make
