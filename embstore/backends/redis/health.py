"""What can be seen of a server without writing to it."""

from __future__ import annotations

from typing import Any

from embstore.backends.redis.backend import RedisBackend
from embstore.backends.redis.location import Location
from embstore.errors import EmbstoreError, StoreRefusedError
from embstore.stats import format_bytes

Finding = tuple[str, Any, str, str]
"""What was looked at; "ok", "warning" or "error"; what is the case; what to do about it."""

_TIMEOUT = 5.0
_FULL = 0.9


def look_at_server(location: str) -> list[Finding]:
    """Look at a server and the store on it; raises nothing for what is wrong with them."""
    try:
        where = Location.parse(location)
        client = where.connect(_TIMEOUT)
    except (EmbstoreError, ImportError) as error:
        return [("server", "error", str(error), "Mend the URL, or install what is missing.")]
    try:
        info: dict[str, Any] = client.info()
    except Exception as error:  # of the client's or the system's: all that can go wrong on the way
        advice = f"Check that {where.shown} is right, and user, password and certificates."
        if "NOPERM" in str(error) or "no permissions" in str(error):
            advice = "Allow this user INFO, or ask the server's owner."
        return [("server", "error", f"does not answer: {error}", advice)]
    finally:
        client.connection_pool.disconnect()
    name = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version", info.get("redis_version", "of unknown version"))
    shown = f"{name} {version} at {where.shown}"
    return [("server", "ok", shown, ""), _memory(info), _store(location)]


def _memory(info: dict[str, Any]) -> Finding:
    used, most = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    policy = str(info.get("maxmemory_policy", "unknown"))
    if not most:
        found = f"{format_bytes(used)} used, and no limit"
        return ("memory", "warning", found, "Set maxmemory, below what the machine has.")
    found = f"{format_bytes(used)} of {format_bytes(most)} used, maxmemory-policy {policy}"
    if policy == "noeviction" and used > _FULL * most:
        advice = "Raise maxmemory, prune, or set maxmemory-policy to allkeys-lru."
        return ("memory", "warning", f"{found}: soon nothing more can be stored", advice)
    return ("memory", "ok", found, "")


def _store(location: str) -> Finding:
    try:
        backend = RedisBackend(location, timeout=_TIMEOUT, read_only=True)
    except StoreRefusedError as error:
        if "no store" in str(error):
            return ("store", "ok", "none yet: the first opening makes it", "")
        return ("store", "error", str(error), "Choose another prefix, or upgrade embstore.")
    except EmbstoreError as error:
        return ("store", "error", str(error), "Let this user read: docs/server.md has the rule.")
    try:
        infos = backend.namespaces()
    except EmbstoreError as error:
        return ("store", "error", str(error), "Let this user read: docs/server.md has the rule.")
    finally:
        backend.close()
    entries = sum(info.entries for info in infos)
    return ("store", "ok", f"{entries:,} vectors stored in {len(infos):,} namespaces", "")
