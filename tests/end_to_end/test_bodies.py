"""Big bodies and slow readers: every byte arrives, and the proxy holds almost none of them."""

import hashlib
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.curl import VERSIONS
from tests.end_to_end.http1_peer import Http1Server, http1_serving
from tests.end_to_end.http2_peer import Http2Server, http2_serving
from tests.end_to_end.nginx import Nginx
from tests.end_to_end.scale import BODY_BYTES, FULL
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, serving

pytestmark = pytest.mark.timeout(300 if FULL else 120)

MOST_GROWTH = 16 * 1024 * 1024
SECONDS = 240
BLOCK = 1 << 20


def blocks(count: int = BODY_BYTES // BLOCK) -> Iterator[bytes]:
    """The body, block by block; no two blocks are the same."""
    noise = hashlib.shake_256(b"noise").digest(BLOCK - 8)
    for number in range(count):
        yield number.to_bytes(8, "big") + noise


@pytest.fixture(scope="module")
def digest() -> str:
    """Of the body."""
    whole = hashlib.sha256()
    for block in blocks():
        whole.update(block)
    return whole.hexdigest()


@pytest.fixture(scope="module")
def big(nginx: Nginx) -> Iterator[Path]:
    """The body as a file that nginx serves."""
    path = nginx.files / "big"
    with path.open("wb") as file:
        file.writelines(blocks())
    yield path
    path.unlink()


@pytest.fixture(scope="module")
def http1() -> Iterator[Http1Server]:
    """Digests uploads."""
    with http1_serving() as server:
        yield server


@pytest.fixture(scope="module")
def http2() -> Iterator[Http2Server]:
    """Digests uploads."""
    with http2_serving() as server:
        yield server


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, nginx: Nginx, http1: Http1Server, http2: Http2Server) -> Sidecar:
    """A proxy before nginx and before the two that digest uploads, each in its protocol."""
    ports = {"nginx": (nginx.http1, nginx.http2), "peer": (http1.tcp.port, http2.tcp.port)}
    return shared_proxy(
        {
            f"{name}-{protocol}": service(port, protocol=protocol)
            for name, pair in ports.items()
            for protocol, port in zip(VERSIONS, pair, strict=True)
        }
    )


