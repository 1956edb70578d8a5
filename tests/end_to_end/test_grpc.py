"""grpcio on both sides of the proxy: every kind of call, metadata, deadlines, errors, large messages."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from tests.end_to_end.grpc_server import channel, stub
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until

SECONDS = 30
BIG = 4 * 1024 * 1024


@pytest.fixture(scope="module", params=["ngh2", "h2"])
def sidecar(request: pytest.FixtureRequest, shared_proxy: Starter, grpc_port: int) -> Sidecar:
    """The server behind a listener that detects, and one that knows; with either HTTP/2 codec."""
    services = {
        "calls": service(grpc_port),
        "known": service(grpc_port, protocol="http2"),
        "hasty": service(grpc_port),
    }
    policy = traffic_policy("hasty", timeouts={"request": 0.3})
    return shared_proxy(services, resources=[policy], codec=request.param)


@pytest.fixture(params=["calls", "known"])
def calls(request: pytest.FixtureRequest, sidecar: Sidecar) -> Iterator[grpc.Channel]:
    """A channel through the proxy."""
    with channel(sidecar.ports[request.param]) as opened:
        yield opened


def test_unary_with_metadata_both_ways(calls: grpc.Channel) -> None:
    """The request's metadata arrive; initial and trailing metadata come back, binary ones bit for bit."""
    answer, call = stub(calls, "Unary").with_call(b"hello", timeout=SECONDS, metadata=(("x-test", "seen"),))
    assert answer == b"hello"
    assert dict(call.initial_metadata())["x-seen"] == "seen"
    trailing = dict(call.trailing_metadata())
    assert trailing["x-trailing"] == "the end"
    assert trailing["x-binary-bin"] == bytes(range(256))
    assert call.code() is grpc.StatusCode.OK


def test_client_streaming(calls: grpc.Channel) -> None:
    """All messages of a stream arrive."""
    assert stub(calls, "Total")((b"x" * 1000 for _ in range(500)), timeout=SECONDS) == b"500 500000"


def test_server_streaming(calls: grpc.Channel) -> None:
    """All messages come back, in order."""
    assert list(stub(calls, "Count")(b"500", timeout=SECONDS)) == [b"%d" % number for number in range(500)]


def test_bidirectional_streaming_goes_turn_by_turn(calls: grpc.Channel) -> None:
    """Each answer arrives before the next question is asked: neither direction waits for the end of the other."""
    answers: list[bytes] = []

    def questions() -> Iterator[bytes]:
        for number in range(50):
            wait_until(lambda number=number: len(answers) == number, "the answer before", SECONDS)
            yield b"question %d" % number

    for answer in stub(calls, "Chat")(questions(), timeout=SECONDS):
        answers.append(answer)
    assert answers == [b"QUESTION %d" % number for number in range(50)]


def test_big_messages(calls: grpc.Channel) -> None:
    """4 MiB up and the same 4 MiB down, four at a time."""
    message = bytes(range(256)) * (BIG // 256)
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: stub(calls, "Unary")(message, timeout=SECONDS) == message, range(4))
        assert list(answers) == [True] * 4


@pytest.mark.parametrize("code", ["NOT_FOUND", "UNAVAILABLE", "RESOURCE_EXHAUSTED", "UNKNOWN"])
def test_errors_of_the_application(calls: grpc.Channel, code: str) -> None:
    """A status and its message, which is not ASCII, are passed on as they are."""
    with pytest.raises(grpc.RpcError) as caught:
        stub(calls, "Fail")(code.encode(), timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode[code]
    assert caught.value.details() == "größer than 100%"


def test_unknown_method(calls: grpc.Channel) -> None:
    """A trailers-only answer of the server."""
    with pytest.raises(grpc.RpcError) as caught:
        calls.unary_unary("/test.Test/Nothing")(b"", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("method", ["Hold", "HoldStream"])
def test_deadline_of_the_client(calls: grpc.Channel, method: str) -> None:
    """The client's deadline ends the call on both sides."""
    began = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(stub(calls, method)(b"", timeout=0.3) or ())
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < SECONDS


def test_deadline_of_the_policy(sidecar: Sidecar) -> None:
    """A request timeout of the TrafficPolicy is DEADLINE_EXCEEDED though the client allows more. The server is told
    too, and may be the one that says so."""
    began = time.monotonic()
    with channel(sidecar.ports["hasty"]) as opened, pytest.raises(grpc.RpcError) as caught:
        stub(opened, "Hold")(b"", timeout=SECONDS)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert time.monotonic() - began < SECONDS


def test_wait_for_ready_and_many_calls_on_one_channel(calls: grpc.Channel) -> None:
    """A thousand calls, sixteen at a time, on one connection."""
    call = stub(calls, "Unary")
    with ThreadPoolExecutor(16) as pool:
        answers = pool.map(lambda number: call(b"%d" % number, timeout=SECONDS, wait_for_ready=True), range(1000))
        assert list(answers) == [b"%d" % number for number in range(1000)]


def test_calls_through_the_forward_proxy(sidecar: Sidecar, grpc_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """grpcio tunnels through HTTP CONNECT when its proxy variable is set; the inside is served as HTTP/2."""
    monkeypatch.setenv("grpc_proxy", sidecar.proxy_url)
    before = sidecar.total("request_total", protocol="grpc")
    with channel("dns:///calls:80", ("grpc.enable_http_proxy", 1)) as opened:
        assert stub(opened, "Unary")(b"through", timeout=SECONDS) == b"through"
    wait_until(lambda: sidecar.total("request_total", protocol="grpc") == before + 1, "the call is counted")
