"""The port, with bytes of our own: what is answered, refused, cut off, and that nothing ends the server."""

import socket as sockets

import msgspec
import pytest
import trio

from mesh.control import api
from mesh.control.access import Access
from mesh.control.api import Api
from mesh.control.routes import Answer, Refusal, Request, Route, Router
from mesh.model.api import Problem

HOST = b"Host: localhost\r\n"
GOOD = HOST + b"Authorization: Bearer secret\r\n"
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


class Routes:
    """A few routes that misbehave in every way."""

    def __init__(self):
        self.bodies = []

    def all(self):
        return [
            Route("GET", "/hello", "", None, handler=self.hello),
            Route("GET", "/open", "", None, handler=self.hello, open=True),
            Route("PUT", "/body", "", None, handler=self.body),
            Route("GET", "/bug", "", None, handler=self.bug),
            Route("GET", "/refused", "", None, handler=self.refused),
            Route("GET", "/echo", "", None, socket=self.echo),
            Route("GET", "/bug/watch", "", None, socket=self.bug_watch),
            Route("GET", "/checked", "", None, socket=self.echo, check=self.check),
        ]

    async def hello(self, request: Request) -> Answer:
        return Answer(200, b'"hello"')

    async def body(self, request: Request) -> Answer:
        self.bodies.append(request.body)
        return Answer(200, b"%d" % len(request.body))

    async def bug(self, request: Request) -> Answer:
        raise KeyError("a bug")

    async def refused(self, request: Request) -> Answer:
        raise Refusal(409, Problem("no", file="f", line=3))

    async def echo(self, request, socket) -> None:
        while True:
            await socket.send(f"{await socket.receive()}".encode(), 1.0)

    async def bug_watch(self, request, socket) -> None:
        raise KeyError("a bug")

    def check(self, request) -> None:
        raise Refusal(400, Problem("checked"))


class Bench:
    """The port and a raw client to it."""

    def __init__(self, served, port, routes):
        self.api, self.port, self.routes = served, port, routes

    async def open(self):
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def say(self, data, *, eof=True):
        """All that is answered until the connection closes."""
        stream = await self.open()
        async with stream:
            heard = b""
            try:
                await stream.send_all(data)
                if eof:
                    await stream.send_eof()
                with trio.fail_after(30):
                    async for chunk in stream:
                        heard += chunk
            except trio.BrokenResourceError:  # cut off before it had heard us out
                return heard
            return heard

    async def lives(self):
        answer = await self.say(b"GET /hello HTTP/1.1\r\n" + GOOD + b"\r\n")
        return answer.startswith(b"HTTP/1.1 200 ")


@pytest.fixture
async def bench(nursery, log):
    """A port with the routes above and the token `secret`."""
    routes = Routes()
    served = Api(Router(routes.all()), Access("secret"), log)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    await nursery.start(served.serve, listeners)
    return Bench(served, listeners[0].socket.getsockname()[1], routes)


