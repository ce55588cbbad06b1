"""Tasks of mteb's kinds whose few rows are made here."""

from __future__ import annotations

from typing import Any

from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

PAIRS = [
    ("a cat sleeps", "a cat is asleep", 5.0),
    ("a cat sleeps", "a dog sleeps", 2.5),
    ("the sun shines", "it is raining", 1.0),
    ("he plays the guitar", "a man plays music", 4.0),
    ("it is raining", "taxes are due in April", 0.0),
]
DOCUMENTS = {
    "d1": ("Cats", "A cat sleeps for most of the day."),
    "d2": ("Rain", "Rain falls from clouds."),
    "d3": ("", "A guitar has six strings."),
}
QUERIES = {"q1": "how long do cats sleep", "q2": "where does rain come from", "q3": "guitar"}


def described(name: str, kind: Any, score: str, **further: Any) -> TaskMetadata:
    """The metadata of a task."""
    return TaskMetadata(
        name=name,
        description="A handful of rows.",
        type=kind,
        dataset={"path": "made/here", "revision": "1"},
        eval_langs=["eng-Latn"],
        main_score=score,
        **further,
    )


class Pairs(AbsTaskSTS):
    """Which sentences mean the same."""

    metadata = described("EmbstorePairs", "STS", "cosine_spearman")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Make the rows."""
        first, second, score = map(list, zip(*PAIRS, strict=True))
        rows = {"sentence1": first, "sentence2": second, "score": score}
        self.dataset = DatasetDict({"test": Dataset.from_dict(rows)})
        self.data_loaded = True


class OtherPairs(Pairs):
    """The same under another name."""

    metadata = described("EmbstoreOtherPairs", "STS", "cosine_spearman")


class Search(AbsTaskRetrieval):
    """Which document answers a question."""

    metadata = described("EmbstoreSearch", "Retrieval", "ndcg_at_10")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Make the rows."""
        corpus = [
            {"id": id, "title": title, "text": text} for id, (title, text) in DOCUMENTS.items()
        ]
        queries = [{"id": id, "text": text} for id, text in QUERIES.items()]
        self.dataset = {
            "default": {
                "test": {
                    "corpus": Dataset.from_list(corpus),
                    "queries": Dataset.from_list(queries),
                    "relevant_docs": {f"q{n}": {f"d{n}": 1} for n in (1, 2, 3)},
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True
