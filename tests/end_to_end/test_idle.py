"""Idle connections cost little memory, whatever they have done before."""

import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import h2.config
import h2.connection
import pytest

from tests.end_to_end.nginx import Nginx
from tests.end_to_end.scale import FULL, IDLE_CONNECTIONS
from tests.end_to_end.sidecar import Starter, service, wait_until

pytestmark = pytest.mark.timeout(300 if FULL else 120)

MOST_EACH = 30 * 1024
WARM_UP = 20


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """This process is the other end of all of them."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = IDLE_CONNECTIONS + 1000
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(hard, wanted)))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def http2_opening() -> bytes:
    """What a client sends to open a connection and ask for /small; every connection may send the same."""
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    connection.send_headers(
        1, [(":method", "GET"), (":scheme", "http"), (":authority", "web"), (":path", "/small")], end_stream=True
    )
    return connection.data_to_send()


OPENINGS = {
    "http1-asked": (b"GET /small HTTP/1.1\r\nHost: web\r\n\r\n", b"conduit \n"),
    "http2-asked": (http2_opening(), b"conduit \n"),
    "silent": (b"", b""),
}


@pytest.mark.parametrize("opening", OPENINGS)
def test_idle_connections_are_small(proxy: Starter, nginx: Nginx, opening: str) -> None:
    """Connections that have asked something, or never said a word, take under 30 KB of the proxy's memory each."""
    limits = {"connections": IDLE_CONNECTIONS + 2 * WARM_UP, "detect_timeout": 60.0}
    sidecar = proxy({"web": service(nginx.http1, protocol="http1")}, limits=limits)
    words, ending = OPENINGS[opening]
    with ExitStack() as stack:

        def connect() -> None:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", sidecar.ports["web"]), timeout=20))
            sock.sendall(words)
            answer = b""
            while not answer.endswith(ending):
                data = sock.recv(65536)
                assert data, answer
                answer += data

        for _ in range(WARM_UP):
            connect()
        sidecar.wait_until_quiet()
        sidecar.tasks()  # the admin port has its memory now
        before = sidecar.memory()
        for _ in range(IDLE_CONNECTIONS):
            connect()

        def accepted() -> bool:
            lines = [line for line in sidecar.tasks() if line.strip().startswith("connection 127")]
            return len(lines) == WARM_UP + IDLE_CONNECTIONS

        wait_until(accepted, "all connections are open")
        each = (sidecar.memory() - before) / IDLE_CONNECTIONS
        print(f"{IDLE_CONNECTIONS} connections, {each / 1024:.1f} KiB each")
        assert each < MOST_EACH
    wait_until(lambda: not [line for line in sidecar.tasks() if line.strip().startswith("connection 127")], "all gone")
