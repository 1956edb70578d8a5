"""Endpoints: dialling, lending, queues, backoff, retirement, against small servers on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgspec
import pytest
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service, Timeouts
from mesh.model.traffic import HealthCheck, HealthKind, Traffic
from mesh.proxy.cluster import Cluster
from mesh.wire.codec import Request
from mesh.wire.head import Head
from tests.proxy.asking import Asking, http1_server, http2_server, pending, silent
from tests.proxy.playbook import Stage


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
    parts = await proxy_parts(upstream_connections=1, pending_timeout=300.0)
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
    parts = await proxy_parts(pending_timeout=300.0)
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


# --- meshed endpoints -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("meshed", "outbound", "protocol", "client", "upgrade", "expected"),
    [
        (True, True, Protocol.DETECT, "http1", False, True),
        (True, True, Protocol.DETECT, "http2", False, True),
        (True, True, Protocol.HTTP1, "http1", False, True),
        (True, True, Protocol.DETECT, "http1", True, False),
        (True, True, Protocol.HTTP2, "http1", True, False),
        (True, False, Protocol.DETECT, "http1", False, False),
        (False, True, Protocol.DETECT, "http1", False, False),
        (False, True, Protocol.DETECT, "http2", False, True),
        (False, True, Protocol.HTTP2, "http1", False, True),
        (False, True, Protocol.HTTP1, "http2", False, False),
    ],
)
def test_what_an_endpoint_is_spoken_to_in(
    meshed: bool, outbound: bool, protocol: Protocol, client: str, upgrade: bool, expected: bool
) -> None:
    """HTTP/2 to a proxy of ours, but for what becomes another protocol; else as the service says, else as the client
    does. Beside an application nothing is a proxy."""
    stage = Stage(connected=False, meshed=meshed, outbound=outbound, protocol=protocol, client=client)
    head = Head.request(b"GET", b"/", authority=b"votes", upgrade=b"websocket" if upgrade else b"")
    stage.downstream.handle([Request(1, head, not upgrade)])
    exchange = stage.downstream.exchanges[1]
    (endpoint,) = stage.endpoints
    assert endpoint.speaks_http2(exchange) is expected
    assert endpoint.to_dial == [expected]


async def test_http1_clients_share_a_connection_to_a_meshed_endpoint(proxy_parts, serve, until) -> None:
    """Five requests made in HTTP/1.1 at once, on one connection."""
    parts = await proxy_parts()
    seen: list[int] = []
    gate = trio.Event()
    cluster = parts.service("votes")
    cluster.update(Service("votes", (EndpointSpec(await serve(http2_server(seen, gate)), meshed=True),)))
    all_of = [Asking(parts, cluster) for _ in range(5)]
    await until(lambda: len(seen) == 5)
    assert set(seen) == {1}
    gate.set()
    await until(lambda: all(one.over for one in all_of))
    assert {one.status for one in all_of} == {200}


# --- connects that time out -------------------------------------------------------------


@pytest.fixture
def full() -> Iterator[tuple[str, list[socket.socket]]]:
    """The address of a listener whose accept queue is full, so that it drops who comes; and what to close it with."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        kept = [socket.socket() for _ in range(3)]
        for one in kept:
            one.setblocking(False)
            one.connect_ex(listener.getsockname())
        yield f"127.0.0.1:{listener.getsockname()[1]}", [listener, *kept]
        for one in kept:
            one.close()


@pytest.mark.parametrize("protocol", [Protocol.HTTP1, Protocol.HTTP2])
async def test_a_connect_that_times_out_is_tried_again(proxy_parts, full, until, protocol: Protocol) -> None:
    """Where there is no other endpoint: a packet may have been lost. As often as `connect_attempts` says, no more."""
    parts = await proxy_parts(connect_attempts=3, pending_timeout=300.0)
    cluster = parts.service("votes", full[0], protocol=protocol, timeouts=Timeouts(connect=0.05))
    both = [Asking(parts, cluster) for _ in range(2)]
    await until(lambda: all(one.over for one in both))
    for asking in both:
        assert b"conduit-error: connect_failed" in asking.answer
        assert b"connect took over 0.05 s" in asking.answer
    assert parts.reports.refusals[("connect_failed", "votes")] >= 3
    assert pending(cluster) == 0
    await until(lambda: cluster.endpoints[0].dialling == 0)
    assert not cluster.endpoints[0].queue