class Memory:
    """What a proxy's memory grows by, at its peak, in the block that this is entered for."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar = sidecar

    def __enter__(self) -> None:
        self._sidecar.forget_peak()
        self._before = self._sidecar.memory()

    def __exit__(self, kind: object, *_: object) -> None:
        grown = self._sidecar.memory("VmHWM") - self._before
        print(f"RSS {self._before >> 10} KiB, grew by {grown >> 10} KiB at most")
        if kind is None:
            assert grown < MOST_GROWTH


def start_curl(version: str, *options: str | Path, **pipes: int) -> subprocess.Popen[bytes]:
    """A curl of this version; the caller waits for it."""
    argv = ["curl", "--silent", "--show-error", "--noproxy", "*", VERSIONS[version], "--max-time", str(SECONDS)]
    return subprocess.Popen([*argv, *map(str, options)], **pipes)


@pytest.mark.parametrize("upstream", ["http1", "http2"])
@pytest.mark.parametrize("client", VERSIONS)
def test_down_to_a_slow_reader(sidecar: Sidecar, big: Path, digest: str, client: str, upstream: str) -> None:
    """The client reads nothing until all that waits for it stands still, and then everything."""
    name = f"nginx-{upstream}"
    with start_curl(client, sidecar.url(name, "/small"), stdout=subprocess.PIPE) as warm:
        warm.communicate(timeout=SECONDS)
    whole = hashlib.sha256()
    with Memory(sidecar), start_curl(client, sidecar.url(name, "/big"), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        whole.update(reader.stdout.read(1000))  # curl stops reading when its pipe is full
        sidecar.wait_until_quiet()
        while data := reader.stdout.read(BLOCK):
            whole.update(data)
        assert reader.wait(SECONDS) == 0
    assert whole.hexdigest() == digest


@pytest.mark.parametrize("upstream", ["http1", "http2"])
@pytest.mark.parametrize("client", VERSIONS)
def test_up_to_a_slow_reader(
    sidecar: Sidecar,
    http1: Http1Server,
    http2: Http2Server,
    big: Path,
    digest: str,
    client: str,
    upstream: str,
) -> None:
    """The application reads nothing until all that waits for it stands still, and then everything."""
    server = http1 if upstream == "http1" else http2
    name = f"peer-{upstream}"
    with start_curl(client, sidecar.url(name, "/ok"), stdout=subprocess.PIPE) as warm:
        warm.communicate(timeout=SECONDS)
    while not server.events.empty():
        server.events.get()
    options = ("-X", "POST", "-H", "Expect:", "-T", big)
    with Memory(sidecar), start_curl(client, *options, sidecar.url(name, "/upload"), stdout=subprocess.PIPE) as writer:
        server.events.get(timeout=SECONDS)
        server.gate.clear()
        try:
            sidecar.wait_until_quiet()
        finally:
            server.gate.set()
        answer, _ = writer.communicate(timeout=SECONDS)
    assert answer.decode() == digest


@pytest.mark.parametrize("upstream", ["http1", "http2"])
@pytest.mark.parametrize("client", VERSIONS)
def test_nginx_keeps_an_upload(sidecar: Sidecar, nginx: Nginx, client: str, upstream: str) -> None:
    """What is uploaded without a known length is what nginx then has on its disk."""
    kept = nginx.files / "put" / f"{client}-{upstream}"
    with (
        Memory(sidecar),
        start_curl(
            client, "-T", "-", sidecar.url(f"nginx-{upstream}", f"/put/{kept.name}"), stdin=subprocess.PIPE
        ) as writer,
    ):
        assert writer.stdin is not None
        for block in blocks(BODY_BYTES // BLOCK // 4):
            writer.stdin.write(block)
        writer.stdin.close()
        assert writer.wait(SECONDS) == 0
    wanted = hashlib.sha256()
    for block in blocks(BODY_BYTES // BLOCK // 4):
        wanted.update(block)
    with kept.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").digest() == wanted.digest()
    kept.unlink()


def test_opaque_both_ways(proxy: Starter, digest: str) -> None:
    """Raw bytes up to an application that reads nothing at first, and down to a client that reads nothing at first."""
    gate = threading.Event()
    digests: list[str] = []

    def handle(sock: socket.socket) -> None:
        sock.settimeout(SECONDS)
        whole = hashlib.sha256()
        gate.wait(SECONDS)
        while data := sock.recv(BLOCK):
            whole.update(data)
        digests.append(whole.hexdigest())
        for block in blocks():
            sock.sendall(block)

    with serving(handle) as server:
        sidecar = proxy({"raw": service(server.port, protocol="opaque")})
        with Memory(sidecar), socket.create_connection(("127.0.0.1", sidecar.ports["raw"]), timeout=SECONDS) as sock:

            def send() -> None:
                for block in blocks():
                    sock.sendall(block)
                sock.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send)
            sender.start()
            sidecar.wait_until_quiet()
            gate.set()
            sender.join()
            sidecar.wait_until_quiet()
            whole = hashlib.sha256()
            while data := sock.recv(BLOCK):
                whole.update(data)
    assert digests == [digest]
    assert whole.hexdigest() == digest


def test_a_slow_reader_does_not_stop_the_others(sidecar: Sidecar, big: Path) -> None:
    """While one client of a shared HTTP/2 connection to nginx reads nothing, requests of others are answered."""
    with start_curl("http2", sidecar.url("nginx-http2", "/big"), stdout=subprocess.PIPE) as slow:
        assert slow.stdout is not None
        slow.stdout.read(1000)
        sidecar.wait_until_quiet()
        for version in VERSIONS:
            with start_curl(version, sidecar.url("nginx-http2", "/small"), stdout=subprocess.PIPE) as quick:
                assert quick.communicate(timeout=50)[0].startswith(b"conduit")
        slow.kill()


def test_a_reader_that_never_reads_to_the_end_is_forgotten(proxy: Starter) -> None:
    """A client that stops reading and goes leaves nothing behind, although bytes were waiting for it."""

    def handle(sock: socket.socket) -> None:
        for block in blocks():
            sock.sendall(block)

    server = TcpServer(handle)
    try:
        sidecar = proxy({"raw": service(server.port, protocol="opaque")})
        before = sidecar.tasks()
        with socket.create_connection(("127.0.0.1", sidecar.ports["raw"]), timeout=20) as sock:
            assert sock.recv(1) == b"\0"
            sidecar.wait_until_quiet()
        wait_until(lambda: server.open == 0, "the application's connection is gone")
        wait_until(lambda: sidecar.tasks() == before, "the proxy has forgotten it")
    finally:
        server.close()
