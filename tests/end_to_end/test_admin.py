"""The admin port: metrics that count exactly what was sent, readiness, the live tree."""

import socket
from collections.abc import Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end import grpc_server
from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.h2load import h2load
from tests.end_to_end.nginx import SMALL, Nginx
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_until_eof


@pytest.fixture
def sidecar(proxy: Starter, nginx: Nginx, grpc_port: int, echo_server: TcpServer) -> Sidecar:
    """A proxy that nobody else uses."""
    return proxy(
        {
            "web": service(nginx.http1, protocol="http1"),
            "calls": service(grpc_port),
            "echo": service(echo_server.port, protocol="opaque"),
        },
        inbound=[{"forward": f"127.0.0.1:{nginx.http1}", "service": "mine"}],
    )


def counts_become(sidecar: Sidecar, number: float, name: str, **labels: str) -> None:
    """The sum becomes the number and, all being counted, is not more."""
    wait_until(lambda: sidecar.total(name, **labels) >= number, f"{name} {labels}")
    assert sidecar.total(name, **labels) == number


def test_requests_are_counted_by_status(sidecar: Sidecar) -> None:
    """Each request is counted once, under its status, direction, protocol and classification."""
    for path, times in (("/small", 5), ("/missing", 3), ("/broken", 2)):
        for version in VERSIONS.values():
            for _ in range(times):
                curl(sidecar.url("web", path), version)
    curl(f"http://127.0.0.1:{sidecar.inbound[0]}/small")
    web = {"direction": "outbound", "authority": "web"}
    for name in ("request_total", "response_total", "response_latency_ms_count"):
        for version in VERSIONS:
            counts_become(sidecar, 5, name, status_code="200", classification="success", protocol=version, **web)
            counts_become(sidecar, 3, name, status_code="404", classification="success", protocol=version, **web)
            counts_become(sidecar, 2, name, status_code="500", classification="failure", protocol=version, **web)
        counts_become(sidecar, 20, name, **web)
        counts_become(sidecar, 1, name, direction="inbound", authority="mine", tls="disabled")
        counts_become(sidecar, 21, name)
    counts_become(sidecar, 0, "conduit_refused_total")


def test_grpc_is_counted_by_its_own_status(sidecar: Sidecar) -> None:
    """A call that fails with HTTP 200 is counted with its grpc-status, as success or failure as linkerd classifies."""
    with grpc_server.channel(sidecar.ports["calls"]) as channel:
        grpc_server.stub(channel, "Unary")(b"x", timeout=30)
        for code, times in (("NOT_FOUND", 2), ("UNAVAILABLE", 3)):
            for _ in range(times):
                future = grpc_server.stub(channel, "Fail").future(code.encode(), timeout=30)
                assert future.exception(timeout=30) is not None
    calls = {"authority": "calls", "protocol": "grpc", "status_code": "200"}
    counts_become(sidecar, 1, "request_total", grpc_status="0", classification="success", **calls)
    counts_become(sidecar, 2, "request_total", grpc_status="5", classification="success", **calls)
    counts_become(sidecar, 3, "request_total", grpc_status="14", classification="failure", **calls)


def test_connections_and_bytes_are_counted(sidecar: Sidecar) -> None:
    """tcp_open, tcp_close and the gauge agree; a tunnel's bytes are exact."""
    with socket.create_connection(("127.0.0.1", sidecar.ports["echo"]), timeout=30) as sock:
        sock.sendall(b"x" * 5000)
        assert sock.recv(5000, socket.MSG_WAITALL) == b"x" * 5000
        counts_become(sidecar, 1, "tcp_open_connections", direction="outbound", authority="echo")
        sock.shutdown(socket.SHUT_WR)
        read_until_eof(sock)
    counts_become(sidecar, 1, "tcp_close_total", direction="outbound", authority="echo")
    assert sidecar.total("tcp_open_total", direction="outbound", authority="echo") == 1
    assert sidecar.total("tcp_open_connections", direction="outbound", authority="echo") == 0
    assert sidecar.total("tcp_read_bytes_total", authority="echo") == 5000
    assert sidecar.total("tcp_write_bytes_total", authority="echo") == 5000


