"""LangChain embeddings whose vectors are a pure function of the text, and which count."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

from langchain_core.embeddings import Embeddings


def vector(text: str, kind: str = "document") -> list[float]:
    """Numbers that float32 cannot hold exactly, as a provider's JSON has them."""
    return [len(text) / 3, sum(map(ord, text)) / 7, 0.1 if kind == "document" else -0.1]


class Counting(Embeddings):
    """Has sync methods only."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.calls: list[list[str]] = []
        self.threads: set[int] = set()

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.threads.add(threading.get_ident())
        self.calls.append(list(texts))
        self.asked.update(f"document {text}" for text in texts)
        return [vector(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        self.threads.add(threading.get_ident())
        self.asked[f"query {text}"] += 1
        return vector(text, "query")


class AsyncCounting(Counting):
    """Has async methods of its own, and its sync ones are not to be called."""

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        await asyncio.sleep(0.01)
        return super().embed_documents(texts)

    async def aembed_query(self, text: str) -> list[float]:
        await asyncio.sleep(0.01)
        return super().embed_query(text)

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        raise AssertionError("the sync method was called")

    def embed_query(self, text: str) -> list[float]:
        raise AssertionError("the sync method was called")
