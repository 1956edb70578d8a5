"""Load in every mode: no request fails, not even while the application keeps closing its connections."""

from pathlib import Path

import pytest

from tests.end_to_end.h2load import h2load
from tests.end_to_end.nginx import Nginx
from tests.end_to_end.scale import FULL, REQUESTS
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until

pytestmark = pytest.mark.timeout(300 if FULL else 120)

SHAPES = {"http1": (32, 1), "http2": (16, 16)}


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, nginx: Nginx) -> Sidecar:
    """nginx twice in each protocol: one that keeps connections, one that closes each after 100 requests."""
    return shared_proxy(
        {
            "http1": service(nginx.http1, protocol="http1"),
            "http2": service(nginx.http2, protocol="http2"),
            "http1-short": service(nginx.http1_short, protocol="http1"),
            "http2-short": service(nginx.http2_short, protocol="http2"),
        },
        inbound=[{"forward": f"127.0.0.1:{nginx.http1}"}, {"forward": f"127.0.0.1:{nginx.http2}"}],
    )


def check(sidecar: Sidecar, port: int, client: str, clients: int, streams: int, requests: int = REQUESTS) -> None:
    """All are answered with 200, and all are counted."""
    before = sidecar.total("request_total", status_code="200", outcome="completed")
    load = h2load(f"http://127.0.0.1:{port}/small", client, requests=requests, clients=clients, streams=streams)
    assert (load.succeeded, load.good, load.failed) == (requests, requests, 0), load.output
    wait_until(
        lambda: sidecar.total("request_total", status_code="200", outcome="completed") == before + requests,
        "all requests are counted",
    )


@pytest.mark.parametrize("upstream", ["http1", "http2", "http1-short", "http2-short"])
@pytest.mark.parametrize("client", SHAPES)
def test_no_request_fails(sidecar: Sidecar, client: str, upstream: str) -> None:
    """Each version on either side; with GOAWAY or Connection: close by nginx after each 100 requests, or not."""
    check(sidecar, sidecar.ports[upstream], client, *SHAPES[client])


def test_no_request_fails_on_one_connection(sidecar: Sidecar) -> None:
    """64 connections of one stream each, one of 200 streams: the extremes of sharing."""
    check(sidecar, sidecar.ports["http2-short"], "http2", 64, 1, REQUESTS // 4)
    check(sidecar, sidecar.ports["http2-short"], "http2", 1, 200, REQUESTS // 4)


@pytest.mark.parametrize("client", SHAPES)
def test_no_request_fails_inbound(sidecar: Sidecar, client: str) -> None:
    """The inbound listener, which speaks what it is spoken to."""
    port = sidecar.inbound[0 if client == "http1" else 1]
    check(sidecar, port, client, *SHAPES[client], REQUESTS // 4)


@pytest.mark.parametrize("upstream", ["http1", "http2"])
@pytest.mark.parametrize("client", SHAPES)
def test_no_upload_fails(sidecar: Sidecar, tmp_path: Path, client: str, upstream: str) -> None:
    """Posts of 20 kB, which do not fit one frame."""
    (tmp_path / "body").write_bytes(b"x" * 20_000)
    clients, streams = SHAPES[client]
    requests = REQUESTS // 20
    load = h2load(
        sidecar.url(upstream, "/small"),
        client,
        requests=requests,
        clients=clients,
        streams=streams,
        body=str(tmp_path / "body"),
    )
    assert (load.succeeded, load.good) == (requests, requests), load.output
