"""URLs of servers: what may stand in one, users, passwords, TLS, sockets, prefixes."""

from __future__ import annotations

import logging
import pickle
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from redis._parsers import Encoder
from redis.connection import PythonRespSerializer

from embstore import EmbeddingStore, Namespace
from embstore.backends.redis.location import Location, without_password
from embstore.backends.redis.packing import Packer
from embstore.doctor import diagnose
from embstore.errors import StoreError, StoreRefusedError, StoreWarning
from tests.redis.server import RedisServer, free_port

SECRET = "s3cret/with:signs@"
QUOTED = "s3cret%2Fwith%3Asigns%40"
MODEL = Namespace("m")
PAGE = Path(__file__).parents[2] / "docs" / "server.md"


def allowed(user: str) -> list[str]:
    """What the docs say that a user has to be allowed."""
    rule = PAGE.read_text().partition(f"ACL SETUSER {user} ")[2]
    rule = re.split(r"ACL SETUSER|\n\n", rule)[0]
    return [word for word in rule.split() if word.startswith("+")]


@pytest.mark.parametrize(
    "url, complaint",
    [
        ("redis://localhost?prefx=a", "'prefx', which is not an option"),
        ("redis://localhost?prefix=a*", "other than letters"),
        ("redis://localhost?prefix=", "other than letters"),
        ("redis://localhost?ttl=soon", "no ttl"),
        ("redis://localhost?ttl=0", "ttl of less than a second"),
        ("redis://localhost?ssl_ca_certs=ca.pem", "TLS is spoken by rediss:// only"),
        ("rediss://localhost?ssl_cert_reqs=none", "'ssl_cert_reqs', which is not an option"),
        ("redis://localhost/first", "number of a database"),
        ("unix:///run/redis.sock?db=first", "number of a database"),
        ("redis://localhost:port", "not understood|port"),
    ],
)
def test_what_is_not_understood_is_refused(url: str, complaint: str) -> None:
    with pytest.raises(StoreRefusedError, match=complaint):
        EmbeddingStore(url)


def test_size_limits_are_the_servers(url: str) -> None:
    with pytest.raises(StoreRefusedError, match="maxmemory"):
        EmbeddingStore(url, size_limit="1GB")


