"""The things that break: endpoints, descriptors, our own code, handshakes, clocks; and the end of a proxy."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio
import yaml

from tests.conftest import Handle
from tests.end_to_end.conftest import processes_in
from tests.end_to_end.sidecar import Sidecar, Starter, traffic_policy, wait_until
from tests.end_to_end.tcp_server import read_head, read_until_eof, reset, serving
from tests.hostile import attacks, frames
from tests.hostile.asking import say
from tests.hostile.conftest import CODECS, CONDUIT, HERE, Target, refusals
from tests.hostile.honest import Honest1, honest

SECONDS = 1.0
FILES = 64
"""Descriptors that a proxy may have which is to run out of them."""


# --- endpoints ----------------------------------------------------------------------------------


def dies(sock: socket.socket) -> None:
    """Closes when it has the request."""
    read_head(sock)


def hangs(sock: socket.socket) -> None:
    """Never answers."""
    read_until_eof(sock)


def resets(sock: socket.socket) -> None:
    """Resets when it has the request."""
    read_head(sock)
    reset(sock)


def garbage(sock: socket.socket) -> None:
    """Speaks no known language."""
    read_head(sock)
    sock.sendall(os.urandom(2000) + b"\r\n\r\n")
    read_until_eof(sock)


def floods(sock: socket.socket) -> None:
    """Answers with a head that never ends."""
    read_head(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\n")
    while True:
        sock.sendall(b"x: y\r\n" * 1000)


def informs(sock: socket.socket) -> None:
    """Says 103 and never anything else."""
    read_head(sock)
    while True:
        sock.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n" * 1000)


BROKEN = [dies, hangs, resets, garbage, floods, informs]


@pytest.fixture(scope="module")
def beside(starting: Starter, origin: int) -> Iterator[Sidecar]:
    """A proxy before services with one broken endpoint and a sound one, and services with just the broken one."""
    with contextlib.ExitStack() as stack:
        services, policies = {}, []
        for handler in BROKEN:
            server = stack.enter_context(serving(handler))
            bad, good = f"127.0.0.1:{server.port}", f"127.0.0.1:{origin}"
            services[handler.__name__] = {"protocol": "http1", "endpoints": [bad, good]}
            services[f"only-{handler.__name__}"] = {"protocol": "http1", "endpoints": [bad]}
            more = {
                "retry": {"attempts": 3, "backoff": "1ms"},
                "timeouts": {"backendRequest": "200ms"},
                "balancing": {"kind": "roundRobin"},
                "breaker": {"failures": 3},
            }
            policies.append(traffic_policy(handler.__name__, **more))
            policies.append(traffic_policy(f"only-{handler.__name__}", timeouts={"request": "500ms"}))
        yield starting(services, resources=policies)


@pytest.mark.parametrize("name", [handler.__name__ for handler in BROKEN])
async def test_a_broken_endpoint_beside_a_sound_one(beside: Sidecar, name: str) -> None:
    """Row: an endpoint dies, hangs, resets, answers garbage (retried where safe, and its breaker opens)."""
    async with honest(beside.ports[name], versions=(Honest1,)) as (client,):
        await trio.sleep(0)
        with trio.fail_after(20):
            while len(client.times) < 30:
                await trio.sleep(0.02)
    assert beside.total("conduit_ejections_total", service=name) >= 1


@pytest.mark.parametrize("name", [handler.__name__ for handler in BROKEN])
def test_one_clear_error(beside: Sidecar, name: str) -> None:
    """Row: an endpoint dies, hangs, resets, answers garbage (one error, which names the endpoint and the cause)."""
    service = f"only-{name}"
    answer = say(beside.ports[service], b"GET / HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n")
    informed = b"HTTP/1.1 103 Early Hints\r\n\r\n"
    assert answer.count(informed) <= 32  # as `limits.informational` has it
    head, _, text = answer.replace(informed, b"").partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1.1 50[24] ", head)
    assert b"conduit-error: " in head
    assert re.fullmatch(rb"service only-%b, endpoint 127\.0\.0\.1:\d+: [ -~]+\n" % name.encode(), text)


def evil_http2(sock: socket.socket, answer: bytes, more: bytes = b"") -> None:
    """A server of HTTP/2 that says this to whatever it is asked, and then goes on with `more` for ever."""
    sock.sendall(frames.settings() + frames.SETTINGS_ACK)
    sock.recv(65536)
    sock.sendall(answer)
    while more:
        sock.sendall(more)
    read_until_eof(sock)


OK = b"\x88"
EVIL_ANSWERS: dict[str, tuple[bytes, bytes]] = {
    "two statuses": (frames.headers(1, OK + OK), b""),
    "no status": (frames.headers(1, frames.block([(b"x", b"y")])), b""),
    "line in a value": (frames.headers(1, OK + frames.block([(b"x", b"y\r\nz: 1")])), b""),
    "body longer than said": (
        frames.headers(1, OK + frames.block([(b"content-length", b"1")]), end=False)
        + frames.frame(frames.DATA, frames.END_STREAM, 1, b"long"),
        b"",
    ),
    "pushes": (frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, frames.number(2) + OK), b""),
    "headers without end": (frames.frame(frames.HEADERS, 0, 1, OK), frames.frame(frames.CONTINUATION, 0, 1) * 1000),
    "pings without end": (b"", frames.frame(frames.PING, 0, 0, bytes(8)) * 1000),
    "settings without end": (b"", frames.settings((4, 65535)) * 1000),
    "hints without end": (b"", frames.headers(1, frames.block([(b":status", b"103")]), end=False) * 1000),
    "goes at once": (frames.frame(frames.GOAWAY, 0, 0, bytes(8)), b""),
    "no HTTP/2": (b"HTTP/1.1 400 Bad Request\r\n\r\n", b""),
}


@pytest.mark.parametrize("codec", CODECS)
async def test_a_broken_http2_endpoint(starting: Starter, codec: str) -> None:
    """Row: an endpoint dies, hangs, resets, answers garbage (and floods, in HTTP/2; each is refused and counted)."""
    with contextlib.ExitStack() as stack:
        services, policies = {}, []
        for at, (answer, more) in enumerate(EVIL_ANSWERS.values()):
            server = stack.enter_context(serving(partial(evil_http2, answer=answer, more=more)))
            services[f"evil-{at}"] = {"protocol": "http2", "endpoints": [f"127.0.0.1:{server.port}"]}
            policies.append(traffic_policy(f"evil-{at}", timeouts={"request": "2s"}))
        sidecar = starting(services, resources=policies, codec=codec)
        for name, port in zip(EVIL_ANSWERS, sidecar.ports.values(), strict=True):
            ask = b"GET /evil HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
            answer = await trio.to_thread.run_sync(say, port, ask)
            hints, _, last = answer.rpartition(b"HTTP/1.1 ")
            cut = last.startswith(b"200") and b"conduit-error" not in last and not last.endswith(b"long")
            assert last.startswith((b"502", b"503", b"504")) or cut, (name, answer)
            assert b"\nz: 1" not in answer
            assert hints.count(b"103") < 10_000
        assert sidecar.handle.returncode is None
        assert "internal" not in refusals(sidecar)


# --- descriptors --------------------------------------------------------------------------------


@pytest.fixture
def bare(tmp_path: Path, free_port: Callable[[], int], origin: int) -> Iterator[Callable[..., Target]]:
    """Call it with argv before `proxy` for a proxy that is run by it."""
    with processes_in(tmp_path) as run:

        def start(*argv: str | Path, **limits: object) -> Target:
            admin, outbound, inbound = free_port(), free_port(), free_port()
            config = {
                "admin": f"127.0.0.1:{admin}",
                "outbound": [{"listen": f"127.0.0.1:{outbound}", "service": "web"}],
                "inbound": [{"listen": f"127.0.0.1:{inbound}", "forward": f"127.0.0.1:{origin}", "protocol": "http1"}],
                "services": {"web": {"protocol": "http1", "endpoints": [f"127.0.0.1:{origin}"]}},
                "limits": limits,
            }
            path = tmp_path / "bare.yaml"
            path.write_text(yaml.safe_dump(config))
            handle: Handle = run([*argv, "proxy", "--config", path], ready_port=admin)
            return Target(Sidecar(handle, admin, 0, {"web": outbound}, [inbound]), origin)

        yield start


async def test_no_descriptor_is_free(bare: Callable[..., Target]) -> None:
    """Row: EMFILE."""
    target = bare("/usr/bin/prlimit", f"--nofile={FILES}:{FILES}", CONDUIT)
    async with target.under_attack("no_descriptors"):
        await attacks.many_connections(target.inbound, SECONDS, 2 * FILES)
        with trio.fail_after(10):
            answer = await trio.to_thread.run_sync(
                say, target.inbound, b"GET /ok HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
            )
        assert answer.endswith(b"ok")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > FILES


async def test_too_many_connections(bare: Callable[..., Target]) -> None:
    """Row: EMFILE (a listener has a bound before that)."""
    target = bare(CONDUIT, connections=20)
    async with target.under_attack("connections"):
        await attacks.many_connections(target.inbound, 0.5, 60)


# --- our own code -------------------------------------------------------------------------------


async def test_a_bug_ends_its_connection_only(bare: Callable[..., Target]) -> None:
    """Row: a bug in one connection's handler."""
    target = bare(sys.executable, HERE / "buggy.py")
    async with honest(target.inbound) as clients:
        for _ in range(20):
            data = attacks.GREETING + frames.get(1, b"/evil/bug")
            assert b"ok" not in await trio.to_thread.run_sync(say, target.inbound, data)
        assert all(client.times for client in clients)
    assert refusals(target.sidecar)["internal"] == 20
    lines = [json.loads(line) for line in target.sidecar.handle.stderr.read_text().splitlines()]
    failed = [line for line in lines if line["event"] == "connection_failed"]
    assert len(failed) == 20
    assert all(re.fullmatch(r"inbound 127\.0\.0\.1:\d+", line["who"]) and "a bug" in line["detail"] for line in failed)
    assert target.heard() == []
    target.sidecar.handle.stderr.write_text("")  # what it shows was meant