def statuses(answers):
    return [int(part[1:4]) for part in answers.split(b"HTTP/1.1")[1:]]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /hello HTTP/1.1\r\n" + GOOD + b"\r\n", 200),
        (b"GET /hello HTTP/1.0\r\n" + GOOD + b"\r\n", 200),
        (b"GET /open HTTP/1.1\r\nHost: anything\r\n\r\n", 200),
        (b"GET /hello HTTP/1.1\r\n" + HOST + b"\r\n", 401),
        (b"GET /nowhere HTTP/1.1\r\n" + HOST + b"\r\n", 401),
        (b"GET /hello HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer secret\r\n\r\n", 403),
        (b"GET /nowhere HTTP/1.1\r\n" + GOOD + b"\r\n", 404),
        (b"DELETE /hello HTTP/1.1\r\n" + GOOD + b"\r\n", 405),
        (b"GET /refused HTTP/1.1\r\n" + GOOD + b"\r\n", 409),
        (b"GET /hello?x=1 HTTP/1.1\r\n" + GOOD + b"\r\n", 400),
        (b"GET //evil.example HTTP/1.1\r\n" + GOOD + b"\r\n", 400),
        (b"GET http://localhost/hello HTTP/1.1\r\n" + GOOD + b"\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n" + GOOD + b"X: \xff\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n" + GOOD + HOST + b"\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n" + GOOD + b"X: " + b"x" * 40_000 + b"\r\n\r\n", 431),
        (b"PUT /body HTTP/1.1\r\n" + GOOD + b"Content-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, 413),
        (b"PUT /body HTTP/1.1\r\n" + GOOD + b"Origin: http://evil.example\r\nContent-Length: 0\r\n\r\n", 403),
        (b"GET /echo HTTP/1.1\r\n" + GOOD + b"\r\n", 426),
        (b"GET /hello HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n", 405),
        (b"GET /echo HTTP/1.1\r\n" + HOST + UPGRADE + b"\r\n", 401),
        (b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"Origin: http://evil.example\r\n\r\n", 403),
        (b"GET /checked HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n", 400),
        (b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"Content-Length: 1\r\n\r\nx", 400),
        (b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n", 101),
    ],
)
async def test_one_request(bench, request_bytes, status):
    """Each is answered with its status, and a refusal with a Problem."""
    answer = await bench.say(request_bytes)
    assert statuses(answer)[0] == status
    if status >= 400:
        assert msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=Problem).error
    assert await bench.lives()


async def test_requests_in_turn_and_pipelined(bench):
    """One connection carries many, also when they come at once, and a refusal with a read body does not end it."""
    get = b"GET /hello HTTP/1.1\r\n" + GOOD + b"\r\n"
    put = b"PUT /body HTTP/1.1\r\n" + GOOD + b"Content-Length: 3\r\n\r\nabc"
    refused = b"GET /refused HTTP/1.1\r\n" + GOOD + b"\r\n"
    assert statuses(await bench.say(get + put + refused + get)) == [200, 200, 409, 200]
    assert bench.routes.bodies == [b"abc"]


async def test_a_body_that_waits_for_leave_gets_it(bench):
    """Expect: 100-continue is answered once the request is judged good, and not before (RFC 9110 10.1.1)."""
    head = b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
    assert statuses(await bench.say(b"PUT /body HTTP/1.1\r\n" + GOOD + head + b"abc")) == [100, 200]
    assert statuses(await bench.say(b"PUT /body HTTP/1.1\r\n" + HOST + head)) == [401]


async def test_a_bug_ends_its_connection_and_nothing_else(bench, log):
    """It is logged with the connection's number and counted, for a request and for a websocket."""
    assert await bench.say(b"GET /bug HTTP/1.1\r\n" + GOOD + b"\r\n") == b""
    assert statuses(await bench.say(b"GET /bug/watch HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n")) == [101]
    assert bench.api.counters["bug"] == 2
    assert [event["connection"] for event in log.kept] == ["connection 1", "connection 2"]
    assert await bench.lives()


