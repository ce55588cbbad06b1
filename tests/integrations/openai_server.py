"""A server on this machine that speaks OpenAI's protocol for embeddings."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np

from embstore import Namespace
from embstore.backends.rows import Array
from embstore.testing import true_vectors

DIM = 1536
"""Where a request asks for no fewer."""


def vectors_of(
    model: str, texts: list[str], dimensions: int | None = None, weights: str = ""
) -> Array:
    """What a server answers: vectors of unit length, cut and scaled again as OpenAI does it."""
    whole = true_vectors(Namespace(model, weights), [text.encode() for text in texts], DIM)
    vectors = whole[:, :dimensions]
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class OpenAIServer(ThreadingHTTPServer):
    """``POST /v1/embeddings`` with input, model, dimensions and encoding_format.

    Args:
        weights: those of its models: of two servers, models of one name may differ.

    Attributes:
        url: to be given as ``base_url``.
        requests: how many were answered with vectors.
        texts: how often each text was embedded.
        bodies: of all requests, refused ones too.
        busy: so many of the next requests are refused with 503.
    """

    daemon_threads = True

    def __init__(self, weights: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.weights = weights
        self.requests = 0
        self.texts: Counter[str] = Counter()
        self.bodies: list[dict[str, Any]] = []
        self.busy = 0
        self._lock = threading.Lock()

    def answer(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Status and JSON."""
        with self._lock:
            self.bodies.append(body)
            if self.busy:
                self.busy -= 1
                return 503, {"error": {"message": "busy", "type": "server_error"}}
            texts = body["input"]
            if not texts or "" in texts:
                return 400, {"error": {"message": "empty input", "type": "invalid_request_error"}}
            self.requests += 1
            self.texts.update(texts)
        vectors = vectors_of(body["model"], texts, body.get("dimensions"), self.weights)
        encoded = body.get("encoding_format") == "base64"
        data = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row).decode() if encoded else row.tolist(),
            }
            for index, row in enumerate(vectors)
        ]
        tokens = sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return 200, {"object": "list", "model": body["model"], "data": data, "usage": usage}


class _Handler(BaseHTTPRequestHandler):
    server: OpenAIServer

    def do_POST(self) -> None:  # the name is http.server's
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        known = self.path == "/v1/embeddings"
        status, answer = self.server.answer(body) if known else (404, {"error": None})
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Nothing: tests look at the server's attributes."""


@contextmanager
def serving(weights: str = "") -> Iterator[OpenAIServer]:
    """A server as long as the block lasts."""
    server = OpenAIServer(weights)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