async def test_the_clock_jumps(bare: Callable[..., Target]) -> None:
    """Row: clock jumps."""
    target = bare(sys.executable, HERE / "jumping.py", idle_http=2.0, header_timeout=2.0)
    async with honest(target.inbound, target.outbound) as clients:
        with trio.fail_after(30):
            while any(len(client.times) < 100 for client in clients):
                await trio.sleep(0.05)
    assert "jumped" in target.sidecar.handle.stdout.read_text()
    assert refusals(target.sidecar) == {}


# --- the end ------------------------------------------------------------------------------------


async def test_the_end_is_announced(bare: Callable[..., Target]) -> None:
    """Row: SIGTERM."""
    target = bare(CONDUIT, drain_timeout=5.0, drain_grace=0.5)
    handle = target.sidecar.handle
    two = await attacks.connect(target.inbound)
    await two.send_all(attacks.GREETING + frames.get(1))
    one = await attacks.connect(target.inbound)
    ask = b"GET /ok HTTP/1.1\r\nhost: web\r\n\r\n"
    await one.send_all(ask)
    assert b"connection" not in await one.receive_some(65536)
    reader, last, answered = frames.Reader(), [], 0
    while not answered:
        answered += sum(frame.kind == frames.DATA for frame in reader.feed(await two.receive_some(65536)))
    handle.send_signal(signal.SIGTERM)
    wait_until(lambda: target.sidecar.ask("/ready")[0] == 503, "it is unready")
    assert say(target.inbound, ask.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")).endswith(b"ok")  # grace
    stream, asked = 3, 1
    with trio.fail_after(20):
        while data := await two.receive_some(65536):
            for frame in reader.feed(data):
                if frame.kind == frames.GOAWAY:
                    last.append(struct.unpack(">LL", frame.payload[:8]))
                    if len(last) == 1:  # what was sent before it was known is still answered
                        await two.send_all(frames.get(stream))
                        asked += 1
                answered += frame.kind == frames.DATA and bool(frame.flags & frames.END_STREAM)
        rest = b""
        with contextlib.suppress(trio.BrokenResourceError):
            await one.send_all(ask)
            rest = await one.receive_some(65536)
    assert answered == asked
    assert [number for number, _ in last] == [2**31 - 1, 3]
    assert {code for _, code in last} == {0}
    assert rest == b"" or b"connection: close" in rest
    await attacks.drop(one)
    await attacks.drop(two)
    assert await trio.to_thread.run_sync(handle.wait, 20) == 0