@pytest.mark.parametrize("sent", [b"", b"GET /hel", b"PUT /body HTTP/1.1\r\n" + GOOD + b"Content-Length: 9\r\n\r\nabc"])
async def test_who_dawdles_is_cut_off(bench, monkeypatch, sent):
    """No head, half a head, half a body: each wait has a deadline."""
    monkeypatch.setattr(api, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(api, "BODY_SECONDS", 0.05)
    assert await bench.say(sent, eof=False) == b""
    assert bench.api.counters["too slow"] == 1
    assert await bench.lives()


async def test_who_leaves_halfway_is_gone(bench):
    """An end of file in a head or a body is an end, with nobody to answer."""
    for sent in (b"", b"GET /hel", b"PUT /body HTTP/1.1\r\n" + GOOD + b"Content-Length: 9\r\n\r\nabc"):
        await bench.say(sent)
    assert await bench.lives()
    assert bench.routes.bodies == []


async def test_connections_are_bounded(bench, monkeypatch):
    """One too many is closed at once, and counted; room that is given back can be used."""
    monkeypatch.setattr(api, "MAX_CONNECTIONS", 1)
    async with await bench.open() as first:
        await first.send_all(b"GET /hello HTTP/1.1\r\n" + GOOD + b"\r\n")
        assert (await first.receive_some()).startswith(b"HTTP/1.1 200")
        second = await bench.open()
        with trio.fail_after(30):
            assert await received_or_reset(second) == b""
        assert bench.api.counters["too many connections"] == 1
    with trio.fail_after(30):
        while bench.api.connections:
            await trio.sleep(0.01)
    assert await bench.lives()


async def received_or_reset(stream):
    try:
        return await stream.receive_some()
    except trio.BrokenResourceError:
        return b""


def frame(opcode, payload, *, fin=True):
    """A client's frame with a mask of zeros (RFC 6455 5.2)."""
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xff" + len(payload).to_bytes(8, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + size + b"\0\0\0\0" + payload


@pytest.mark.parametrize(
    "frames",
    [
        frame(8, b"\x03\xe8") + frame(9, b"ping"),  # a ping after the close
        frame(9, b"ping") * 50 + frame(8, b"\x03\xe8"),
        frame(1, b"\xff\xff"),  # no text
        frame(3, b""),  # no such opcode
        b"\xff" * 100,
        frame(0, b"continuation of nothing"),
        frame(1, b"x" * 2_000_000),  # larger than a message may be
    ],
    ids=["ping after close", "pings", "not UTF-8", "opcode", "garbage", "continuation", "oversized"],
)
async def test_whatever_a_websocket_says_ends_that_one_alone(bench, frames):
    """Broken frames, floods and too much of a message: the connection ends in good time and the port lives."""
    async with await bench.open() as stream:
        await stream.send_all(b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n")
        assert statuses(await stream.receive_some()) == [101]
        try:
            await stream.send_all(frames)
            await stream.send_eof()
        except trio.BrokenResourceError:
            assert len(frames) > 100_000  # cut off before it had said all
    with trio.fail_after(30):
        while bench.api.connections:
            await trio.sleep(0.01)
    assert bench.api.counters["bug"] == 0
    assert await bench.lives()


async def test_frames_before_the_answer_are_refused(bench):
    """A client must wait for our 101 (RFC 6455 4.1)."""
    sent = b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n" + frame(1, b"early")
    assert statuses(await bench.say(sent)) == [400]


async def test_a_handshake_without_its_key_is_over_soon(bench, monkeypatch):
    """What looks like a websocket to us but not to the library does not stay."""
    monkeypatch.setattr(api, "HANDSHAKE_SECONDS", 0.05)
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    await bench.say(b"GET /echo HTTP/1.1\r\n" + GOOD + upgrade + b"\r\n", eof=False)
    assert bench.api.counters["bug"] == 0
    assert await bench.lives()


async def test_cancelling_ends_every_connection(log):
    """Nothing of the port outlives its owner: idle, half-read and websocket connections close."""
    served = Api(Router(Routes().all()), Access("secret"), log)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    streams = []
    async with trio.open_nursery() as nursery:
        await nursery.start(served.serve, listeners)
        for sent in (b"", b"GET /hel", b"GET /echo HTTP/1.1\r\n" + GOOD + UPGRADE + b"\r\n"):
            streams.append(await trio.open_tcp_stream("127.0.0.1", port))
            await streams[-1].send_all(sent)
        assert (await streams[-1].receive_some()).startswith(b"HTTP/1.1 101")
        nursery.cancel_scope.cancel()
    assert served.connections == 0
    for stream in streams:
        with trio.fail_after(30):
            while await received_or_reset(stream):
                continue
        await stream.aclose()
    with sockets.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