@pytest.mark.parametrize(
    "url, shown",
    [
        (f"redis://me:{QUOTED}@host:1/0?prefix=a", "redis://me@host:1/0?prefix=a"),
        (f"redis://:{QUOTED}@host", "redis://host"),
        (f"unix://me:{QUOTED}@/run/redis.sock?db=1", "unix://me@/run/redis.sock?db=1"),
        ("valkeys://host", "valkeys://host"),
        (f"redis://me:{QUOTED}@host?password=s3cret", None),
        ("redis://me:pa/s3cret@host/0", None),
        ("redis://:p#s3cret@host", None),
        ("redis://:p?s3cret@host", None),
        ("redis://me:s3cret@host@host", "redis://me@host"),
        ("redis://me:s3cret@[::1", None),
        ("redis://me:s3cret@host:port", None),
    ],
)
def test_passwords_are_not_shown(
    url: str, shown: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert "s3cret" not in without_password(url)
    if shown is None:
        with pytest.raises(StoreRefusedError) as refused:
            EmbeddingStore(url)
        told = [str(refused.value), refused.value.path, caplog.text, str(diagnose(url).to_dict())]
        assert not [text for text in told if "s3cret" in text]
        return
    where = Location.parse(url)
    assert where.shown == shown
    assert "s3cret" not in repr(where)
    assert (where.password is None) == ("s3cret" not in url)
    if QUOTED in url:
        assert where.password == SECRET


def test_a_user_with_a_password(
    server: RedisServer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    admin = server.client()
    rules = ["on", f">{SECRET}", "~app:*", "-@all", *allowed("worker")]
    admin.execute_command("ACL", "SETUSER", "worker", *rules)
    admin.execute_command("ACL", "SETUSER", "default", "off")
    caplog.set_level(logging.DEBUG)
    where = f"127.0.0.1:{server.port}/0?prefix=app"
    url = f"redis://worker:{QUOTED}@{where}"
    with EmbeddingStore(url, on_error="raise") as store:
        digests = store.digests(["a", "b"])
        assert store.claims.claim(MODEL, digests, b"o" * 16, 2) is not None
        assert store.keep(MODEL, digests, np.eye(2, dtype=np.float32), 1.0, b"o" * 16)
        assert store.get_many(MODEL, ["b", "a"])[1].all()
        assert store.verify().ok
        assert store.compact().rows == 2
        assert store.prune(older_than=1000) == 0
        assert store.delete_many(MODEL, ["a"]) == 1
        store.put_identity(b"k" * 16, {"a": 1})
        shown = [repr(store), store.location, store._repr_html_(), str(store.stats())]
        copy = pickle.loads(pickle.dumps(store))
        assert copy.get_many(MODEL, ["b"])[1].all()
        assert copy.clear() == 1
        copy.close()
    for wrong in (url.replace("worker", "nobody"), url.replace(QUOTED, "guess-s3cret")):
        with pytest.warns(StoreWarning, match="redis://") as warned:
            EmbeddingStore(wrong)
        shown += [str(each.message) for each in warned]
    behind = url.replace(QUOTED, "guess-s3cret")
    with pytest.warns(StoreWarning, match="redis://") as warned:
        shown += [repr(EmbeddingStore(tmp_path / "disk", upstream=behind))]
    with EmbeddingStore(tmp_path / "disk", seed=5) as store:
        shown += [repr(store), store.location]
    with pytest.warns(StoreWarning, match="redis://") as again:
        shown += [repr(EmbeddingStore(tmp_path / "disk", upstream=behind))]
    shown += [str(each.message) for each in (*warned, *again)]
    monkeypatch.setenv("EMBSTORE_REDIS_PASSWORD", SECRET)
    with EmbeddingStore(f"redis://worker@{where}", on_error="raise") as store:
        assert store.namespaces() == []
    shown += [str(diagnose(url).to_dict()), caplog.text]
    assert not [text for text in shown if "s3cret" in text]


def test_a_user_who_may_only_read(server: RedisServer) -> None:
    admin = server.client()
    with EmbeddingStore(server.url) as store:
        store.put_many(MODEL, ["a"], np.ones((1, 2), np.float32))
    rules = ["on", "nopass", "~*", "-@all", *allowed("reader")]
    admin.execute_command("ACL", "SETUSER", "reader", *rules)
    url = f"redis://reader:any@127.0.0.1:{server.port}/0"
    written = admin.dbsize()
    with EmbeddingStore(url, read_only=True, on_error="raise") as store:
        assert store.get_many(MODEL, ["a", "b"])[1].tolist() == [True, False]
        assert store.namespaces()[0].entries == 1
        assert store.verify().ok
        for writing in (store.compact, store.clear, lambda: store.prune(older_than=0)):
            with pytest.raises(StoreError, match="read-only"):
                writing()
    assert admin.dbsize() == written
    with pytest.raises(StoreRefusedError, match="no store, and was to be read only"):
        EmbeddingStore(f"{url}?prefix=other", read_only=True)
    with EmbeddingStore(url) as store:
        assert store.get_many(MODEL, ["a"])[1].all()
        with pytest.warns(StoreWarning, match="permissions"):
            store.put_many(MODEL, ["b"], np.ones((1, 2), np.float32))


def test_a_socket(server: RedisServer) -> None:
    with EmbeddingStore(f"unix://{server.socket}?db=3&prefix=app", on_error="raise") as store:
        store.put_many(MODEL, ["a"], np.ones((1, 2), np.float32))
    assert server.client(db=3).exists("app:store")
    assert not server.client().dbsize()


def test_prefixes_are_apart(shared_server: RedisServer, url: str) -> None:
    stores = [EmbeddingStore(f"{url}-{name}", on_error="raise") for name in ("a", "a-b")]
    for number, store in enumerate(stores):
        store.put_many(MODEL, ["text"], np.full((1, 2), number, np.float32))
    assert stores[0].backend.seed != stores[1].backend.seed
    assert stores[0].clear() == 1
    stores[0].compact()
    assert stores[1].get_many(MODEL, ["text"])[0].tolist() == [[1, 1]]
    for store in stores:
        store.close()


def test_a_time_to_live(shared_server: RedisServer, url: str) -> None:
    with EmbeddingStore(f"{url}&ttl=1h", on_error="raise") as store:
        store.put_many(MODEL, ["text"], np.ones((1, 2), np.float32))
        prefix = url.partition("prefix=")[2]
        [row] = shared_server.client().scan_iter(f"{prefix}:r:*")
        assert 3_590_000 < shared_server.client().pttl(row) <= 3_600_000
        shared_server.client().pexpire(row, 1)
        while shared_server.client().exists(row):
            pass
        assert not EmbeddingStore(url).get_many(MODEL, ["text"])[1].any()


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, and a server's certificate for localhost."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl on the PATH")
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other"):
        request = ["req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem"]
        openssl(*request, "-subj", f"/CN={name}", "-days", "2")
    openssl("req", *key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-out"),
        *("server.pem", "-days", "2", "-CAcreateserial", "-extfile", "names"),
    )
    return folder


def test_tls_is_verified(start: Callable[..., RedisServer], certificates: Path) -> None:
    port = free_port()
    start(
        *("--tls-auth-clients", "no", "--tls-cert-file", str(certificates / "server.pem")),
        *("--tls-key-file", str(certificates / "server.key"), "--tls-port", str(port)),
        *("--tls-ca-cert-file", str(certificates / "ca.pem")),
    )
    good = f"ssl_ca_certs={certificates / 'ca.pem'}"
    with EmbeddingStore(f"rediss://localhost:{port}?{good}", on_error="raise") as store:
        store.put_many(MODEL, ["a"], np.ones((1, 2), np.float32))
        assert store.get_many(MODEL, ["a"])[1].all()
    for wrong in (
        f"rediss://127.0.0.1:{port}?{good}",  # not the host of the certificate
        f"rediss://localhost:{port}?ssl_ca_certs={certificates / 'other.pem'}",
        f"rediss://localhost:{port}",  # signed by none that this system knows
    ):
        with pytest.raises(StoreError, match="CERTIFICATE_VERIFY_FAILED"):
            EmbeddingStore(wrong, on_error="raise")


def test_doctor_looks_at_servers(server: RedisServer) -> None:
    found = diagnose(server.url)
    assert [(check.name, check.status) for check in found.checks][2:] == [
        ("server", "ok"),
        ("memory", "warning"),
        ("store", "ok"),
    ]
    assert "none yet" in found.checks[-1].found
    assert not server.client().dbsize(), "looking makes nothing"
    with EmbeddingStore(server.url) as store:
        store.put_many(MODEL, ["text"], np.ones((1, 2), np.float32))
    assert diagnose(server.url).checks[-1].found == "1 vectors stored in 1 namespaces"
    server.client().config_set("maxmemory", "100mb")
    assert diagnose(server.url).ok
    server.kill()
    found = diagnose(server.url)
    assert not found.ok
    assert "does not answer" in found.checks[-1].found


@pytest.mark.parametrize(
    "command",
    [("PING",), ("SET", b"k", b"v" * 100), ("OBJECT IDLETIME", b"k"), (b"EVALSHA", "é", 0, 1.5)],
)
def test_commands_are_packed_as_the_client_does(command: tuple[Any, ...]) -> None:
    theirs = PythonRespSerializer(6000, Encoder("utf-8", "strict", False).encode)
    assert b"".join(Packer().pack(*command)) == b"".join(theirs.pack(*command))
