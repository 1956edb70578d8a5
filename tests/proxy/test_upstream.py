"""Clusters, endpoints and their connections, against small servers on loopback; the clients are codecs in memory."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service, Timeouts
from mesh.model.limits import Limits
from mesh.proxy.downstream import Downstream, Listener
from mesh.proxy.exchange import DONE, Exchange
from mesh.wire.codec import Request, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2


class Asking:
    """One request of a client in memory to a cluster. `over`, `status` and `error` say how it ended."""

    def __init__(self, parts, cluster, request: bytes = b"GET / HTTP/1.1\r\nHost: votes\r\n\r\n") -> None:
        channel = SimpleNamespace(
            backlog=b"", mark=lambda: None, end=lambda reason: None, reactor=SimpleNamespace(clock=trio.current_time)
        )
        codec = Http1(Role.SERVER, parts.limits)
        listener = Listener("outbound", "127.0.0.1:0", cluster, parts.directory)
        self.downstream = Downstream(parts.downstream, listener, channel, codec, number=1, peer="memory")
        self.out = b""
        self.downstream.leg.received(request)
        self.exchange: Exchange | None = next(iter(self.downstream.exchanges.values()), None)
        parts.reactor.settle()

    def leave(self) -> None:
        """The client goes away."""
        self.downstream.leg.lost("reset")
        self.downstream.leg.channel.end("")

    @property
    def answer(self) -> bytes:
        """All bytes that the client has been sent."""
        self.out += self.downstream.leg.produce()
        return self.out

    @property
    def over(self) -> bool:
        return self.exchange is None or self.exchange.state is DONE

    @property
    def status(self) -> int:
        return int(self.answer.split(b" ", 2)[1]) if self.answer else 0


def http1_server(*, close: bool = False, body: bytes = b"ok", seen: list | None = None, gate: trio.Event | None = None):
    """A handler that answers requests over HTTP/1.1; `seen` gets the connection's number for each."""
    numbers = iter(range(1, 10_000))

    async def handle(stream: trio.SocketStream) -> None:
        number = next(numbers)
        data = b""
        while chunk := await stream.receive_some():
            data += chunk
            while b"\r\n\r\n" in data:
                _, _, data = data.partition(b"\r\n\r\n")
                if seen is not None:
                    seen.append(number)
                if gate is not None:
                    await gate.wait()
                more = b"connection: close\r\n" if close else b""
                await stream.send_all(b"HTTP/1.1 200 OK\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body))
                if close:
                    return

    return handle


def http2_server(seen: list, gate: trio.Event | None = None, goaway: trio.Event | None = None, streams: int = 256):
    """A handler that answers over HTTP/2, each request when `gate` opens; on `goaway` the first connection says so."""
    numbers = iter(range(1, 10_000))

    async def handle(stream: trio.SocketStream) -> None:
        number = next(numbers)
        codec = Http2(Role.SERVER, Limits(streams=streams))
        codec.start()
        sending = trio.Lock()

        async def flush() -> None:
            async with sending:
                await stream.send_all(codec.take())

        async def answer(number: int) -> None:
            if gate is not None:
                await gate.wait()
            codec.send_response(number, Head.response(200), False)
            codec.send_data(number, b"ok", True)
            await flush()

        async with trio.open_nursery() as nursery:

            async def announce() -> None:
                if goaway is not None and number == 1:
                    await goaway.wait()
                    codec.shutdown(True)
                    await flush()

            nursery.start_soon(announce)
            await flush()
            while data := await stream.receive_some():
                for event in codec.receive(data):
                    if isinstance(event, Request):
                        seen.append(number)
                        nursery.start_soon(answer, event.stream)
                await flush()
            nursery.cancel_scope.cancel()

    return handle


async def silent(stream: trio.SocketStream) -> None:
    """Takes everything and says nothing."""
    while await stream.receive_some():
        pass


def pending(cluster) -> int:
    return sum(endpoint.load.pending for endpoint in cluster.endpoints)


# --- connections ------------------------------------------------------------------------


async def test_an_http1_connection_is_dialled_once_and_reused(proxy_parts, serve, until) -> None:
    """Three requests, one after the other, on one connection; nothing stays pending."""
    parts = await proxy_parts()
    seen: list[int] = []
    cluster = parts.service("votes", await serve(http1_server(seen=seen)))
    for _ in range(3):
        asking = Asking(parts, cluster)
        await until(lambda asking=asking: asking.over)
        assert asking.status == 200
        assert asking.answer.endswith(b"ok")
    assert seen == [1, 1, 1]
    (endpoint,) = cluster.endpoints
    assert pending(cluster) == 0
    assert len(endpoint.connections) == 1
    assert not endpoint.queue
    assert endpoint.load.ewma > 0


async def test_requests_at_once_get_an_http1_connection_each(proxy_parts, serve, until) -> None:
    """As many connections as requests in hand, up to the bound."""
    parts = await proxy_parts()
    seen: list[int] = []
    gate = trio.Event()
    cluster = parts.service("votes", await serve(http1_server(seen=seen, gate=gate)))
    all_of = [Asking(parts, cluster) for _ in range(5)]
    await until(lambda: len(seen) == 5)
    assert sorted(seen) == [1, 2, 3, 4, 5]
    assert pending(cluster) == 5
    gate.set()
    await until(lambda: all(one.over for one in all_of))
    assert {one.status for one in all_of} == {200}
    assert pending(cluster) == 0


@pytest.mark.parametrize("close", [False, True])
async def test_at_the_connection_bound_requests_wait_their_turn(proxy_parts, serve, until, close: bool) -> None:
    """One connection at a time, whether the endpoint keeps it open or not: each waiting request is served."""
    parts = await proxy_parts(upstream_connections=1, pending_timeout=30.0)
    seen: list[int] = []
    cluster = parts.service("votes", await serve(http1_server(seen=seen, close=close)))
    all_of = [Asking(parts, cluster) for _ in range(4)]
    await until(lambda: all(one.over for one in all_of))
    assert [one.status for one in all_of] == [200] * 4
    assert seen == ([1, 2, 3, 4] if close else [1, 1, 1, 1])
    assert pending(cluster) == 0


async def test_http2_requests_share_a_connection(proxy_parts, serve, until) -> None:
    """Ten at once on one; the exchange's own protocol does not matter where the service says HTTP/2."""
    parts = await proxy_parts()
    seen: list[int] = []
    gate = trio.Event()
    cluster = parts.service("votes", await serve(http2_server(seen, gate)), protocol=Protocol.HTTP2)
    all_of = [Asking(parts, cluster) for _ in range(10)]
    await until(lambda: len(seen) == 10)
    assert set(seen) == {1}
    gate.set()
    await until(lambda: all(one.over for one in all_of))
    assert {one.status for one in all_of} == {200}
    assert pending(cluster) == 0


async def test_a_second_http2_connection_comes_when_streams_are_used_up(proxy_parts, serve, until) -> None:
    """The endpoint allows two streams: of five at once all are served, on three connections at most."""
    parts = await proxy_parts(pending_timeout=30.0)
    seen: list[int] = []
    gate = trio.Event()
    cluster = parts.service("votes", await serve(http2_server(seen, gate, streams=2)), protocol=Protocol.HTTP2)
    first = Asking(parts, cluster)
    await until(lambda: len(seen) == 1)
    rest = [Asking(parts, cluster) for _ in range(4)]
    await until(lambda: len(seen) >= 4)
    gate.set()
    await until(lambda: all(one.over for one in [first, *rest]))
    assert {one.status for one in [first, *rest]} == {200}
    assert 2 <= max(seen) <= 3
    assert pending(cluster) == 0


async def test_an_endpoint_that_closes_is_dialled_anew(proxy_parts, serve, until) -> None:
    """A connection that came to its end is forgotten, not lent out."""
    parts = await proxy_parts()
    seen: list[int] = []
    cluster = parts.service("votes", await serve(http1_server(seen=seen, close=True)))
    for _ in range(2):
        asking = Asking(parts, cluster)
        await until(lambda asking=asking: asking.over)
        assert asking.status == 200
        await until(lambda: not cluster.endpoints[0].connections)
    assert seen == [1, 2]
    assert cluster.endpoints[0].idle == []


async def test_an_idle_connection_is_closed(proxy_parts, serve, until) -> None:
    """After `idle_http` without a request."""
    parts = await proxy_parts(idle_http=0.05)
    cluster = parts.service("votes", await serve(http1_server()))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    await until(lambda: not cluster.endpoints[0].connections)
    (counted,) = [one for one in parts.reports.all_connections() if one.service == "votes"]
    await until(lambda: counted.open == 0)
    assert counted.opened == 1
    assert counted.read_bytes > 0
    assert counted.write_bytes > 0


async def test_a_client_that_leaves_closes_its_http1_connection(proxy_parts, serve, until) -> None:
    """The endpoint sees the end at once, and the load is given back."""
    parts = await proxy_parts()
    ended = trio.Event()

    async def watch(stream: trio.SocketStream) -> None:
        await silent(stream)
        ended.set()

    cluster = parts.service("votes", await serve(watch))
    asking = Asking(parts, cluster)
    await until(lambda: asking.exchange.upstream is not None)
    asking.leave()
    parts.reactor.settle()
    with trio.fail_after(5):
        await ended.wait()
    assert pending(cluster) == 0
    await until(lambda: not cluster.endpoints[0].connections)


async def test_a_client_that_leaves_while_queued_leaves_no_trace(proxy_parts, until) -> None:
    """Its place in the queue and in the load are given back."""
    parts = await proxy_parts()
    cluster = parts.service("votes", "192.0.2.1:80", timeouts=Timeouts(connect=30.0))
    asking = Asking(parts, cluster)
    assert pending(cluster) == 1
    asking.leave()
    assert pending(cluster) == 0
    assert not cluster.endpoints[0].queue


# --- failures ---------------------------------------------------------------------------


async def test_a_refused_connect_goes_to_another_endpoint(proxy_parts, serve, refusing, until) -> None:
    """The request succeeds; the endpoint that refused is left alone for a while, then tried again."""
    parts = await proxy_parts()
    cluster = parts.service("votes", refusing, await serve(http1_server()))
    bad = next(one for one in cluster.endpoints if one.address == refusing)
    for _ in range(8):
        asking = Asking(parts, cluster)
        await until(lambda asking=asking: asking.over)
        assert asking.status == 200
    assert pending(cluster) == 0
    now = trio.current_time()
    if bad.down_until:
        cluster.refresh(now)
        assert bad not in cluster.balancer.endpoints or bad.down_until <= now
        cluster.refresh(bad.down_until)
        assert bad in cluster.balancer.endpoints


async def test_when_all_refuse_the_client_is_told_which_and_why(proxy_parts, refusing, until) -> None:
    """503 with the reason, the service, the endpoint and the cause; nothing stays."""
    parts = await proxy_parts()
    cluster = parts.service("votes", refusing)
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 503
    assert b"conduit-error: connect_failed" in asking.answer
    assert asking.answer.endswith(b"service votes, endpoint %b: Connection refused\n" % refusing.encode())
    assert pending(cluster) == 0
    assert not cluster.endpoints[0].queue
    assert parts.reports.refusals[("connect_failed", "votes")] == 1
    assert cluster.endpoints[0].dialling == 0


async def test_backoff_doubles_and_ends_with_success(proxy_parts, refusing, until) -> None:
    """Each failure doubles the time an endpoint is left alone, up to a bound."""
    parts = await proxy_parts()
    cluster = parts.service("votes", refusing)
    (endpoint,) = cluster.endpoints
    found = []
    for _ in range(8):
        asking = Asking(parts, cluster)
        await until(lambda asking=asking: asking.over)
        found.append(endpoint.down_for)
    assert found == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


async def test_a_refused_connect_does_not_spin_while_others_serve(proxy_parts, refusing, serve, until) -> None:
    """An application that stopped listening but still answers on its connections: few dials, and every request ends."""
    parts = await proxy_parts(pending_timeout=0.3)
    gate = trio.Event()
    seen: list[int] = []
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    address = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    cluster = parts.service("votes", address)
    first = Asking(parts, cluster)
    parts.nursery.start_soon(http1_server(seen=seen, gate=gate), await listener.accept())
    await listener.aclose()
    await until(lambda: seen)
    rest = [Asking(parts, cluster) for _ in range(4)]
    await until(lambda: all(one.over for one in rest))
    assert parts.reports.refusals[("connect_failed", "votes")] <= 8
    gate.set()
    await until(lambda: first.over)
    assert first.status == 200
    assert pending(cluster) == 0


async def test_garbage_is_502_and_counted(proxy_parts, serve, until) -> None:
    """What is no HTTP never reaches the client."""
    parts = await proxy_parts()

    async def garbage(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"220 smtp.example ESMTP\r\n\r\n")
        await silent(stream)

    cluster = parts.service("votes", await serve(garbage))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.status == 502
    assert b"conduit-error: upstream_" in asking.answer
    assert cluster.endpoints[0].address.encode() in asking.answer
    assert b"smtp" not in asking.answer
    assert pending(cluster) == 0
    assert any(where == "votes" for _, where in parts.reports.refusals)
    await until(lambda: not cluster.endpoints[0].connections)


async def test_an_endpoint_that_dies_in_mid_answer_is_a_cut_answer(proxy_parts, serve, until) -> None:
    """The client must be able to tell: the response is not completed."""
    parts = await proxy_parts()

    async def dies(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this")

    cluster = parts.service("votes", await serve(dies))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert asking.answer.endswith(b"only this")
    assert asking.downstream.leg.codec.finished
    assert {series.key.outcome for series in parts.reports.series} == {"failed"}
    assert pending(cluster) == 0


# --- waiting, updates, retirement -------------------------------------------------------


async def test_requests_wait_for_endpoints_and_go_on_when_they_come(proxy_parts, serve, until) -> None:
    """In a service without endpoints; an update brings one."""
    parts = await proxy_parts()
    cluster = parts.service("votes")
    all_of = [Asking(parts, cluster) for _ in range(3)]
    assert len(cluster.waiting) == 3
    cluster.update(Service("votes", (EndpointSpec(await serve(http1_server())),)))
    parts.reactor.settle()
    await until(lambda: all(one.over for one in all_of))
    assert {one.status for one in all_of} == {200}
    assert not cluster.waiting
    assert pending(cluster) == 0


async def test_waiting_is_bounded_in_number_and_time(proxy_parts, until) -> None:
    """One more than `pending_requests` is refused at once; the others after `pending_timeout`."""
    parts = await proxy_parts(pending_requests=2, pending_timeout=0.05)
    cluster = parts.service("votes")
    first, second, third = (Asking(parts, cluster) for _ in range(3))
    assert third.over
    assert b"conduit-error: overloaded" in third.answer
    assert not first.over
    assert not second.over
    await until(lambda: first.over and second.over)
    assert b"conduit-error: no_endpoints" in first.answer
    assert not cluster.waiting


async def test_an_update_keeps_what_is_the_same(proxy_parts, serve, until) -> None:
    """An endpoint that stays keeps its load and its connections."""
    parts = await proxy_parts()
    address = await serve(http1_server())
    cluster = parts.service("votes", address)
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    (before,) = cluster.endpoints
    cluster.update(Service("votes", (EndpointSpec("127.0.0.1:1"), EndpointSpec(address))))
    assert before in cluster.endpoints
    assert len(before.connections) == 1


@pytest.mark.parametrize("protocol", [Protocol.HTTP1, Protocol.HTTP2])
async def test_a_retired_endpoint_finishes_its_requests_and_ends(proxy_parts, serve, until, protocol) -> None:
    """What is under way completes; then its connections close and its task is gone."""
    parts = await proxy_parts()
    gate, seen = trio.Event(), []
    handler = http1_server(seen=seen, gate=gate) if protocol is Protocol.HTTP1 else http2_server(seen, gate)
    cluster = parts.service("votes", await serve(handler), protocol=protocol)
    (endpoint,) = cluster.endpoints
    asking = Asking(parts, cluster)
    await until(lambda: seen)
    cluster.update(Service("votes", (), protocol))
    parts.reactor.settle()
    await trio.testing.wait_all_tasks_blocked()
    assert not asking.over
    gate.set()
    await until(lambda: asking.over)
    assert asking.status == 200
    assert endpoint.load.pending == 0
    await until(lambda: not endpoint.connections and not cluster.nursery.child_tasks)


async def test_retiring_does_not_cut_what_a_goaway_left_under_way(proxy_parts, serve, until) -> None:
    """A connection that takes no new streams still has old ones: they complete although the endpoint is retired."""
    parts = await proxy_parts()
    gate, goaway, seen = trio.Event(), trio.Event(), []
    cluster = parts.service("votes", await serve(http2_server(seen, gate, goaway)), protocol=Protocol.HTTP2)
    (endpoint,) = cluster.endpoints
    asking = Asking(parts, cluster)
    await until(lambda: seen)
    goaway.set()
    await until(lambda: not endpoint.http2)
    cluster.update(Service("votes", (), Protocol.HTTP2))
    await trio.testing.wait_all_tasks_blocked()
    gate.set()
    await until(lambda: asking.over)
    assert asking.status == 200
    await until(lambda: not cluster.nursery.child_tasks)


async def test_after_goaway_the_queue_gets_another_connection(proxy_parts, serve, until) -> None:
    """Requests that waited for a stream of a connection that now drains do not wait for it to end."""
    parts = await proxy_parts(upstream_http2_connections=1, pending_timeout=30.0)
    gate, goaway, seen = trio.Event(), trio.Event(), []
    cluster = parts.service("votes", await serve(http2_server(seen, gate, goaway, streams=1)), protocol=Protocol.HTTP2)
    first = Asking(parts, cluster)
    await until(lambda: seen)
    second = Asking(parts, cluster)
    assert second.exchange.queue
    goaway.set()
    await until(lambda: len(seen) == 2)
    assert seen == [1, 2]
    gate.set()
    await until(lambda: first.over and second.over)
    assert (first.status, second.status) == (200, 200)
    assert pending(cluster) == 0


async def test_a_retired_endpoints_queue_goes_to_the_others(proxy_parts, serve, until) -> None:
    """Its load goes with it."""
    parts = await proxy_parts()
    cluster = parts.service("votes", "192.0.2.1:80", timeouts=Timeouts(connect=30.0))
    (old,) = cluster.endpoints
    asking = Asking(parts, cluster)
    assert old.queue
    cluster.update(Service("votes", (EndpointSpec(await serve(http1_server())),)))
    parts.reactor.settle()
    await until(lambda: asking.over)
    assert asking.status == 200
    assert old.load.pending == 0
    assert not old.queue
    assert pending(cluster) == 0


async def test_retiring_a_cluster_ends_its_tasks(proxy_parts, serve, until) -> None:
    """Nothing is left of a service that nobody asks for any more."""
    parts = await proxy_parts()
    before = len(parts.nursery.child_tasks)
    cluster = parts.service("votes", await serve(http1_server()))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    cluster.retire()
    parts.reactor.settle()
    await until(lambda: not cluster.nursery.child_tasks)
    assert len(parts.nursery.child_tasks) == before


async def test_repr_tells_the_state(proxy_parts, serve, until) -> None:
    """For people who look into a running proxy."""
    parts = await proxy_parts()
    cluster = parts.service("votes", await serve(http1_server()))
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    (endpoint,) = cluster.endpoints
    assert repr(cluster) == "<Cluster votes, 1 endpoints, 0 waiting>"
    assert repr(endpoint).startswith(f"<Endpoint {endpoint.address}, 1 connections, <Load 0 pending")
    assert repr(next(iter(endpoint.connections))) == f"<Upstream http1 {endpoint.address}, 0 exchanges>"
