"""One upstream connection: what its end, its garbage and its GOAWAY mean to the exchanges on it."""

from __future__ import annotations

import trio

from mesh.model.config import Protocol, Service
from tests.proxy.asking import Asking, http2_server, pending, silent


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
    with trio.fail_after(30):
        await ended.wait()
    assert pending(cluster) == 0
    await until(lambda: not cluster.endpoints[0].connections)


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
    parts = await proxy_parts(upstream_http2_connections=1, pending_timeout=300.0)
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
