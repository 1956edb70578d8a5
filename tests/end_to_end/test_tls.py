"""mTLS between proxies: an inbound listener with TLS, plain clients before it, and two proxies in a row."""

import hashlib
import os
import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
import trustme

from tests.end_to_end import grpc_server
from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.h2load import h2load
from tests.end_to_end.nginx import SMALL, Nginx
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_until_eof

SECONDS = 30


@dataclass(frozen=True)
class Files:
    """Paths of a certificate, its key and the anchors to verify others with."""

    cert: Path
    key: Path
    ca: Path

    def as_config(self) -> dict[str, str]:
        return {"cert": str(self.cert), "key": str(self.key), "ca": str(self.ca)}


def issue(folder: Path, authority: trustme.CA, name: str, anchors: trustme.CA | None = None) -> Files:
    """A certificate for the identity `name`, with the anchors that it is to trust."""
    certificate = authority.issue_cert(name)
    files = Files(folder / f"{name}.pem", folder / f"{name}.key", folder / f"{name}-ca.pem")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(files.cert, append=True)
    certificate.private_key_pem.write_to_path(files.key)
    (anchors or authority).cert_pem.write_to_path(files.ca)
    return files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the certificates are."""
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def server_files(folder: Path, authority: trustme.CA) -> Files:
    """web.demo"""
    return issue(folder, authority, "web.demo")


@pytest.fixture(scope="module")
def client_files(folder: Path, authority: trustme.CA) -> Files:
    """front.demo"""
    return issue(folder, authority, "front.demo")


APPLICATIONS = ("http1", "http2", "grpc", "echo", "permissive")


@pytest.fixture(scope="module")
def behind(
    shared_proxy: Starter, nginx: Nginx, grpc_port: int, echo_server: TcpServer, server_files: Files
) -> dict[str, int]:
    """Ports of inbound listeners with TLS, strict but for one, before each application; `admin` is not among them."""
    ports = (nginx.http1, nginx.http2, grpc_port, echo_server.port, nginx.http1)
    modes = ("strict", "strict", "strict", "strict", "permissive")
    inbound = [
        {
            "forward": f"127.0.0.1:{port}",
            "service": name,
            "protocol": "http1" if name == "permissive" else "detect",
            "tls": {**server_files.as_config(), "mode": mode},
        }
        for name, port, mode in zip(APPLICATIONS, ports, modes, strict=True)
    ]
    sidecar = shared_proxy({}, inbound=inbound)
    started.append(sidecar)
    return dict(zip(APPLICATIONS, sidecar.inbound, strict=True))


started: list[Sidecar] = []


@pytest.fixture
def server_side(behind: dict[str, int]) -> Sidecar:
    """The proxy with the inbound listeners."""
    return started[-1]


@pytest.fixture(scope="module")
def front(shared_proxy: Starter, behind: dict[str, int], client_files: Files) -> Sidecar:
    """A proxy that speaks mTLS to those listeners, for plain clients; each service by the identity of its endpoint."""
    services = {}
    protocols = {"http1": "http1", "http2": "http2", "grpc": "detect", "echo": "detect", "permissive": "detect"}
    for name, port in behind.items():
        endpoint = {"address": f"127.0.0.1:{port}", "identity": "web.demo"}
        entry = {"protocol": protocols[name], "endpoints": [endpoint], "tls": client_files.as_config()}
        services[name] = entry
    wrong = {"address": f"127.0.0.1:{behind['http1']}", "identity": "other.demo"}
    services["wrong"] = {"protocol": "http1", "endpoints": [wrong], "tls": client_files.as_config()}
    services["plain"] = service(behind["http1"], protocol="http1")
    services["plain-permissive"] = service(behind["permissive"], protocol="http1")
    return shared_proxy(services)


# --- two proxies in a row -------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["http1", "http2", "permissive"])
def test_http_through_two_proxies(front: Sidecar, server_side: Sidecar, name: str, version: str) -> None:
    """A plain client reaches the plain application; what is between is mTLS, and both sides' metrics say so."""
    before = server_side.total("request_total", authority=name, tls="true", client_id="front.demo")
    answer = curl(front.url(name, "/small"), VERSIONS[version])
    assert answer.body == SMALL.encode()[:-1] + b"\n"
    wait_until(
        lambda: server_side.total("request_total", authority=name, tls="true", client_id="front.demo") == before + 1,
        "the identity is counted",
    )
    assert front.total("request_total", authority=name, tls="true", direction="outbound") >= 1


@pytest.mark.parametrize("version", VERSIONS)
def test_load_through_two_proxies(front: Sidecar, version: str) -> None:
    """Five thousand requests, none of them failed."""
    name = "http1" if version == "http1" else "http2"
    streams = 1 if version == "http1" else 16
    load = h2load(front.url(name, "/small"), version, requests=5000, clients=16, streams=streams)
    assert (load.succeeded, load.good) == (5000, 5000), load.output


