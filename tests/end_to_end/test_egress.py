"""What applications may call outside of the mesh: judged at the caller's own proxy, by host name, address and port."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
import yaml

from tests.end_to_end.curl import curl
from tests.end_to_end.mesh_machine import Mesh, client, machine_in, workload
from tests.end_to_end.nginx import Nginx
from tests.end_to_end.sidecar import Config, Sidecar, Starter
from tests.end_to_end.tcp_server import TcpServer, read_head, read_until_eof

SECONDS = 30


def egress(name: str, action: str, *to: Config) -> Config:
    """An EgressPolicy for everybody in the namespace."""
    spec = {"target": {"kind": "Namespace"}, "action": action, "to": list(to)}
    return {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "EgressPolicy",
        "metadata": {"name": name},
        "spec": spec,
    }


def default(action: str) -> Config:
    """A DefaultPolicy for the namespace."""
    return {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "DefaultPolicy",
        "metadata": {"name": "leaving"},
        "spec": {"target": {"kind": "Namespace"}, "egress": action},
    }


@pytest.fixture(scope="module")
def denying(shared_proxy: Starter) -> Sidecar:
    """Everything may be called but for some; `localhost` stands for a host outside."""
    return shared_proxy(
        resources=[
            egress("no-evil", "Deny", {"hosts": ["evil.example", "*.evil.example", "localhost"]}),
            egress("noted", "Audit", {"networks": ["127.0.0.0/8"]}),
        ]
    )


@pytest.fixture
def allowing(proxy: Starter, nginx: Nginx) -> Sidecar:
    """Nothing may be called but for one port of this machine."""
    return proxy(
        resources=[
            default("Deny"),
            egress("by-name", "Allow", {"hosts": ["localhost"], "ports": [nginx.http1]}),
            egress("by-address", "Allow", {"networks": ["127.0.0.1/32"], "ports": [nginx.http1]}),
        ]
    )


def connect(sidecar: Sidecar, target: str) -> tuple[socket.socket, bytes]:
    """A CONNECT, and the head of its answer."""
    sock = socket.create_connection(("127.0.0.1", sidecar.forward), timeout=SECONDS)
    sock.sendall(f"CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n".encode())
    return sock, read_head(sock)[0]


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "localhost."])
def test_a_denied_host_is_refused_by_name(denying: Sidecar, nginx: Nginx, host: str) -> None:
    """However the name is written, the caller gets a 403 that names the policy; nginx hears nothing."""
    before = denying.total("conduit_denied_total", policy="default/no-evil")
    answer = curl(f"http://{host}:{nginx.http1}/small", "-x", denying.proxy_url, check=False)
    assert answer.status == 403
    assert b"denied by default/no-evil" in answer.body
    assert denying.total("conduit_denied_total", policy="default/no-evil") == before + 1


def test_what_is_audited_goes_through_and_is_noted(denying: Sidecar, nginx: Nginx) -> None:
    """A request to an audited network is answered, and counted under the policy."""
    before = denying.total("conduit_audited_total", policy="default/noted")
    assert curl(f"http://127.0.0.1:{nginx.http1}/small", "-x", denying.proxy_url).status == 200
    assert denying.total("conduit_audited_total", policy="default/noted") == before + 1


def test_connect_to_a_denied_host_is_refused(denying: Sidecar) -> None:
    """A tunnel to it is not granted."""
    sock, head = connect(denying, "www.evil.example:443")
    with sock:
        assert head.startswith(b"HTTP/1.1 403"), head


def test_a_denied_host_inside_tls_is_refused(denying: Sidecar, echo_server: TcpServer) -> None:
    """A tunnel to an allowed address that asks TLS for a denied host ends before the server hears of it."""
    before = echo_server.accepted
    sock, head = connect(denying, f"127.0.0.1:{echo_server.port}")
    with sock:
        assert head.startswith(b"HTTP/1.1 200"), head
        context = ssl.create_default_context()
        with pytest.raises((ssl.SSLError, OSError)):
            context.wrap_socket(sock, server_hostname="www.evil.example")
    assert echo_server.accepted == before


def test_an_allowed_host_inside_tls_passes(denying: Sidecar, tmp_path: Path) -> None:
    """The same with another name reaches the server, whose certificate the client sees."""
    authority = trustme.CA()
    inside, outside = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    authority.issue_cert("good.example").configure_cert(inside)
    authority.configure_trust(outside)
    with socket.create_server(("127.0.0.1", 0)) as server:
        sock, _ = connect(denying, f"127.0.0.1:{server.getsockname()[1]}")
        with sock:
            sock.setblocking(True)

            def serve() -> None:
                with server.accept()[0] as raw, inside.wrap_socket(raw, server_side=True) as tls:
                    tls.sendall(b"hello")

            thread = threading.Thread(target=serve)
            thread.start()
            with outside.wrap_socket(sock, server_hostname="good.example") as tls:
                assert tls.recv(100) == b"hello"
            thread.join(SECONDS)


def test_a_denied_host_inside_a_tunnel_of_http_is_refused(denying: Sidecar, nginx: Nginx) -> None:
    """HTTP in a tunnel to an allowed address is judged by the host that it asks for."""
    sock, _ = connect(denying, f"127.0.0.1:{nginx.http1}")
    with sock:
        sock.sendall(b"GET /small HTTP/1.1\r\nHost: www.evil.example\r\nConnection: close\r\n\r\n")
        assert read_until_eof(sock).startswith(b"HTTP/1.1 403")


def test_only_what_is_allowed(allowing: Sidecar, nginx: Nginx, echo_server: TcpServer) -> None:
    """With the default Deny an allowed host or address may be called, at its port; nothing else."""
    for host in ("localhost", "127.0.0.1"):
        answer = curl(f"http://{host}:{nginx.http1}/small", "-x", allowing.proxy_url, check=False)
        assert answer.status == 200, (host, answer)
    for place in (f"127.0.0.1:{echo_server.port}", f"127.0.0.2:{nginx.http1}", f"elsewhere.example:{nginx.http1}"):
        answer = curl(f"http://{place}/", "-x", allowing.proxy_url, check=False)
        assert answer.status == 403, (place, answer)
        assert "conduit-error: denied" in answer.heads
        assert b"default/leaving" in answer.body
    sock, head = connect(allowing, f"127.0.0.1:{echo_server.port}")
    with sock:
        assert head.startswith(b"HTTP/1.1 403")


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A client's sidecar, and a service that says of itself that it is opaque."""
    with machine_in(tmp_path_factory.mktemp("leaving")) as machine:
        made = Mesh(machine, [client(), workload("raw", protocol="opaque")])
        made.until_serving("raw-1")
        made.until(lambda: "client" in made.connected(), "the client's sidecar is connected")
        yield made


