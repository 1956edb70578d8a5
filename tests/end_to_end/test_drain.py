"""SIGTERM under load: the proxy tells its clients, finishes what it has begun, and exits with 0."""

import itertools
import signal
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import h2.events
import pytest

from tests.conftest import accepts
from tests.end_to_end import grpc_server
from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.h2load import command, parse
from tests.end_to_end.http2_peer import Http2Client
from tests.end_to_end.nginx import Nginx
from tests.end_to_end.scale import DRAIN_SECONDS
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_head, read_until_eof, serving

pytestmark = pytest.mark.timeout(120)

SECONDS = 30
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


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
def test_h2load_gets_all_that_the_application_answered(proxy: Starter, version: str) -> None:
    """h2load does not come back after a goodbye, but no request that had reached the application is lost."""
    seen = itertools.count()

    def handle(sock: socket.socket) -> None:
        rest = b""
        while True:
            _, rest = read_head(sock, rest)
            next(seen)
            sock.sendall(OK)

    with serving(handle) as server:
        sidecar = proxy({"web": service(server.port, protocol="http1")})
        streams = 1 if version == "http1" else 8
        argv = command(sidecar.url("web"), version, requests=10_000_000, clients=8, streams=streams)
        with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as load:
            wait_until(lambda: sidecar.total("request_total") > 2000, "the load is on")
            sidecar.handle.send_signal(signal.SIGTERM)
            assert sidecar.handle.wait(SECONDS) == 0, sidecar.handle.output()
            output, _ = load.communicate(timeout=SECONDS)
    counts = parse(output)
    assert counts.good == next(seen), output
    assert counts.succeeded == counts.good
    assert counts.started - counts.done == 0, output


@pytest.mark.parametrize("version", VERSIONS)
def test_a_long_answer_is_finished(proxy: Starter, version: str) -> None:
    """A request under way at SIGTERM gets its whole answer, however long after; the proxy is unready meanwhile."""
    go = threading.Event()
    asked = threading.Event()

    def handle(sock: socket.socket) -> None:
        read_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf")
        asked.set()
        go.wait(SECONDS)
        sock.sendall(b"half")

    with serving(handle) as server, ThreadPoolExecutor(1) as pool:
        sidecar = proxy({"web": service(server.port, protocol="http1")})
        answer = pool.submit(curl, sidecar.url("web"), VERSIONS[version])
        assert asked.wait(SECONDS)
        sidecar.handle.send_signal(signal.SIGTERM)
        wait_until(lambda: sidecar.ask("/ready") == (503, "not ready: draining\n"), "it says that it drains")
        assert sidecar.ask("/live")[0] == 200
        wait_until(lambda: not accepts(sidecar.ports["web"]), "it takes no new connections")
        time_to_go = time.monotonic() + 1.5  # longer than it waits for clients that are idle
        wait_until(lambda: time.monotonic() > time_to_go, "the idle ones are gone")
        assert sidecar.handle.returncode is None
        go.set()
        assert answer.result(SECONDS).body == b"halfhalf"
        assert sidecar.handle.wait(SECONDS) == 0


def test_a_tunnel_may_end_by_itself(proxy: Starter, echo_server: TcpServer) -> None:
    """Raw connections and websockets know no goodbye: they go on until their ends end them."""
    sidecar = proxy({"echo": service(echo_server.port, protocol="opaque")})
    with socket.create_connection(("127.0.0.1", sidecar.ports["echo"]), timeout=SECONDS) as sock:
        sock.sendall(b"before")
        assert sock.recv(6, socket.MSG_WAITALL) == b"before"
        sidecar.handle.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(sidecar.ports["echo"]), "it takes no new connections")
        sock.sendall(b"after")
        assert sock.recv(5, socket.MSG_WAITALL) == b"after"
        assert sidecar.handle.returncode is None
    assert sidecar.handle.wait(SECONDS) == 0


def test_idle_clients_do_not_keep_it(proxy: Starter, nginx: Nginx) -> None:
    """Connections that are silent, or have nothing under way, are closed; HTTP/2 ones with GOAWAY first."""
    sidecar = proxy({"web": service(nginx.http1, protocol="http1")})
    address = ("127.0.0.1", sidecar.ports["web"])
    with (
        socket.create_connection(address, timeout=SECONDS) as silent,
        socket.create_connection(address, timeout=SECONDS) as asked,
    ):
        asked.sendall(b"GET /small HTTP/1.1\r\nHost: web\r\n\r\n")
        assert asked.recv(65536).startswith(b"HTTP/1.1 200")
        second = Http2Client(sidecar.ports["web"])
        second.request("/small")
        while not any(isinstance(event, h2.events.StreamEnded) for event in second.receive()):
            assert not second.lost
        sidecar.handle.send_signal(signal.SIGTERM)
        said: list[h2.events.Event] = []
        while not second.lost:
            said += second.receive()
        second.close()
        assert [type(event) for event in said][:1] == [h2.events.ConnectionTerminated]
        assert read_until_eof(asked) == b""
        assert read_until_eof(silent) == b""
        assert sidecar.handle.wait(SECONDS) == 0


def test_a_second_signal_ends_it_at_once(proxy: Starter, echo_server: TcpServer) -> None:
    """Whoever cannot wait signals twice."""
    sidecar = proxy({"echo": service(echo_server.port, protocol="opaque")})
    with socket.create_connection(("127.0.0.1", sidecar.ports["echo"]), timeout=SECONDS) as sock:
        sock.sendall(b"word")
        assert sock.recv(4, socket.MSG_WAITALL) == b"word"
        sidecar.handle.send_signal(signal.SIGTERM)
        wait_until(lambda: sidecar.ask("/ready")[0] == 503, "it has begun to drain")
        sidecar.handle.send_signal(signal.SIGTERM)
        sidecar.handle.wait(SECONDS)
        assert sock.recv(1) == b""


def test_what_lasts_too_long_is_cut_off(proxy: Starter, echo_server: TcpServer) -> None:
    """Draining has an end: `limits.drain_timeout`."""
    sidecar = proxy({"echo": service(echo_server.port, protocol="opaque")}, limits={"drain_timeout": 0.5})
    with socket.create_connection(("127.0.0.1", sidecar.ports["echo"]), timeout=SECONDS) as sock:
        sock.sendall(b"word")
        assert sock.recv(4, socket.MSG_WAITALL) == b"word"
        sidecar.handle.send_signal(signal.SIGTERM)
        assert sidecar.handle.wait(SECONDS) == 0
        assert sock.recv(1) == b""


@pytest.mark.parametrize("version", VERSIONS)
def test_requests_while_it_drains_are_still_served(proxy: Starter, nginx: Nginx, version: str) -> None:
    """For `limits.drain_grace` new connections are taken: whoever has not heard yet is served."""
    sidecar = proxy({"web": service(nginx.http1, protocol="http1")}, limits={"drain_grace": 1.5})
    sidecar.handle.send_signal(signal.SIGTERM)
    wait_until(lambda: sidecar.ask("/ready")[0] == 503, "it has begun to drain")
    assert curl(sidecar.url("web", "/small"), VERSIONS[version]).status == 200
    assert sidecar.handle.wait(SECONDS) == 0