def test_a_cancelled_request_is_counted_as_such(sidecar: Sidecar) -> None:
    """The client's own leaving is its own outcome."""
    for waiting in (grpc_server.entered, grpc_server.left):  # of calls that other tests have made
        while not waiting.empty():
            waiting.get()
    with grpc_server.channel(sidecar.ports["calls"]) as channel:
        call = grpc_server.stub(channel, "Hold").future(b"")
        grpc_server.entered.get(timeout=30)
        call.cancel()
        grpc_server.left.get(timeout=30)
    counts_become(sidecar, 1, "request_total", authority="calls", outcome="client_cancelled")


def test_load_is_counted_to_the_last_request(sidecar: Sidecar) -> None:
    """Ten thousand requests are ten thousand; the histogram's buckets add up."""
    h2load(sidecar.url("web", "/small"), "http2", requests=10_000, clients=8, streams=8)
    counts_become(sidecar, 10_000, "request_total", authority="web", status_code="200")
    assert sidecar.total("response_latency_ms_bucket", authority="web", le="+Inf") == 10_000
    assert sidecar.total("response_latency_ms_count", authority="web") == 10_000
    assert sidecar.total("response_latency_ms_sum", authority="web") > 0


def test_the_exposition_is_whole(sidecar: Sidecar) -> None:
    """It parses, each counter family ends in _total, buckets never decrease, and the process is measured too."""
    curl(sidecar.url("web", "/small"))
    counts_become(sidecar, 1, "request_total")
    families = {family.name: family for family in text_string_to_metric_families(sidecar.ask("/metrics")[1])}
    assert {"request", "response", "response_latency_ms", "tcp_open", "tcp_open_connections"} <= families.keys()
    assert "process_resident_memory_bytes" in families
    buckets = [s.value for s in families["response_latency_ms"].samples if s.name.endswith("_bucket")]
    assert buckets == sorted(buckets)


def test_probes(sidecar: Sidecar) -> None:
    """/live and /ready say yes; what does not exist is 404, what would change something 405."""
    assert sidecar.ask("/live") == (200, "live\n")
    assert sidecar.ask("/ready") == (200, "ready\n")
    assert sidecar.ask("/nothing")[0] == 404
    assert sidecar.ask("/tasks", "POST")[0] == 405


def test_the_tree_is_live(sidecar: Sidecar) -> None:
    """/tasks shows the parts, a line for each connection while it lives, and none after it."""
    parts = [line.strip() for line in sidecar.tasks()]
    for name in ("reactor", "deadlines", "upstreams", "admin"):
        assert name in parts
    assert f"outbound 127.0.0.1:{sidecar.ports['web']}" in parts
    with socket.create_connection(("127.0.0.1", sidecar.ports["web"]), timeout=30) as sock:
        line = "connection {}:{}".format(*sock.getsockname())

        def shown() -> list[str]:
            return [one for one in sidecar.tasks() if line in one]

        wait_until(shown, "the connection is shown")
        tree = sidecar.tasks()
        below = tree.index(next(one for one in tree if one.endswith(f"outbound 127.0.0.1:{sidecar.ports['web']}")))
        assert tree[below + 1].strip().startswith(line)
    wait_until(lambda: not shown(), "the connection is gone")
    assert curl(sidecar.url("web", "/small")).body == SMALL.encode().rstrip(b"\n") + b"\n"
    parts = [one.strip() for one in sidecar.tasks()]
    assert "web" in parts
    assert [part for part in parts if part.startswith("connection 1")]


def test_a_bad_file_is_refused(proxy: Starter, free_port: Callable[[], int]) -> None:
    """A proxy.yaml with a mistake ends at once with file, line and field, and nothing listens."""
    path = proxy.folder / "bad.yaml"
    path.write_text(f"admin: 127.0.0.1:{free_port()}\nservices:\n  web:\n    protocool: http2\n")
    handle = proxy.run([proxy.conduit, "proxy", "--config", path])
    assert handle.wait(30) in {1, 2}
    words = handle.output()
    assert "bad.yaml" in words
    assert "protocool" in words
    assert "4" in words
    assert "Traceback" not in words