async def test_a_connect_that_is_tried_again_may_succeed(proxy_parts, full, until) -> None:
    """The client notices nothing of an accept queue that was full for a moment."""
    parts = await proxy_parts(pending_timeout=300.0, connect_attempts=300)
    address, (listener, *kept) = full
    cluster = parts.service("votes", address, timeouts=Timeouts(connect=0.2))
    asking = Asking(parts, cluster)
    await until(lambda: parts.reports.refusals)
    listener.setblocking(False)
    for one in kept:
        one.close()
    server = trio.socket.from_stdlib_socket(listener)

    async def accept() -> None:
        while True:
            sock, _ = await server.accept()
            parts.nursery.start_soon(http1_server(), trio.SocketStream(sock))

    parts.nursery.start_soon(accept)
    await until(lambda: asking.over)
    assert asking.status == 200
    parts.nursery.cancel_scope.cancel()


async def test_a_refused_connect_is_not_tried_again(proxy_parts, refusing, until) -> None:
    """Where there is no other endpoint: it has said no."""
    parts = await proxy_parts(connect_attempts=3)
    cluster = parts.service("votes", refusing)
    asking = Asking(parts, cluster)
    await until(lambda: asking.over)
    assert parts.reports.refusals == {("connect_failed", "votes"): 1}


# --- health checks ----------------------------------------------------------------------

CHECKED = Traffic(health=HealthCheck(HealthKind.TCP, interval=0.01, timeout=5.0, unhealthy=1, healthy=1))


def checks(cluster: Cluster) -> list[trio.lowlevel.Task]:
    """The tasks that check endpoints."""
    if cluster.nursery is None:
        return []
    return [
        task
        for endpoint in cluster.nursery.child_tasks
        for nursery in endpoint.child_nurseries
        for task in nursery.child_tasks
        if task.name == "health check"
    ]


async def test_checks_run_as_long_as_policy_asks_for_them(proxy_parts, serve, refusing, until) -> None:
    """Without a request: who refuses is left out. A policy that changes has one task still; gone, none is left."""
    parts = await proxy_parts()
    good = await serve(silent)
    cluster = parts.service("votes", refusing, good)
    assert not checks(cluster)
    cluster.update(msgspec.structs.replace(cluster.spec, traffic=CHECKED))
    bad = cluster.endpoints[0]
    await until(lambda: not bad.healthy)
    assert [one.address for one in cluster.balancer.endpoints] == [good]
    assert bad.condition(0.0) == "unhealthy (Connection refused)"
    assert len(checks(cluster)) == 2
    before = bad.health
    cluster.update(msgspec.structs.replace(cluster.spec, endpoints=(*cluster.spec.endpoints, EndpointSpec("[::1]:1"))))
    assert bad.health is before, "the policy is the same"
    await until(lambda: len(checks(cluster)) == 3)
    slower = Traffic(health=HealthCheck(HealthKind.TCP, interval=300.0))
    cluster.update(msgspec.structs.replace(cluster.spec, traffic=slower))
    assert bad.health is not before
    assert bad.healthy
    assert bad in cluster.balancer.endpoints
    await until(lambda: len(checks(cluster)) == 3)
    assert not any(task for task in checks(cluster) if task.name != "health check")
    cluster.update(msgspec.structs.replace(cluster.spec, traffic=Traffic()))
    await until(lambda: not checks(cluster))
    assert bad.health is None


async def test_an_endpoint_that_recovers_is_used_again(proxy_parts, until) -> None:
    """Checks find it well, and its share begins anew."""
    parts = await proxy_parts()
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        cluster = parts.service("votes")
        cluster.update(Service("votes", (EndpointSpec(address),), traffic=CHECKED))
        (endpoint,) = cluster.endpoints
        await until(lambda: not endpoint.healthy)
        ill = endpoint.load.since
        listener.listen(100)
        await until(lambda: endpoint.healthy)
        assert endpoint.load.since > ill
        cluster.retire()
        await until(lambda: not cluster.nursery.child_tasks)


@pytest.mark.parametrize("how", ["leaves", "retired"])
async def test_no_check_outlives_its_endpoint(proxy_parts, serve, until, how: str) -> None:
    """An endpoint that left, or whose service did, is asked nothing any more, and its tasks are gone."""
    parts = await proxy_parts()
    cluster = parts.service("votes")
    cluster.update(Service("votes", (EndpointSpec(await serve(silent)),), traffic=CHECKED))
    await until(lambda: len(checks(cluster)) == 1)
    if how == "leaves":
        cluster.update(Service("votes", (), traffic=CHECKED))
    else:
        cluster.retire()
    parts.reactor.settle()
    await until(lambda: not cluster.nursery.child_tasks)
