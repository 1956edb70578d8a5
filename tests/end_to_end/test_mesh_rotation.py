"""Certificates and roots are replaced while a whole mesh works; what is unusable is refused, what expires is told."""

import contextlib
import json
import os
import secrets
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import yaml

from mesh.control.issuer import TrustFiles, read
from mesh.local.atomic import write_private
from mesh.model.identity import Identity
from mesh.proxy.keypair import generate
from tests.control.authorities import DAY, Made, make
from tests.end_to_end.curl import Answer, curl
from tests.end_to_end.mesh_load import ANSWER_SECONDS, Once, grpc_calls, http1, load_of
from tests.end_to_end.mesh_machine import Mesh, calls, client, machine_in, workload
from tests.end_to_end.paced import paced
from tests.end_to_end.scale import FULL
from tests.end_to_end.sidecar import Config
from tests.end_to_end.tcp_server import serving
from tests.end_to_end.traffic_yaml import endpoint

pytestmark = pytest.mark.timeout(300)

RATE = 500 if FULL else 150
"""Requests a second on connections that are kept, besides all those on new ones."""
SECONDS = 60 if FULL else 8
ROUNDS = 5 if FULL else 1
"""How often the root is replaced."""
RENEWALS = 3 if FULL else 2
"""Certificates that each proxy gets between two steps."""
SHORT_SECONDS = 6.0
"""An issuer's life that is to end."""
NAMES = {"client", "echo", "raw", "calls"}
IMPOSTOR = Identity("impostor", "default")
STRICT = {
    "apiVersion": "conduit.mesh/v1alpha1",
    "kind": "DefaultPolicy",
    "metadata": {"name": "all", "namespace": "conduit"},
    "spec": {"target": {"kind": "Mesh"}, "tls": "strict", "inbound": "all-authenticated"},
}


class Roots:
    """The three files of a mesh's trust, and what may stand in them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700)
        self.files = TrustFiles(folder / "anchors.pem", folder / "issuer.pem", folder / "issuer.key")
        self.root = self.another()
        self.trust(self.root)
        self.issue_from(self.root)

    @property
    def options(self) -> list[object]:
        """For `conduit up`."""
        names = ("--trust-anchors", "--issuer-cert", "--issuer-key")
        return [word for pair in zip(names, self.files, strict=True) for word in pair]

    def another(self) -> Made:
        """A new root."""
        return make(f"root {secrets.token_hex(4)}", path_length=1)

    def trust(self, *roots: Made) -> None:
        """These are all roots now."""
        write_private(self.files.anchors, b"".join(root.pem for root in roots))

    def issue_from(self, root: Made, seconds: float = DAY) -> Made:
        """A new issuer below this root signs now, and may for so long."""
        issuer = make(f"issuer {secrets.token_hex(4)}", root, path_length=0, end=time.time() + seconds)
        write_private(self.files.issuer, issuer.pem)
        write_private(self.files.key, issuer.key_pem)
        return issuer


class Rotating:
    """A mesh whose certificates hold for a second, with what may be asked of it."""

    def __init__(self, mesh: Mesh, roots: Roots) -> None:
        self.mesh, self.roots = mesh, roots

    def installed(self) -> dict[str, float]:
        """Certificates that each proxy has had."""
        return {name: self.metric(name, "conduit_identity_cert_refresh_total", result="installed") for name in NAMES}

    def metric(self, name: str, metric: str, **labels: str) -> float:
        return self.mesh.sidecar(f"{name}-1").total(metric, **labels)

    def renewed(self, more: int = RENEWALS) -> None:
        """Returns when each proxy has so many certificates more."""
        wanted = {name: count + more for name, count in self.installed().items()}
        self.mesh.until(lambda: all(n >= wanted[name] for name, n in self.installed().items()), f"{more} more of each")

    def shown(self) -> dict[str, Config]:
        """What `conduit identity` shows of each workload."""
        return {row["workload"]: row for row in self.mesh.machine.ask("identity")}

    def ready(self, name: str) -> tuple[int, str]:
        return self.mesh.sidecar(f"{name}-1").ask("/ready")

    def checks(self) -> dict[str, dict[str, str]]:
        """What `conduit check` finds, by name; whatever its exit code is."""
        done = self.mesh.machine.conduit("check", "-o", "json")
        return {check["name"]: check for check in json.loads(done.out)}


@pytest.fixture(scope="module")
def rotating(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rotating]:
    """A client's sidecar and services of three protocols; each test leaves it as it was, but for its root."""
    folder = tmp_path_factory.mktemp("rotating")
    roots = Roots(folder / "trust")
    documents = [STRICT, client(), workload("echo"), workload("raw", protocol="opaque"), calls()]
    with machine_in(folder) as machine:
        mesh = Mesh(machine, documents, *roots.options, "--certificate-lifetime", "1s")
        mesh.until_serving("echo-1", "raw-1", "calls-1")
        mesh.until(lambda: mesh.connected() == NAMES, "all proxies are connected")
        yield Rotating(mesh, roots)


