"""Between planes and people: names that only proxies may use, paths, logs, the admin port."""

import contextlib
import json
import os
import socket
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme
import yaml

from tests.end_to_end.sidecar import Starter, wait_until
from tests.hostile import attacks, frames
from tests.hostile.asking import hear, say
from tests.hostile.conftest import CONDUIT, Target
from tests.hostile.honest import Honest1

WEB = "web.demo.serviceaccount.identity.cluster.local"
SPOOFED = [
    *("conduit-client-id", "Conduit-Client-Id", "conduit_client_id", "l5d-client-id", "l5d_client_id", "l5d-foo"),
    *("x-forwarded-client-cert", "X_Forwarded_Client_Cert", "conduit-orig-proto", "conduit-anything"),
]


def fields_of(head: str) -> dict[str, str]:
    """Names in lower case, values."""
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in head.split("\r\n")[1:])}


async def test_clients_cannot_say_who_they_are(target: Target) -> None:
    """Row: identity spoofing headers (of clients, in both protocols)."""
    one = "".join(f"{name}: admin\r\n" for name in SPOOFED)
    two = [(name.lower().encode(), b"admin") for name in SPOOFED]
    async with target.under_attack():
        plain = f"GET /evil HTTP/1.1\r\nhost: web\r\n{one}x-own: 1\r\nconnection: close\r\n\r\n".encode()
        assert (await trio.to_thread.run_sync(say, target.inbound, plain)).startswith(b"HTTP/1.1 200")
        data = frames.headers(1, frames.block(frames.request(b"/evil", more=[*two, (b"x-own", b"1")])))
        await trio.to_thread.run_sync(lambda: say(target.inbound, attacks.GREETING + data, seconds=1.0, close=True))
        heard = await trio.to_thread.run_sync(target.heard)
    assert len(heard) == 2
    for head in heard:
        assert fields_of(head) == {"host": "web", "x-own": "1"}


async def test_connection_takes_nothing_away(target: Target) -> None:
    """Row: identity spoofing headers (Connection cannot nominate what others rely on)."""
    names = ["authorization", "x-forwarded-for", "cookie", "x-real-ip", "host", "content-length"]
    data = (
        f"POST /evil HTTP/1.1\r\nhost: web\r\nconnection: close, {', '.join(names)}, x-own\r\nauthorization: a\r\n"
        "x-forwarded-for: b\r\ncookie: c\r\nx-real-ip: d\r\nx-own: e\r\ncontent-length: 2\r\n\r\nhi"
    ).encode()
    await trio.to_thread.run_sync(say, target.inbound, data)
    (head,) = await trio.to_thread.run_sync(target.heard)
    assert set(fields_of(head)) == set(names)


async def test_an_application_cannot_speak_for_a_proxy(target: Target) -> None:
    """Row: identity spoofing headers (of applications, to whoever called)."""
    for port in (target.inbound, target.outbound):
        data = b"GET /odd/spoofing HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
        answer = await trio.to_thread.run_sync(say, port, data)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"conduit-error" not in answer
        assert b"l5d-" not in answer
    assert len(await trio.to_thread.run_sync(target.heard)) == 2  # once each: a 503 that claims to be ours is none


