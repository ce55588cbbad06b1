"""Errors carry what they are about, across processes too."""

from __future__ import annotations

import copy
import inspect
import pickle
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

import embstore
from embstore import EmbeddingStore, Namespace, errors

DETAILS = {
    "StoreError": {"path": "/there"},
    "StoreRefusedError": {"path": "/there"},
    "StoreDamagedError": {"path": "/there/cache.db"},
    "NamespaceError": {"namespace": Namespace("m", prompt="p")},
    "ModelOutputError": {"model_name": "m"},
    "CacheMissError": {
        "missing": 7,
        "total": 9,
        "first": ("a", "\ud800"),
        "indices": (0, 3),
        "namespace": Namespace("m"),
    },
}
CLASSES = [
    value
    for _, value in inspect.getmembers(errors, inspect.isclass)
    if issubclass(value, errors.EmbstoreError)
]


@pytest.mark.parametrize("kind", CLASSES)
def test_errors_survive_pickling_with_their_attributes(kind: type[errors.EmbstoreError]) -> None:
    details = DETAILS.get(kind.__name__, {"anything": [1, 2]})
    error = kind("what happened", **details)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(again) is kind
        assert str(again) == "what happened"
        assert vars(again) == details


@pytest.mark.parametrize("kind", CLASSES)
def test_attributes_that_are_not_given_have_a_default(kind: type[errors.EmbstoreError]) -> None:
    error = kind("what happened")
    for name in DETAILS.get(kind.__name__, {}):
        assert not getattr(error, name)


def test_every_error_has_one_root_and_is_public() -> None:
    for kind in CLASSES:
        assert issubclass(kind, errors.EmbstoreError)
        assert getattr(embstore, kind.__name__) is kind
    assert issubclass(errors.NamespaceError, ValueError)
    assert issubclass(errors.ModelOutputError, ValueError)
    assert issubclass(errors.CacheMissError, LookupError)
    assert issubclass(errors.StoreWarning, UserWarning)


def test_an_error_arrives_whole_from_a_worker_process(tmp_path) -> None:
    missing = str(tmp_path / "nothing")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        future = pool.submit(EmbeddingStore, missing, read_only=True)
        with pytest.raises(errors.StoreRefusedError) as caught:
            future.result()
    assert caught.value.path == missing