@contextlib.contextmanager
def fresh(proxy: int, service: str) -> Iterator[Once]:
    """A new tunnel for each request, and with it a new connection between the proxies: nothing is pooled."""

    def send() -> str:
        with socket.create_connection(("127.0.0.1", proxy), timeout=ANSWER_SECONDS) as sock:
            sock.sendall(b"CONNECT %b:80 HTTP/1.1\r\nHost: %b:80\r\n\r\n" % (service.encode(), service.encode()))
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                if not (data := sock.recv(1)):
                    return f"closed after {head!r}"
                head += data
            if not head.startswith(b"HTTP/1.1 200"):
                return repr(head + sock.recv(65536))
            sock.sendall(b"GET / HTTP/1.1\r\nHost: raw\r\nConnection: close\r\n\r\n")
            answer = b""
            while data := sock.recv(65536):
                answer += data
        return "" if answer.startswith(b"HTTP/1.1 200") and answer.endswith(b"}") else repr(answer)

    yield Once(send, lambda: None)


def signed_by(issuer: Made, root: Made, who: Identity, folder: Path) -> Path:
    """A certificate for `who`, as one has it from an issuer, and its key, in one file."""
    folder.mkdir(mode=0o700)
    files = TrustFiles(folder / "anchors.pem", folder / "issuer.pem", folder / "issuer.key")
    for path, pem in zip(files, (root.pem, issuer.pem, issuer.key_pem), strict=True):
        write_private(path, pem)
    pair = generate(str(who), who.uri)
    found = read(files, time.time()).sign(pair.csr, who, time.time(), DAY)
    write_private(folder / "both.pem", (found.chain + pair.key).encode())
    return folder / "both.pem"


def test_certificates_and_roots_are_replaced_under_load(rotating: Rotating, tmp_path: Path) -> None:
    """Row: certificates rotate under load. Each proxy gets another certificate each second; a new root is added, signs,
    and the old one goes: no request fails, all hold what the new root signed, and nobody trusts the old one."""
    mesh, roots = rotating.mesh, rotating.roots
    proxy = mesh.sidecar("client-1").forward
    failed = {name: rotating.metric(name, "conduit_identity_cert_refresh_total", result="failed") for name in NAMES}
    accepted = rotating.metric("raw", "tcp_open_total", direction="inbound")
    first, issuer = roots.root, roots.issue_from(roots.root)
    kinds = [("http1", partial(http1, proxy, "echo", "/page"), 1), ("grpc", partial(grpc_calls, proxy, "calls"), 1)]
    with (
        load_of(("fresh", partial(fresh, proxy, "raw"), 2), *kinds) as load,
        paced(f"http://127.0.0.1:{proxy}/page", tmp_path, requests=RATE * SECONDS, rate=RATE, authority="echo") as pace,
    ):
        load.more(5)
        for _ in range(ROUNDS):
            new = roots.another()
            roots.trust(roots.root, new)
            rotating.renewed()
            roots.issue_from(new)
            rotating.renewed()
            roots.trust(new)
            rotating.renewed()
            roots.root = new
        load.more(20)
        lines = pace.lines()
    assert load.failures == []
    assert {line.status for line in lines} == {200}
    opened = rotating.metric("raw", "tcp_open_total", direction="inbound") - accepted
    print(f"{len(lines)} at {RATE} a second, and {load.counts}; {opened:g} connections between proxies were new")
    assert opened >= load.counts["fresh"] >= 30
    for name in NAMES:
        assert rotating.metric(name, "conduit_identity_cert_refresh_total", result="failed") == failed[name]

    subject = roots.root.certificate.subject.rfc4514_string()
    rows = rotating.shown()
    assert set(rows) == NAMES
    for name in NAMES - {"client"}:
        assert rows[name]["verified"] is True, rows[name]
        assert [one["issuer"] for one in rows[name]["chain"]][-1] == subject
    assert rows["client"]["not_after"] > time.time()
    shown = signed_by(issuer, first, IMPOSTOR, tmp_path / "old")
    no_server_takes(rotating, shown)
    no_client_takes(rotating, shown)


