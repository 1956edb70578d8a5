"""SIGTERM under load: the proxy tells its clients, finishes what it has begun, and exits with 0."""

import http.client
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable

import grpc
import h2.events
import pytest

from tests.end_to_end import grpc_server
from tests.end_to_end.http1_peer import http1_serving
from tests.end_to_end.http2_peer import Http2Client
from tests.end_to_end.h2load import command
from tests.end_to_end.nginx import Nginx
from tests.end_to_end.scale import DRAIN_SECONDS, FULL
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_head, read_until_eof, serving

pytestmark = pytest.mark.timeout(120 if FULL else 60)

SECONDS = 20
GOODBYES = (ConnectionRefusedError, ConnectionResetError)


class Load(threading.Thread):
    """Asks until it is told to stop. `failures` must stay empty; `answered` counts by target."""

    def __init__(self, targets: list[int]) -> None:
        super().__init__(daemon=True)
        self.targets = targets
        self.answered = dict.fromkeys(targets, 0)
        self.failures: list[str] = []
        self.stop = threading.Event()

    def run(self) -> None:
        try:
            self.work()
        except Exception as exc:  # the test asserts that there was none
            self.failures.append(f"{exc!r} at {time.monotonic():.3f}")

    def work(self) -> None:
        raise NotImplementedError


class Http1Load(Load):
    """A keep-alive client that honours Connection: close, and goes to the next target when one refuses to connect."""

    def work(self) -> None:
        while not self.stop.is_set():
            try:
                sock = socket.create_connection(("127.0.0.1", self.targets[0]), timeout=SECONDS)
            except ConnectionRefusedError:
                self.targets = self.targets[1:]
                continue
            with sock:
                self._keep_asking(sock)

    def _keep_asking(self, sock: socket.socket) -> None:
        buffer = b""
        while not self.stop.is_set():
            sock.sendall(b"GET /small HTTP/1.1\r\nHost: web\r\n\r\n")
            head, buffer = read_head(sock, buffer)
            lower = head.lower()
            length = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
            while len(buffer) < length:
                data = sock.recv(65536)
                if not data:
                    raise ConnectionError("the body broke off")
                buffer += data
            buffer = buffer[length:]
            if not lower.startswith(b"http/1.1 200"):
                raise ConnectionError(head.decode())
            self.answered[self.targets[0]] += 1
            if b"\r\nconnection: close" in lower:
                return


class GrpcLoad(Load):
    """A grpcio client with both targets, the first preferred: GOAWAY has it move to the second."""

    def work(self) -> None:
        addresses = ",".join(f"127.0.0.1:{port}" for port in self.targets)
        with grpc_server.channel(f"ipv4:{addresses}", ("grpc.default_authority", "calls")) as channel:
            call = grpc_server.stub(channel, "Unary")
            while not self.stop.is_set():
                if call(b"word", timeout=SECONDS) != b"word":
                    raise AssertionError("another word")
                self.answered[self.targets[0]] += 1


def drained(sidecar: Sidecar, loads: list[Load]) -> None:
    """Signal the proxy under load, wait for its end, stop the load: nothing failed, and it went well."""
    for load in loads:
        load.start()
    wait_until(lambda: all(load.failures or sum(load.answered.values()) > 50 for load in loads), "the load is on")
    assert [load.failures for load in loads if load.failures] == []
    time_of_load = time.monotonic() + DRAIN_SECONDS
    wait_until(lambda: time.monotonic() > time_of_load, "the load has gone on", DRAIN_SECONDS + SECONDS)
    sidecar.handle.send_signal(signal.SIGTERM)
    print(f"signal at {time.monotonic():.3f}")
    assert sidecar.handle.wait(SECONDS) == 0, sidecar.handle.output()
    print(f"gone at {time.monotonic():.3f}")
    marks = [sum(load.answered.values()) for load in loads]
    wait_until(
        lambda: all(
            load.failures or sum(load.answered.values()) > mark + 20 for load, mark in zip(loads, marks, strict=True)
        ),
        "the load goes on elsewhere",
    )
    for load in loads:
        load.stop.set()
    for load in loads:
        load.join(SECONDS)
    assert [load.failures for load in loads if load.failures] == []
    assert "Traceback" not in sidecar.handle.output()


def test_keep_alive_clients_do_not_notice(proxy: Starter, nginx: Nginx) -> None:
    """Eight clients that honour Connection: close lose no request when their proxy drains and another is there."""
    services = {"web": service(nginx.http1, protocol="http1")}
    going, staying = proxy(services), proxy(services)
    drained(going, [Http1Load([going.ports["web"], staying.ports["web"]]) for _ in range(8)])


def test_grpc_clients_do_not_notice(proxy: Starter, grpc_port: int) -> None:
    """grpcio honours GOAWAY: no call fails."""
    services = {"calls": service(grpc_port)}
    going, staying = proxy(services), proxy(services)
    drained(going, [GrpcLoad([going.ports["calls"], staying.ports["calls"]]) for _ in range(4)])


@pytest.mark.parametrize("version", ["http1", "http2"])
def test_h2load_gets_all_it_has_asked_for(proxy: Starter, nginx: Nginx, version: str) -> None:
    """h2load does not come back after a goodbye, but every request that it had started was answered."""
    sidecar = proxy({"web": service(nginx.http1 if version == "http1" else nginx.http2, protocol=version)})
    argv = command(sidecar.url("web", "/small"), version, requests=10_000_000, clients=8, streams=1 if version == "http1" else 8)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as load:
        wait_until(lambda: sidecar.total("request_total") > 5000, "the load is on")
        sidecar.handle.send_signal(signal.SIGTERM)
        assert sidecar.handle.wait(SECONDS) == 0, sidecar.handle.output()
        output, _ = load.communicate(timeout=SECONDS)
    print(output)
