"""What a service's policies come to, by the side the proxy is on, and what a new version of them keeps."""

from __future__ import annotations

import msgspec
import pytest

from mesh.model.config import Service, Timeouts
from mesh.model.traffic import (
    Abort,
    Backend,
    Concurrency,
    Hedge,
    Injection,
    Match,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    Traffic,
)
from mesh.proxy.plan import Plan
from tests.proxy.playbook import addresses

ROUTE = Route("r/0", Match(), (Backend(""),))
ALL = Traffic(
    routed=True,
    routes=(ROUTE, msgspec.structs.replace(ROUTE, name="r/1", retry=Retry(attempts=7))),
    retry=Retry(attempts=3, hedge=Hedge()),
    rate_limits=(RateLimit(1.0),),
    concurrency=Concurrency(most=1),
    faults=(Injection(abort=Abort()),),
)


def plan(traffic: Traffic, old: Plan | None = None, *, outbound: bool = True, meshed: bool = True) -> Plan:
    return Plan(Service("votes", addresses(1, 1, meshed), traffic=traffic), outbound, old, 0.0)


@pytest.mark.parametrize("outbound", [True, False])
def test_a_service_without_policy_is_not_governed(outbound: bool) -> None:
    """Its requests are simply sent."""
    assert not plan(Traffic(), outbound=outbound).governed
    assert not plan(Traffic(), outbound=outbound, meshed=False).governed


@pytest.mark.parametrize(
    "traffic",
    [
        Traffic(retry=Retry()),
        Traffic(routed=True),
        Traffic(faults=(Injection(delay=1.0),)),
        Traffic(routed=True, routes=(msgspec.structs.replace(ROUTE, retry=Retry()),)),
    ],
)
def test_what_governs_at_the_caller_does_not_beside_the_service(traffic: Traffic) -> None:
    """Routes, retries and faults are the caller's proxy's."""
    assert plan(traffic).governed
    assert not plan(traffic, outbound=False).governed


@pytest.mark.parametrize("traffic", [Traffic(rate_limits=(RateLimit(1.0),)), Traffic(concurrency=Concurrency(most=1))])
def test_limits_govern_beside_the_service(traffic: Traffic) -> None:
    """Or at the caller's, where an endpoint has no proxy that would keep them."""
    assert plan(traffic, outbound=False).governed
    assert plan(traffic, meshed=False).governed
    assert not plan(traffic).governed


def test_a_try_timeout_governs() -> None:
    """It needs somebody who looks at the clock; at the caller's only."""
    service = Service("votes", timeouts=Timeouts(backend_request=1.0))
    assert Plan(service, True, None, 0.0).governed
    assert Plan(service, True, None, 0.0).try_timeout == 1.0
    assert not Plan(service, False, None, 0.0).governed


def test_beside_the_service_routes_name_what_limits_tell_apart() -> None:
    """They are found there, and nothing of them is done."""
    inbound = plan(ALL, outbound=False)
    assert inbound.routes is not None
    assert not inbound.routed
    assert not inbound.by_route
    assert (inbound.retrying, inbound.faults, inbound.latencies) == (None, None, None)


def test_a_route_without_retries_of_its_own_has_the_services() -> None:
    """One with its own has those alone."""
    assert [one.policy.attempts for one in plan(ALL).by_route.values()] == [3, 7]


def test_what_counts_survives_a_version_that_leaves_it_alone() -> None:
    """Budget, latencies, routes, buckets and gate are the same objects; the rest is made anew."""
    old = plan(ALL, meshed=False)
    new = plan(msgspec.structs.replace(ALL, faults=()), old, meshed=False)
    assert new.faults is None
    for name in ("budget", "latencies", "routes", "rates", "gate"):
        assert getattr(new, name) is getattr(old, name) is not None


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("budget", {"budget": RetryBudget(percent=1.0)}),
        ("routes", {"routes": (ROUTE,)}),
        ("rates", {"rate_limits": (RateLimit(2.0),)}),
        ("gate", {"concurrency": Concurrency(most=2)}),
    ],
)
def test_what_a_version_changes_is_made_anew(name: str, changes: dict) -> None:
    """And only that."""
    old = plan(ALL, meshed=False)
    new = plan(msgspec.structs.replace(ALL, **changes), old, meshed=False)
    for other in ("budget", "latencies", "routes", "rates", "gate"):
        assert (getattr(new, other) is getattr(old, other)) is (other != name)


def test_what_is_gone_is_not_kept() -> None:
    """An empty policy after a full one governs nothing."""
    new = plan(Traffic(), plan(ALL, meshed=False), meshed=False)
    assert not new.governed
    assert (new.routes, new.rates, new.gate, new.latencies, new.retrying) == (None,) * 5
