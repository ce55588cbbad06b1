"""The identity of a model that is not loaded: the files it would be loaded from.

Reading 88 MB of weights to know that they are the same takes longer than the look-ups that follow,
so two steps are recorded in the store: what the files' metadata say (path, size, modification and
change time, inode) → digest of their contents → the profile of the model that was loaded from them.
Metadata that are not known are not trusted: the contents are read. Contents that are not known
mean that the model has to be loaded.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from embstore.fingerprint import ModelProfile, digest_file
from embstore.keys import canonical_json
from embstore.store import EmbeddingStore

_NO_WEIGHTS = {".md", ".png", ".jpg", ".gitattributes", ".lock"}
_SETTLED = 2.0
"""Seconds a file must have been left alone before its metadata are recorded: a change within one
tick of the file system's clock would leave no trace in them."""


def locate(name_or_path: str, revision: str | None = None, cache: str | None = None) -> Path | None:
    """The folder that a model would be loaded from, without asking any server; None if unknown.

    Args:
        name_or_path: a folder, or a name on the hub.
        revision: branch, tag or commit on the hub.
        cache: the hub's cache folder, if not the default.
    """
    if os.path.isdir(name_or_path):
        return Path(name_or_path)
    if name_or_path.count("/") > 1:
        return None
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    cache = cache or os.environ.get("SENTENCE_TRANSFORMERS_HOME")
    # A bare name is looked for as upstream does: under its organization, but for old model names.
    names = [name_or_path] if "/" in name_or_path else [f"sentence-transformers/{name_or_path}"]
    for name in names:
        for file in ("modules.json", "config.json"):
            found = try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
    return None


def _files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() not in _NO_WEIGHTS
        and not path.name.startswith(".")
        and "__pycache__" not in path.parts
        and path.is_file()
    )


def metadata(folder: Path) -> tuple[bytes, float]:
    """A digest of the metadata of a folder's files, and when the last of them changed (seconds).

    Raises:
        OSError: if a file goes away meanwhile.
    """
    listed, newest = [], 0.0
    for path in _files(folder):
        stat = path.stat()  # of the blob, where the hub's cache has a symbolic link
        listed.append(
            [
                str(path.relative_to(folder)),
                stat.st_size,
                stat.st_mtime_ns,
                stat.st_ctime_ns,
                stat.st_ino,
                stat.st_dev,
            ]
        )
        newest = max(newest, stat.st_ctime, stat.st_mtime)
    return _digest(["metadata", str(folder.resolve()), listed]), newest


def contents(folder: Path) -> str:
    """A digest of the names and contents of a folder's files, 32 hex digits.

    Raises:
        OSError: if a file cannot be read.
    """
    listed = [[str(path.relative_to(folder)), digest_file(path)] for path in _files(folder)]
    return _digest(["contents", listed]).hex()


def recall(
    store: EmbeddingStore, folder: Path, arguments: Mapping[str, Any]
) -> ModelProfile | None:
    """The profile of the model that ``arguments`` would load from ``folder``, if it is known.

    Args:
        store: where it was recorded.
        folder: the model's files.
        arguments: how it would be loaded, as JSON values.
    """
    try:
        signature, newest = metadata(folder)
        known = store.get_identity(signature)
        digest = contents(folder) if known is None else str(known["contents"])
        if known is None and newest < time.time() - _SETTLED:
            store.put_identity(signature, {"contents": digest})
    except (OSError, KeyError):
        return None
    found = store.get_identity(_loading(digest, arguments))
    try:
        return None if found is None else ModelProfile.from_dict(found)
    except (TypeError, KeyError):
        return None  # recorded by another version of embstore


def record(
    store: EmbeddingStore, folder: Path, arguments: Mapping[str, Any], profile: ModelProfile
) -> None:
    """Remember the profile of the model that was loaded from ``folder`` with ``arguments``.

    The caller has made sure that the files did not change since before they were loaded.
    """
    try:
        store.put_identity(_loading(contents(folder), arguments), profile.to_dict())
        recall(store, folder, arguments)  # records the metadata too
    except OSError:
        return


def _loading(digest: str, arguments: Mapping[str, Any]) -> bytes:
    # What other versions of these libraries make of the same files is theirs to say.
    versions = [
        importlib.metadata.version(name) for name in ("sentence-transformers", "transformers")
    ]
    return _digest(["loading", digest, dict(arguments), versions])


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(canonical_json(value), digest_size=16).digest()
