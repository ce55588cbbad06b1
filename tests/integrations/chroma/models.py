"""Texts, and embedding functions of Chroma's kind that can be told from each other."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any, ClassVar

import numpy as np
from chromadb import Documents, EmbeddingFunction, Embeddings
from chromadb.utils.embedding_functions import register_embedding_function

from embstore.integrations.chroma import CachedEmbeddingFunction

PAGES = {
    "penguins": "Penguins swim in cold seas and hunt for fish.",
    "bakery": "The bakery opens at six and sells rye bread.",
    "engine": "A diesel engine ignites its fuel by compression.",
}
QUESTION = "Where can I buy a loaf?"
SECRET = "sk-0123456789"

Config = dict[str, Any]


def letters(texts: list[str]) -> list[list[float]]:
    return [[float(len(text)), float(text.count("a")), 1.0] for text in texts]


@register_embedding_function
class Signs(EmbeddingFunction[Documents]):
    """Embeds documents as [length, sign] and queries as [length, -sign]; all that are made count
    what they are asked, together."""

    made: ClassVar[int] = 0
    asked: ClassVar[Counter[str]] = Counter()

    def __init__(self, sign: int = 1, **further: Any) -> None:
        type(self).made += 1
        self.config = {"sign": sign, **further}

    def __call__(self, input: Documents) -> Embeddings:
        return self._note("document", input, self.config["sign"])

    def embed_query(self, input: Documents) -> Embeddings:
        return self._note("query", input, -self.config["sign"])

    def _note(self, kind: str, texts: Documents, sign: int) -> Embeddings:
        self.asked.update(f"{kind} {text}" for text in texts)
        return [np.array([len(text), sign], np.int64) for text in texts]

    @staticmethod
    def name() -> str:
        return "signs"

    def default_space(self) -> Any:
        return "ip"

    def supported_spaces(self) -> Any:
        return ["ip"]

    def get_config(self) -> Config:
        return self.config

    @staticmethod
    def build_from_config(config: Config) -> Signs:
        return Signs(**config)


class Old(EmbeddingFunction[Documents]):
    """An embedding function as they were: without name, config and queries of its own."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def __call__(self, input: Documents) -> Embeddings:
        self.asked.update(input)
        return [np.array([len(text), 1.0], np.float32) for text in input]


def rebuilt(embed: CachedEmbeddingFunction) -> CachedEmbeddingFunction:
    """As Chroma makes it from what it has written."""
    return CachedEmbeddingFunction.build_from_config(json.loads(json.dumps(embed.get_config())))


def listed(vectors: Embeddings) -> list[list[float]]:
    return [vector.tolist() for vector in vectors]