def test_the_first_tunnel_waits_for_what_the_mesh_knows(mesh: Mesh, nginx: Nginx) -> None:
    """A CONNECT whose host nobody has called yet: an opaque service is spoken to as such from the first, and what is no
    service is reached outside, at its port."""
    sidecar = mesh.sidecar("client-1")
    for target, path in (("raw:80", "/page"), (f"{socket.gethostname()}:{nginx.http1}", "/small")):
        sock, head = connect(sidecar, target)
        with sock:
            assert head.startswith(b"HTTP/1.1 200")
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: {target}\r\nConnection: close\r\n\r\n".encode())
            answer = read_until_eof(sock)
            assert answer.startswith(b"HTTP/1.1"), answer
            assert b"conduit-error: no_endpoints" not in answer, answer


def test_a_change_holds_for_what_is_open(mesh: Mesh, echo_server: TcpServer) -> None:
    """A tunnel that is open is ended when its place is denied, a new one is not granted; and all is well again when the
    policy is gone."""
    sidecar = mesh.sidecar("client-1")
    place = f"127.0.0.1:{echo_server.port}"
    sock, head = connect(sidecar, place)
    with sock:
        assert head.startswith(b"HTTP/1.1 200")
        sock.sendall(b"hello")
        assert sock.recv(100) == b"hello"
        file = mesh.machine.folder / "no-echo.yaml"
        denied = egress("no-echo", "Deny", {"networks": ["127.0.0.0/8"], "ports": [echo_server.port]})
        file.write_text(yaml.safe_dump(denied))
        assert mesh.machine.conduit("apply", "-f", file).code == 0
        with contextlib.suppress(ConnectionResetError):  # an end as well
            assert read_until_eof(sock) == b""
    other, head = connect(sidecar, place)
    other.close()
    assert head.startswith(b"HTTP/1.1 403")
    assert mesh.machine.conduit("delete", "egresspolicy", "no-echo").code == 0

    def granted() -> bool:
        again, said = connect(sidecar, place)
        again.close()
        return said.startswith(b"HTTP/1.1 200")

    mesh.until(granted, "the tunnel is granted again")