@pytest.fixture
def guarded(alone: Starter, origin: int, tmp_path: Path) -> tuple[Target, ssl.SSLContext]:
    """A proxy that wants to know who its clients are, and the TLS of one who can say it."""
    authority = trustme.CA()
    server, client = authority.issue_cert("127.0.0.1"), authority.issue_cert(WEB)
    files = {name: str(tmp_path / f"{name}.pem") for name in ("cert", "key", "ca")}
    server.private_key_pem.write_to_path(files["key"])
    server.cert_chain_pems[0].write_to_path(files["cert"])
    authority.cert_pem.write_to_path(files["ca"])
    entry = {"forward": f"127.0.0.1:{origin}", "protocol": "http1", "tls": {**files, "mode": "permissive"}}
    sidecar = alone(
        {"web": {"protocol": "http1", "endpoints": [f"127.0.0.1:{origin}"]}},
        inbound=[entry],
        limits={"handshake_timeout": 0.5},
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    client.configure_cert(context)
    return Target(sidecar, origin), context


def test_who_the_client_is_has_been_proved(guarded: tuple[Target, ssl.SSLContext]) -> None:
    """Row: identity spoofing headers (the application is told who the client has proved to be, and nothing else)."""
    target, context = guarded
    target.heard()
    data = b"GET /evil HTTP/1.1\r\nhost: web\r\nconduit-client-id: admin\r\nconnection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", target.inbound), timeout=10) as sock,
        context.wrap_socket(sock, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(data)
        assert tls.recv(100).startswith(b"HTTP/1.1 200")
    assert say(target.inbound, data).startswith(b"HTTP/1.1 200")
    proved, said = map(fields_of, target.heard())
    assert proved["conduit-client-id"] == proved["l5d-client-id"] == WEB
    assert "conduit-client-id" not in said


async def test_handshakes_that_do_not_end(guarded: tuple[Target, ssl.SSLContext]) -> None:
    """Row: cancelled TLS handshake."""
    target, _ = guarded
    before = target.descriptors()
    async with target.under_attack("tls_timeout", "tls_reset", versions=(Honest1,)):
        await attacks.half_handshakes(target.inbound, 1.5, 50)
    wait_until(lambda: target.descriptors() <= before + 2, "their sockets are closed")


PATHS = [
    *("/a%2Fb", "/a%5Cb", "/a%00b", "/a/../b", "/a/./b", "//a//b", "/%2e%2e/b", "/a;x=1/b", "/a?b=/../c&d=%2f"),
    *("/%41", "/a%zz", "/a/", "/~a", "/a%c3%a9", "/a\\b"),
]


async def test_paths_are_forwarded_as_they_came(target: Target) -> None:
    """Row: path tricks against policy (what was judged is what is forwarded, byte for byte)."""
    for path in PATHS:
        line = f"GET {path} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n".encode()
        await trio.to_thread.run_sync(say, target.inbound, line)
    heard = [head.split(" ")[1] for head in await trio.to_thread.run_sync(target.heard)]
    assert heard == PATHS
    data = attacks.GREETING + b"".join(frames.get(2 * at + 1, path.encode()) for at, path in enumerate(PATHS))
    streamed: list[str] = []
    with socket.create_connection(("127.0.0.1", target.inbound), timeout=30) as sock:
        sock.sendall(data)
        with trio.fail_after(30):
            while len(streamed) < len(PATHS):
                streamed += [head.split(" ")[1] for head in await trio.to_thread.run_sync(target.heard)]
                await trio.sleep(0.02)
    assert sorted(streamed) == sorted(PATHS)  # over as many connections as there are streams


def test_logs_are_json(plain: Target) -> None:
    """Row: logs (one JSON object a line, whatever a peer says)."""
    say(plain.inbound, b"GET /evil\x1b[31m\r\nfake: line\r\n\r\n")
    say(plain.outbound, b"GET /evil HTTP/1.1\r\nhost: web\x1b]0;x\x07\r\n\r\n")
    for line in plain.sidecar.handle.stderr.read_bytes().splitlines():
        json.loads(line)
        assert b"\x1b" not in line
    assert plain.sidecar.handle.stdout.read_bytes() == b""


def test_nobody_reads_the_log(free_port: Callable[[], int], origin: int, tmp_path: Path) -> None:
    """Row: logs (a blocked stdout does not block the proxy)."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    admin, port = free_port(), free_port()
    config = {
        "admin": f"127.0.0.1:{admin}",
        "outbound": [{"listen": f"127.0.0.1:{port}", "service": "web"}],
        "services": {"web": {"endpoints": [f"127.0.0.1:{origin}"]}},
        "limits": {"drain_timeout": 1, "drain_grace": 0},
    }
    path = tmp_path / "proxy.yaml"
    path.write_text(yaml.safe_dump(config))
    argv = [str(CONDUIT), "proxy", "--config", str(path)]
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing) as process:
        try:
            wait_until(lambda: serves(port), "it serves")
            process.terminate()  # which it would log
            assert process.wait(20) == 0
        finally:
            process.kill()
            os.close(reading)
            os.close(writing)


def serves(port: int) -> bool:
    try:
        return say(port, b"GET /ok HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").endswith(b"ok")
    except OSError:
        return False


def test_the_admin_port_changes_nothing(plain: Target) -> None:
    """Row: admin port (GET and HEAD only, nothing there has an effect)."""
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/", "/ready", "/live", "/metrics", "/tasks", "/shutdown", "/drain"):
            assert plain.sidecar.ask(path, method)[0] == 405
    for path in ("/shutdown", "/drain", "/quitquitquit", "/config", "/%2e%2e/"):
        assert plain.sidecar.ask(path)[0] == 404
    assert plain.sidecar.ask("/ready")[0] == 200


def test_the_admin_port_is_for_this_machine(plain: Target) -> None:
    """Row: admin port (loopback)."""
    assert listening_on(plain.sidecar.handle.pid, plain.sidecar.admin) == {"0100007F"}


def listening_on(pid: int, port: int) -> set[str]:
    """Local addresses, in hex as proc(5) has them, of sockets that listen on a port."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    local = [line.split()[1].split(":") for line in lines if line.split()[3] == "0A"]
    return {address for address, number in local if int(number, 16) == port}


def test_the_admin_port_under_attack(plain: Target) -> None:
    """Row: admin port (what is no request there is refused, and others are answered meanwhile)."""
    waiting = [socket.create_connection(("127.0.0.1", plain.sidecar.admin), timeout=10) for _ in range(8)]
    try:
        for sock in waiting:
            sock.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert plain.sidecar.ask("/ready")[0] == 200
        with socket.create_connection(("127.0.0.1", plain.sidecar.admin), timeout=10) as sock:
            sock.sendall(b"GET /ready HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
            assert hear(sock).startswith(b"HTTP/1.1 400")
    finally:
        for sock in waiting:
            sock.close()
