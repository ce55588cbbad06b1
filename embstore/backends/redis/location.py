"""``redis://`` locations: what may stand in one, and how it is connected to."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from embstore.backends.redis.packing import Packer
from embstore.errors import StoreRefusedError
from embstore.units import parse_seconds

if TYPE_CHECKING:
    import redis

SCHEMES = {
    "redis": "redis",
    "rediss": "rediss",
    "unix": "unix",
    "valkey": "redis",
    "valkeys": "rediss",
}
"""Schemes, and what the client calls them."""

PASSWORD = "EMBSTORE_REDIS_PASSWORD"
"""The environment variable with the password, for those whose URL has none."""

_TLS = {"ssl_ca_certs", "ssl_ca_path", "ssl_certfile", "ssl_keyfile"}
_OPTIONS = {"prefix", "ttl", "db"} | _TLS
_QUOTED = "signs such as / ? # @ : in a user or password are written %2F %3F %23 %40 %3A"
_PREFIX = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_CONNECTING_SECONDS = 2.0
_ANSWERING_SECONDS = 5.0
"""The longest time that is waited for one answer. A slow server must not take longer than
computing would."""

_LEAST_SECONDS = 0.1

_RETRIES = 2


@dataclass(frozen=True)
class Location:
    """What a URL says.

    Attributes:
        url: for the client, without options.
        shown: for people: without the password.
        prefix: of all keys.
        ttl: seconds after which a vector is forgotten; None for never.
        tls: further arguments of the connection.
        password: for whoever the URL names; None for none.
    """

    url: str
    shown: str
    prefix: str
    ttl: float | None
    tls: dict[str, str]
    password: str | None = field(repr=False)

    @classmethod
    def parse(cls, location: str) -> Location:
        """Read a URL.

        Raises:
            StoreRefusedError: if there is anything in it that is not understood.
        """
        shown = without_password(location)
        try:
            parts = urlsplit(location)
            _ = parts.port
        except ValueError:
            # Not with its reason, which may name a part of a password.
            raise _refused(shown, f"is not understood: {_QUOTED}") from None
        if "@" in parts.path + parts.query + parts.fragment and parts.scheme != "unix":
            raise _refused(shown, f"is not understood: {_QUOTED}")
        scheme = SCHEMES[parts.scheme]
        path = parts.path if scheme == "unix" else ""
        given = dict(parse_qsl(parts.query, keep_blank_values=True))
        if unknown := given.keys() - _OPTIONS:
            raise _refused(shown, f"has {min(unknown)!r}, which is not an option: see below")
        if parts.scheme not in ("rediss", "valkeys") and (unused := given.keys() & _TLS):
            raise _refused(shown, f"has {min(unused)!r}, but TLS is spoken by rediss:// only")
        prefix = given.pop("prefix", "embstore")
        if not _PREFIX.fullmatch(prefix):
            raise _refused(shown, "has a prefix with other than letters, digits, '_', '.' and '-'")
        try:
            ttl = parse_seconds(given.pop("ttl")) if "ttl" in given else None
        except ValueError as error:
            raise _refused(shown, f"has no ttl: {error}") from None
        if ttl is not None and ttl < 1:
            raise _refused(shown, "has a ttl of less than a second")
        database = given.pop("db", "")
        if scheme != "unix":
            database = database or parts.path.strip("/")
        if not re.fullmatch(r"\d*", database):
            raise _refused(shown, f"has {database!r} where the number of a database belongs")
        host = parts.netloc.rpartition("@")[2]
        password = None if parts.password is None else unquote(parts.password)
        user = quote(unquote(parts.username or ""))
        netloc = f"{user}@{host}" if user else host
        return cls(
            # By hand: urlunsplit writes a scheme that it does not know, without a host, otherwise.
            url=f"{scheme}://{netloc}{path}?db={database or 0}",
            shown=shown,
            prefix=prefix,
            ttl=ttl,
            tls=given,
            password=password or os.environ.get(PASSWORD) or None,
        )

    def connect(self, timeout: float) -> redis.Redis:
        """A client that connects when it is first asked for something.

        Args:
            timeout: most seconds to wait for an answer.

        Raises:
            ImportError: if the client's library is not installed.
            StoreRefusedError: if the client does not understand the URL.
        """
        try:
            import redis
            from redis.backoff import ExponentialWithJitterBackoff
            from redis.retry import Retry
        except ImportError as error:
            raise ImportError(
                f"{self.shown} needs an extra: pip install 'embstore[redis]'"
            ) from error
        how: dict[str, Any] = {
            # 0 would be a socket that never waits, not even for an answer on its way.
            "socket_connect_timeout": max(_LEAST_SECONDS, min(timeout, _CONNECTING_SECONDS)),
            "socket_timeout": max(_LEAST_SECONDS, min(timeout, _ANSWERING_SECONDS)),
            # What was cut off is tried again; who is slow is not asked again.
            "retry": Retry(
                ExponentialWithJitterBackoff(base=0.05, cap=0.5),
                _RETRIES,
                supported_errors=(redis.exceptions.ConnectionError,),
            ),
            "retry_on_timeout": False,
            "health_check_interval": 30,
            "command_packer": Packer(),
        }
        if self.password is not None:
            how["password"] = self.password
        if self.url.startswith("rediss:"):
            how |= {"ssl_cert_reqs": "required", "ssl_check_hostname": True, **self.tls}
        try:
            return redis.Redis(connection_pool=redis.ConnectionPool.from_url(self.url, **how))
        except ValueError as error:
            raise _refused(self.shown, f"is not understood: {error}") from None


def without_password(location: str) -> str:
    """A location as it may be shown; one that is no URL as it is.

    A password may have been written as it is, with the signs that divide a URL, or where none
    belongs. So it is not asked what the parts of the URL are: nothing between the first colon and
    the last "@" is shown, and no option's value but those of the options that there are.
    """
    scheme, separator, rest = location.partition("://")
    if not separator:
        return location
    user_and_password, at, rest = rest.rpartition("@")
    user, colon, _ = user_and_password.partition(":")
    if not colon:
        # A path of a socket may have an "@", but no user has a "/".
        return f"{scheme}://{user}{at}{_without_unknown_values(rest)}"
    return f"{scheme}://{user and user + at}{_without_unknown_values(rest)}"


def _without_unknown_values(rest: str) -> str:
    path, mark, query = rest.partition("?")
    options = []
    for option in query.split("&") if mark else ():
        name, equals, _ = option.partition("=")
        options.append(option if name in _OPTIONS else f"{name}{equals and '=...'}")
    return path + mark + "&".join(options)


def _refused(shown: str, why: str) -> StoreRefusedError:
    return StoreRefusedError(
        f"{shown} {why}. A server is written redis://[user[:password]@]host[:port][/db]"
        "[?prefix=name&ttl=30d], rediss:// with TLS (ssl_ca_certs=file, ssl_certfile=, "
        "ssl_keyfile=), or unix:///path.sock[?db=0]",
        path=shown,
    )