def no_server_takes(rotating: Rotating, shown: Path) -> None:
    """A client that shows this is refused by each of them, and has not been heard."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(rotating.roots.files.anchors)
    context.load_cert_chain(shown)
    for name in NAMES - {"client"}:
        before = rotating.metric(name, "conduit_refused_total", reason="tls_unknown_authority")
        host, _, port = rotating.mesh.config(f"{name}-1")["inbound"][0]["listen"].rpartition(":")
        said = b""
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host, int(port)), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=str(Identity(name, "default"))) as sock,
        ):
            sock.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            said = sock.recv(1000)
        assert said == b""
        rotating.mesh.until(
            lambda name=name, before=before: (
                rotating.metric(name, "conduit_refused_total", reason="tls_unknown_authority") > before
            ),
            "the refusal is counted",
        )


def no_client_takes(rotating: Rotating, shown: Path) -> None:
    """An endpoint that shows this, and is who it should be by its name, is told nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)
    heard: list[bytes] = []

    def handle(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as tls:
            heard.append(tls.recv(65536))

    with serving(handle) as server:
        told = endpoint("impostor", "impostor", server.port, identity=str(IMPOSTOR), meshed=True)
        place = rotating.mesh.state / "endpoints" / "default.impostor.yaml"
        beside = rotating.mesh.machine.folder / "impostor.yaml"
        beside.write_text(yaml.safe_dump(told))
        beside.rename(place)
        try:
            rotating.mesh.until(lambda: b"TLS" in ask(rotating.mesh, "impostor").body, "the impostor is refused")
        finally:
            place.unlink()
        assert server.accepted >= 1
    assert heard == []


def ask(mesh: Mesh, service: str) -> Answer:
    """One request through the client's sidecar."""
    return curl(f"http://{service}/page", "-x", mesh.sidecar("client-1").proxy_url, check=False)


def test_unusable_files_are_refused(rotating: Rotating) -> None:
    """Row: certificates rotate under load. A set of files that is not good stays out, `conduit check` says why, and
    certificates are renewed as before; a good one mends it."""
    mesh, roots = rotating.mesh, rotating.roots
    good = tuple(path.read_bytes() for path in roots.files)
    stranger = roots.another()
    bad = {
        "is not signed by any of the anchors": (good[0], stranger.pem, stranger.key_pem),
        "key": (good[0], good[1], stranger.key_pem),
    }
    for why, texts in bad.items():
        for path, text in zip(roots.files, texts, strict=True):
            write_private(path, text)
        mesh.until(lambda why=why: why in rotating.checks()["newest files are good"]["detail"], f"{why} is told")
    write_private(roots.files.anchors, b"nothing")  # the command trusts it too: it says so
    done = mesh.machine.conduit("check")
    assert done.code == 1
    assert str(roots.files.anchors) in done.err
    rotating.renewed(1)
    assert ask(mesh, "echo").status == 200
    for path, text in zip(roots.files, good, strict=True):
        write_private(path, text)
    mesh.until(lambda: rotating.checks()["newest files are good"]["status"] == "ok", "the good set is in force")


def test_what_expires_is_told_and_heals(rotating: Rotating) -> None:
    """Row: certificates rotate under load. With the control plane stopped, certificates end: /ready and `conduit check`
    say so; when it goes on, and may sign, all is well again."""
    mesh, roots = rotating.mesh, rotating.roots
    pid = mesh.control_pid()
    ends = time.time() + SHORT_SECONDS
    roots.issue_from(roots.root, SHORT_SECONDS)
    expiration = "conduit_identity_cert_expiration_timestamp_seconds"
    mesh.until(lambda: all(rotating.metric(name, expiration) < ends + 1 for name in NAMES), "all end with the issuer")
    assert all(rotating.ready(name)[0] == 200 for name in NAMES)
    os.kill(pid, signal.SIGSTOP)
    try:
        mesh.until(lambda: all(rotating.ready(name)[0] == 503 for name in NAMES), "all have expired", 30)
        assert all("the certificate has expired at" in rotating.ready(name)[1] for name in NAMES)
        checks = rotating.checks()
        assert checks["answers"]["status"] == checks["are ready"]["status"] == "failed"
        assert "the certificate has expired at" in checks["are ready"]["detail"]
        roots.issue_from(roots.root)
    finally:
        os.kill(pid, signal.SIGCONT)
    mesh.until(lambda: all(rotating.ready(name)[0] == 200 for name in NAMES), "all are ready again")
    mesh.until(lambda: ask(mesh, "echo").status == 200, "requests are served")
    assert rotating.checks()["are ready"]["status"] == "ok"
    assert mesh.control_pid() == pid
