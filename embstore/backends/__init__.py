"""Where rows live. :func:`open_backend` picks one by the location's scheme."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import unquote, urlsplit

import platformdirs

from embstore.backends.base import Backend
from embstore.backends.disk import DiskBackend
from embstore.backends.redis.location import SCHEMES, without_password
from embstore.errors import StoreRefusedError
from embstore.faults import Warnings

__all__ = ["open_backend", "resolve_location", "without_password"]


def resolve_location(location: str | os.PathLike[str] | None) -> str:
    """The location that is meant: a path without scheme, or a URL of another scheme.

    ``None`` is ``$EMBSTORE_HOME``, else the platform's user cache directory.

    Raises:
        StoreRefusedError: if a disk URL has no absolute path.
    """
    if location is None:
        location = os.environ.get("EMBSTORE_HOME") or platformdirs.user_cache_dir("embstore")
    location = os.fspath(location)
    if location.startswith("disk://"):
        url = urlsplit(location)
        if url.netloc or len(url.path) < 2:
            raise StoreRefusedError(
                f"{location} names no directory: write disk:///path, or just the path",
                path=location,
            )
        location = unquote(url.path)
    return location if "://" in location else str(Path(location).expanduser().absolute())


def open_backend(
    location: str,
    *,
    timeout: float = 60.0,
    read_only: bool = False,
    size_limit: int | None = None,
    seed: int | None = None,
    warnings: Warnings | None = None,
) -> Backend:
    """The backend at a location that :func:`resolve_location` gave; it says through ``warnings``
    what it could mend, or can do without.

    Raises:
        StoreRefusedError: if no backend has that scheme, or the store may not be used.
        StoreError: if it cannot be opened or made.
    """
    if "://" in location:
        scheme = location.partition("://")[0]
        if scheme in SCHEMES:
            from embstore.backends.redis.backend import open_redis

            return open_redis(
                location, timeout=timeout, read_only=read_only, size_limit=size_limit, seed=seed
            )
        shown = without_password(location)
        raise StoreRefusedError(
            f"no backend for {scheme}:// locations; a path or disk:///path is a directory, "
            f"{', '.join(f'{each}://' for each in SCHEMES)} a server",
            path=shown,
        )
    return DiskBackend(
        Path(location),
        timeout=timeout,
        read_only=read_only,
        size_limit=size_limit,
        seed=seed,
        warnings=warnings,
    )
