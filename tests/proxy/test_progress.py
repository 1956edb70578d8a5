"""Clients that stand still: their debts, and who is given up when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mesh.model.limits import Limits
from mesh.proxy.progress import CONNECTION, Debt, Progress
from mesh.proxy.report import Reports
from tests.proxy.playbook import Stage

LIMITS = Limits(body_timeout=5.0, write_timeout=10.0, progress_rate=100)


class Codec:
    """What a progress asks of one: who waits, for how many bytes. `gone` are the streams that were reset."""

    name = "http2"

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.gone: list[int] = []

    def queued(self, stream: int) -> int:
        return self.left.get(stream, 0) if stream else sum(self.left.values())

    def waiting(self) -> list[int]:
        return list(self.left)

    def reset(self, stream: int, code: int) -> None:
        self.gone.append(stream)
        self.left.pop(stream, None)


class Connection:
    """A progress over fakes; `look` after each second."""

    def __init__(self) -> None:
        self.codec = Codec()
        self.ended = ""
        self.channel = SimpleNamespace(backlog=b"", write_bytes=0, mark=lambda: None, end=self.end)
        self.reports = Reports(10)
        leg = SimpleNamespace(codec=self.codec, channel=self.channel)
        self.progress = Progress(leg, LIMITS, self.reports, "inbound")
        self.now = 100.0

    def end(self, reason: str) -> None:
        self.ended = reason

    def look(self, exchanges=None) -> None:
        self.now += 1.0
        self.progress.look(exchanges or {}, self.now)


def test_a_debt_is_time_less_what_was_paid():
    """A second costs one, a hundred bytes pay for one, and nothing is paid in advance."""
    debt = Debt("a", 0)
    assert debt.grow("a", 0, 1.0, 100) == 1.0
    assert debt.grow("a", 50, 1.0, 100) == 1.5
    assert debt.grow("a", 100_000, 1.0, 100) == 0.0
    assert debt.grow("a", 100_000, 1.0, 100) == 1.0
    assert debt.grow("b", 5, 1.0, 100) == 2.0
    assert debt.grow("b", 105, 1.0, 100) == 2.0


def test_a_stream_that_is_not_taken_is_reset_alone():
    """The rest of an answer stays where it is: given up after `write_timeout`, while another one moves."""
    connection = Connection()
    connection.codec.left = {1: 5000, 3: 50_000}
    for _ in range(12):
        connection.codec.left[3] -= 200
        connection.look()
    assert connection.codec.gone == [1]
    assert connection.ended == ""
    assert connection.reports.refusals == {("write_timeout", "inbound"): 1}


def test_a_byte_now_and_then_buys_nothing():
    """One byte a second is not progress; a hundred are."""
    connection = Connection()
    connection.codec.left = {1: 5000}
    for _ in range(12):
        connection.codec.left[1] -= 1
        connection.look()
        if connection.codec.gone:
            break
    assert connection.codec.gone == [1]


def test_what_the_kernel_does_not_take_ends_the_connection():
    """Whatever the protocol."""
    connection = Connection()
    connection.channel.backlog = bytes(1000)
    connection.channel.write_bytes = 5000
    for _ in range(12):
        connection.look()
    assert connection.ended
    assert connection.reports.refusals == {("write_timeout", "inbound"): 1}
    assert CONNECTION not in connection.codec.gone


def test_who_takes_what_there_is_owes_nothing():
    """Debts are forgotten as soon as nothing waits."""
    connection = Connection()
    for _ in range(20):
        connection.codec.left = {1: 100}
        for _ in range(5):
            connection.look()
        connection.codec.left = {}
        connection.look()
    assert connection.codec.gone == []


@pytest.mark.parametrize(("size", "cut"), [(0, True), (10, True), (200, False)])
def test_a_body_must_go_on(size: int, cut: bool):
    """Bytes a second below the rate: 408 after `body_timeout`, and the endpoint is told to forget it."""
    play = Stage(limits=LIMITS)
    exchange = play.ask(b"POST", end=False)
    for _ in range(12):
        if play.outcomes():
            break
        if size:
            exchange.request_data(bytes(size), False, play.now)
        play.pass_time(1.0)
        play.downstream.watch(play.now)
    assert play.outcomes() == ([("client_cancelled", 408, "idle")] if cut else [])
    assert play.reports.refusals == ({("body_timeout", "outbound"): 1} if cut else {})


@pytest.mark.parametrize("ask", [{"grpc": True}, {"method": b"CONNECT", "path": b""}])
def test_conversations_may_pause(ask: dict[str, object]):
    """gRPC calls and tunnels say something when they have something to say."""
    play = Stage(limits=LIMITS)
    play.ask(**{"method": b"POST", "end": False, **ask})
    for _ in range(20):
        play.pass_time(1.0)
        play.downstream.watch(play.now)
    assert play.outcomes() == []