def test_uploads_through_two_proxies(front: Sidecar, nginx: Nginx, tmp_path: Path) -> None:
    """Megabytes up and down through TLS, byte for byte."""
    content = os.urandom(5_000_001)
    (tmp_path / "up").write_bytes(content)
    for version in VERSIONS:
        path = f"/put/tls-{version}"
        assert curl(front.url("http2", path), VERSIONS[version], "-T", tmp_path / "up").status == 201
        assert (nginx.files / path[1:]).read_bytes() == content
        assert curl(front.url("http1", path), VERSIONS[version]).body == content


def test_grpc_through_two_proxies(front: Sidecar) -> None:
    """Calls of each kind, a large message, and an error."""
    with grpc_server.channel(front.ports["grpc"]) as channel:
        message = bytes(4 * 1024 * 1024)
        assert grpc_server.stub(channel, "Unary")(message, timeout=SECONDS) == message
        assert list(grpc_server.stub(channel, "Chat")(iter([b"a", b"b"]), timeout=SECONDS)) == [b"A", b"B"]
        with pytest.raises(grpc.RpcError) as caught:
            grpc_server.stub(channel, "Fail")(b"NOT_FOUND", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    assert caught.value.details() == "größer than 100%"


def test_raw_bytes_through_two_proxies(front: Sidecar) -> None:
    """Anything else, with half-close, which in TLS is close_notify."""
    content = b"\0" + os.urandom(2_000_000)
    with socket.create_connection(("127.0.0.1", front.ports["echo"]), timeout=SECONDS) as sock:

        def send() -> None:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        assert hashlib.sha256(read_until_eof(sock)).digest() == hashlib.sha256(content).digest()
        sender.join()


# --- who is refused -------------------------------------------------------------------------------


def context_of(files: Files | None, authority: trustme.CA) -> ssl.SSLContext:
    """A client's TLS, with a certificate or without one."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if files is not None:
        context.load_cert_chain(files.cert, files.key)
    return context


def ask_over_tls(port: int, context: ssl.SSLContext) -> bytes:
    """One request; what came back, until the end."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as raw,
        context.wrap_socket(raw, server_hostname="web.demo") as sock,
    ):
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: web.demo\r\nConnection: close\r\n\r\n")
        return read_until_eof(sock)


def test_a_client_with_a_certificate_is_served(
    behind: dict[str, int], client_files: Files, authority: trustme.CA
) -> None:
    """Any TLS client with a certificate of the authority."""
    for name in ("http1", "permissive"):
        assert b"conduit" in ask_over_tls(behind[name], context_of(client_files, authority))


def test_strict_refuses_a_client_without_a_certificate(
    behind: dict[str, int], server_side: Sidecar, authority: trustme.CA
) -> None:
    """The handshake fails, nothing reaches the application, and the refusal is counted."""
    before = server_side.total("conduit_refused_total")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert ask_over_tls(behind["http1"], context_of(None, authority)) != b""
    wait_until(lambda: server_side.total("conduit_refused_total") > before, "the refusal is counted")


def test_a_stranger_s_certificate_is_refused(
    behind: dict[str, int], server_side: Sidecar, tmp_path: Path, authority: trustme.CA
) -> None:
    """A certificate of another authority is as good as none."""
    stranger = issue(tmp_path, trustme.CA(), "front.demo", authority)
    before = server_side.total("conduit_refused_total")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert ask_over_tls(behind["http1"], context_of(stranger, authority)) != b""
    wait_until(lambda: server_side.total("conduit_refused_total") > before, "the refusal is counted")


@pytest.mark.parametrize("version", VERSIONS)
def test_strict_refuses_plain_text_and_permissive_takes_it(
    behind: dict[str, int], server_side: Sidecar, version: str
) -> None:
    """Plain HTTP is cut off by the one, counted, and served by the other."""
    before = server_side.total("conduit_refused_total")
    refused = curl(f"http://127.0.0.1:{behind['http1']}/small", VERSIONS[version], check=False)
    assert refused.code != 0
    assert (refused.status, refused.body) == (0, b"")
    wait_until(lambda: server_side.total("conduit_refused_total") > before, "the refusal is counted")
    served = curl(f"http://127.0.0.1:{behind['permissive']}/small", "--http1.1")
    assert served.body == SMALL.encode()[:-1] + b"\n"
    assert server_side.total("request_total", authority="permissive", tls="disabled") >= 1


def test_an_endpoint_of_another_identity_is_refused(front: Sidecar) -> None:
    """The certificate must carry the identity that the endpoint is to have: 503 tls_failed."""
    answer = curl(front.url("wrong", "/small"))
    assert answer.status == 503
    assert "conduit-error: tls_failed" in answer.heads
    assert b"service wrong" in answer.body


def test_plain_text_to_a_strict_endpoint_is_an_error_that_says_so(front: Sidecar) -> None:
    """A proxy without TLS before a strict one: the client is told that the endpoint ended the connection."""
    answer = curl(front.url("plain", "/small"))
    assert answer.status == 502
    assert "conduit-error: upstream_reset" in answer.heads
    assert curl(front.url("plain-permissive", "/small")).status == 200
