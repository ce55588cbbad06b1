"""A web service that embeds: several worker processes, one shared store, requests batched.

    EMBED_MODEL=all-MiniLM-L6-v2 EMBED_STORE=./embeddings uvicorn --workers 4 web_service:app

POST /embed {"texts": ["...", "..."]} -> {"vectors": [[...], [...]]}. GET /health, GET /stats. Plain
ASGI: with FastAPI or Starlette, `embed` is the body of a route.
"""

from __future__ import annotations

import json
import os
from collections.abc import Awaitable, Callable
from typing import Any

from embstore import CachedEncoder, EmbeddingStore, OnlineBatching

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MOST_BYTES = 1_000_000
MOST_TEXTS = 1_000


class BadRequestError(ValueError):
    """What the client is told with status 400."""


class Service:
    """One for each worker process."""

    def __init__(self) -> None:
        self.encoder: CachedEncoder | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.live(receive, send)
        elif scope["type"] == "http":
            status, answer = await self.answer(scope, receive)
            headers = [(b"content-type", b"application/json")]
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    async def live(self, receive: Receive, send: Send) -> None:
        """Open the store when the worker starts, and close it when it ends."""
        while (message := await receive())["type"] == "lifespan.startup":
            self.encoder = CachedEncoder(
                os.environ["EMBED_MODEL"],
                EmbeddingStore(os.environ["EMBED_STORE"]),
                online=OnlineBatching(max_batch=32, max_wait_ms=5),
            )
            # A model is loaded now, and not by the first request; if this is stored, not at all.
            await self.encoder.aencode("warming up")
            await send({"type": "lifespan.startup.complete"})
        assert message["type"] == "lifespan.shutdown"
        if self.encoder is not None:
            self.encoder.store.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def answer(self, scope: Scope, receive: Receive) -> tuple[int, dict[str, Any]]:
        assert self.encoder is not None
        route = scope["method"], scope["path"]
        if route == ("GET", "/health"):
            return 200, {"process": os.getpid()}
        if route == ("GET", "/stats"):
            return 200, {"process": os.getpid(), **self.encoder.stats().to_dict()}
        if route != ("POST", "/embed"):
            return 404, {"error": "there are POST /embed, GET /health and GET /stats"}
        try:
            texts = texts_of(await body_of(receive))
        except BadRequestError as error:
            return 400, {"error": str(error)}
        return 200, {"vectors": await self.embed(texts)}

    async def embed(self, texts: list[str]) -> list[list[float]]:
        """What is stored is answered at once, what is not together with other requests' texts."""
        assert self.encoder is not None
        vectors = await self.encoder.aencode(texts, normalize_embeddings=True)
        answer: list[list[float]] = vectors.tolist()
        return answer


async def body_of(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > MOST_BYTES:
            raise BadRequestError(f"more than {MOST_BYTES:,} bytes")
    return body


def texts_of(body: bytes) -> list[str]:
    try:
        texts = json.loads(body)["texts"]
    except (ValueError, TypeError, KeyError):
        raise BadRequestError('the body is JSON, {"texts": ["...", "..."]}') from None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise BadRequestError('"texts" is a list of texts')
    if not 0 < len(texts) <= MOST_TEXTS:
        raise BadRequestError(f"from 1 to {MOST_TEXTS:,} texts")
    return texts


app = Service()
