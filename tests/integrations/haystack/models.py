"""Documents, and models that count what they are asked for."""

from __future__ import annotations

from collections import Counter
from typing import Any

from haystack import Document

DOCUMENTS = [
    Document(content="Penguins swim in cold seas and hunt for fish.", meta={"title": "Birds"}),
    Document(content="The bakery opens at six and sells rye bread.", meta={"title": "Shops"}),
    Document(content="A diesel engine ignites its fuel by compression.", meta={"title": None}),
]
ASKED: Counter[str] = Counter()
"""How often the models of this module were asked for a text."""


def embed(text: str) -> list[float]:
    """For Haystack's mocks, which want a model of one text, by its import path."""
    ASKED[text] += 1
    return [float(len(text)), 0.5]


def lengths(texts: list[str]) -> list[list[float]]:
    """For an encoder."""
    ASKED.update(texts)
    return [[float(len(text)), 1.0] for text in texts]


def embeddings(output: dict[str, Any]) -> list[Any]:
    """Of the documents that a component gives."""
    return [document.embedding for document in output["documents"]]
