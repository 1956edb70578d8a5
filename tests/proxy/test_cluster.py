"""Clusters: what waits, what an update keeps, what retiring ends."""

from __future__ import annotations

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Service
from tests.proxy.asking import Asking, http1_server, pending


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
