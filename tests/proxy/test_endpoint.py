"""Endpoints: dialling, lending, queues, backoff, retirement, against small servers on loopback."""

from __future__ import annotations

import pytest
import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Protocol, Service, Timeouts
from tests.proxy.asking import Asking, http1_server, http2_server, pending


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
