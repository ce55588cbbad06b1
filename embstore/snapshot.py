"""The identity of a model that is not loaded: the files it would be loaded from.

Reading 88 MB of weights to know that they are the same takes longer than the look-ups that follow,
so two steps are recorded in the store: what the files' metadata say (path, size, modification and
change time, inode) → digest of their contents → the profile of the model that was loaded from them.
Metadata that are not known are not trusted: the contents are read. Contents that are not known
mean that the model has to be loaded.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from embstore import inotify
from embstore.fingerprint import ModelProfile, digest_file
from embstore.keys import canonical_json
from embstore.store import EmbeddingStore

Metadata = tuple[tuple[str, int, int, int, int, int], ...]
"""Of each file: path, size, modification and change time in ns, inode, device."""

_NO_WEIGHTS = {".md", ".png", ".jpg", ".lock"}
_ELSEWHERE = "adapter_config.json"
"""A model with this file has the weights it adapts somewhere else: nothing here identifies them."""

_HUB_HOME = "SENTENCE_TRANSFORMERS_HOME"

_LOOKS = 20
"""Looks at the files that take as long as beginning to hear of changes, 0.6 ms."""

_SETTLED = 2
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
    cache = cache or os.environ.get(_HUB_HOME)
    # A bare name is looked for as upstream does: under its organization, but for old model names.
    names = [name_or_path] if "/" in name_or_path else [f"sentence-transformers/{name_or_path}"]
    for name in names:
        for file in ("modules.json", "config.json"):
            found = try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
            if isinstance(found, str):
                return Path(found).parent
    return None


def _files(folder: str) -> Iterator[str]:
    """The paths of the files that may decide a vector, in one order."""
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        for name in sorted(names):
            if name[0] != "." and os.path.splitext(name)[1].lower() not in _NO_WEIGHTS:
                yield os.path.join(parent, name)


def metadata(folder: Path) -> Metadata:
    """What the file system knows of a folder's files.

    Raises:
        OSError: if a file goes away meanwhile.
    """
    return tuple((path, *_stamp(path)) for path in _files(str(folder)))


class Watched:
    """Whether a model's files are still what they were: asked at each call.

    The folders' own times tell whether a file came or went, so that nothing need be listed: 30 µs
    for a dozen files, where :func:`metadata` takes 100. Where the system tells of changes by itself
    (inotify.py), 3 µs.

    Args:
        folder: the files are below it.
        name_or_path: what the folder was found by.
        revision: branch, tag or commit on the hub.

    Raises:
        OSError: if a file goes away meanwhile.
    """

    def __init__(self, folder: Path, name_or_path: str, revision: str | None = None) -> None:
        self._folder = str(folder)
        self._name = name_or_path
        self._is_name = not os.path.isdir(name_or_path)
        self._home = os.environ.get(_HUB_HOME)
        folders = [parent for parent, _, _ in os.walk(folder, followlinks=True)]
        if self._is_name:
            folders += _deciding(folder, revision)
        stamps = [(path, *_stamp(path)) for path in folders]
        self._files = metadata(folder)
        # A time that has just passed may be that of the next change as well.
        self._is_settled = _settled((*stamps, *self._files))
        every = [*stamps, *self._files]
        self._paths = [path for path, *_ in every]
        self._stamps = [stamp for _, *stamp in every]
        self._folder_id = stamps[0][4:]
        self._silence: inotify.Silence | None = None
        self._looks, self._listen_at = 0, _LOOKS

    @property
    def same(self) -> bool:
        """Whether the name still means this folder, and nothing in it has changed."""
        try:
            if not self._is_meant:
                return False
            if self._silence is not None:
                if self._silence.lasts:
                    now = os.stat(self._folder)  # one above it may have been moved
                    return (now.st_ino, now.st_dev) == self._folder_id
                self._silence = None
            silence = self._listen()
            if [[*_stamp(path)] for path in self._paths] != self._stamps:
                return False
            self._silence = silence
            return self._is_settled or metadata(Path(self._folder)) == self._files
        except OSError:
            return False

    @property
    def _is_meant(self) -> bool:
        # A name on the hub is a folder's as soon as there is one.
        return not self._is_name or (
            os.environ.get(_HUB_HOME) == self._home and not os.path.isdir(self._name)
        )

    def _listen(self) -> inotify.Silence | None:
        """Begin to hear of changes, once in a while."""
        self._looks += 1
        if self._looks < self._listen_at or not self._is_settled:
            return None
        self._listen_at = self._looks + _LOOKS
        try:
            # And of the folders that links lead to.
            links = {os.path.dirname(os.path.realpath(path)) for path in self._paths}
            return inotify.Silence({*self._paths, *links})
        except OSError:
            self._listen_at = 10 * self._looks
            return None


def _deciding(folder: Path, revision: str | None) -> list[str]:
    """What says, in the hub's cache, that a folder is the one that a name means: a file with the
    commit of a branch or tag."""
    file = folder.parents[1] / "refs" / (revision or "main")
    return [str(file.parent), str(file)] if file.is_file() else []


def _stamp(path: str) -> tuple[int, int, int, int, int]:
    stat = os.stat(path)  # of the blob, where the hub's cache has a symbolic link
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _settled(files: Metadata) -> bool:
    newest = max((max(file[2], file[3]) for file in files), default=0)
    return newest < time.time_ns() - _SETTLED * 10**9


def contents(folder: Path) -> str:
    """A digest of the names and contents of a folder's files, 32 hex digits.

    Raises:
        OSError: if a file cannot be read.
    """
    listed = [
        [os.path.relpath(path, folder), digest_file(Path(path))] for path in _files(str(folder))
    ]
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
        files = metadata(folder.resolve())
        if any(file[0].endswith(_ELSEWHERE) for file in files):
            return None
        signature = _digest(["metadata", files])
        known = store.get_identity(signature)
        digest = contents(folder) if known is None else str(known["contents"])
        if known is None and _settled(files):
            store.put_identity(signature, {"contents": digest})
    except (OSError, KeyError):
        return None
    found = store.get_identity(_loading(digest, arguments))
    try:
        return None if found is None else ModelProfile.from_dict(found)
    except (TypeError, KeyError):
        return None  # recorded by another version of embstore


def record(
    store: EmbeddingStore,
    folder: Path,
    arguments: Mapping[str, Any],
    profile: ModelProfile,
    files: Metadata,
) -> None:
    """Remember the profile of the model that was loaded from ``folder`` with ``arguments``.

    Args:
        store: where to.
        folder: the model's files.
        arguments: how it was loaded, as JSON values.
        profile: the loaded model's.
        files: the metadata of the files since before they were loaded; if they are others by
            now, nothing is recorded.
    """
    try:
        digest = contents(folder)
        if metadata(folder) != files:
            return
        store.put_identity(_loading(digest, arguments), profile.to_dict())
        recall(store, folder, arguments)  # records the metadata too
    except OSError:
        return


def _loading(digest: str, arguments: Mapping[str, Any]) -> bytes:
    # What other versions of these libraries make of the same files is theirs to say.
    versions = [_version(name) for name in ("sentence-transformers", "transformers")]
    return _digest(["loading", digest, dict(arguments), versions])


def _version(distribution: str) -> str | None:
    """The installed version of a distribution, None if there is none."""
    # Installers write it into a folder's name. Importing importlib.metadata to be told takes 15 ms,
    # of the 360 of a process that looks a thousand texts up.
    start, end = f"{distribution.replace('-', '_')}-", ".dist-info"
    for place in sys.path:
        with contextlib.suppress(OSError):
            names = [each for each in os.listdir(place or ".") if each.startswith(start)]
            found = [each for each in names if each.endswith(end)]
            if names:
                if len(found) == len(names) == 1:
                    return found[0][len(start) : -len(end)]
                break
    import importlib.metadata

    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(canonical_json(value), digest_size=16).digest()
