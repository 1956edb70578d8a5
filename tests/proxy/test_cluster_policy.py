"""Clusters and their policies: what an update keeps, who is chosen by key and zone, what is said of the endpoints."""

from __future__ import annotations

from collections import Counter

import msgspec
import pytest

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Service
from mesh.model.traffic import (
    Backend,
    Balancing,
    BalancingKind,
    Breaker,
    Concurrency,
    HashOn,
    HealthCheck,
    Injection,
    Mirror,
    RateLimit,
    Retry,
    RetryBudget,
    Route,
    Traffic,
)
from mesh.proxy.cluster import Cluster
from mesh.proxy.dial import ConnectFailed
from mesh.proxy.health import Health
from mesh.proxy.rescue import Reason
from tests.proxy.playbook import Stage, addresses

FULL = Traffic(
    retry=Retry(),
    budget=RetryBudget(percent=10.0),
    rate_limits=(RateLimit(2.0),),
    concurrency=Concurrency(most=5),
    routed=True,
    routes=(Route("r/0"),),
)
DOWN = ConnectFailed(Reason.CONNECT_FAILED, "Connection refused", "10.0.0.1:80")


# --- what an update keeps ---------------------------------------------------------------


def test_what_counts_survives_an_update_that_is_about_something_else() -> None:
    """Budget, buckets, gate and compiled routes are the same objects after the breaker, or the endpoints, changed."""
    stage = Stage(2, connected=False, traffic=FULL)
    before = stage.cluster.plan
    stage.update(traffic=msgspec.structs.replace(FULL, breaker=Breaker(failures=1)), endpoints=addresses(1, 3))
    after = stage.cluster.plan
    assert after is not before
    assert after.budget is before.budget
    assert after.rates is before.rates
    assert after.gate is before.gate
    assert after.routes is before.routes


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("budget", {"budget": RetryBudget(percent=30.0)}),
        ("rates", {"rate_limits": (RateLimit(3.0),)}),
        ("gate", {"concurrency": Concurrency(most=6)}),
        ("routes", {"routes": (Route("r/1"),)}),
    ],
)
def test_what_an_update_is_about_begins_anew(part: str, change: dict) -> None:
    """And only that."""
    stage = Stage(connected=False, traffic=FULL)
    before = stage.cluster.plan
    stage.update(traffic=msgspec.structs.replace(FULL, **change))
    changed = {
        one
        for one in ("budget", "rates", "gate", "routes")
        if getattr(stage.cluster.plan, one) is not getattr(before, one)
    }
    assert changed == {part}


def test_a_bucket_that_was_emptied_stays_empty() -> None:
    """An update of the breaker is no present of tokens."""
    traffic = Traffic(rate_limits=(RateLimit(1.0),))
    stage = Stage(connected=False, traffic=traffic)
    assert stage.ask() is not None
    assert stage.ask() is None
    stage.update(traffic=msgspec.structs.replace(traffic, breaker=Breaker(failures=1)))
    assert stage.ask() is None
    assert stage.tallies("limited") == {"rate": 2}


def test_a_service_without_policies_is_not_governed() -> None:
    """And becomes so live, and back."""
    stage = Stage(connected=False)
    assert not stage.cluster.governed
    assert stage.ask().care is None
    stage.update(traffic=Traffic(retry=Retry()))
    assert stage.ask().care is not None
    stage.update(traffic=Traffic())
    assert stage.ask().care is None


@pytest.mark.parametrize(("meshed", "limited"), [(True, False), (False, True)])
def test_a_caller_limits_only_where_nobody_else_does(meshed: bool, limited: bool) -> None:
    """An endpoint with a proxy of its own is limited there."""
    traffic = Traffic(rate_limits=(RateLimit(1.0),), concurrency=Concurrency(most=1))
    stage = Stage(2, connected=False, traffic=traffic, meshed=meshed)
    assert (stage.cluster.plan.rates is not None, stage.cluster.plan.gate is not None) == (limited, limited)
    stage.update(endpoints=(*addresses(1, 2, meshed=True), *addresses(3, 1)))
    assert stage.cluster.plan.rates is not None


def test_an_application_is_governed_by_limits_alone() -> None:
    """Faults, retries, routes and checks are the callers'; the endpoint stays, whatever the control plane says."""
    stage = Stage(outbound=False)
    (before,) = stage.endpoints
    told = msgspec.structs.replace(FULL, faults=(Injection(delay=1.0),), health=HealthCheck())
    stage.cluster.govern(Service("votes", addresses(9, 3), traffic=told))
    plan = stage.cluster.plan
    assert stage.endpoints == [before]
    assert plan.rates is not None
    assert plan.gate is not None
    assert (plan.faults, plan.retrying, plan.routed, plan.retries) == (None, None, False, False)
    assert before.health is None
    stage.cluster.govern(Service("votes"))
    assert not stage.cluster.governed


# --- who is chosen ----------------------------------------------------------------------


def test_a_key_stays_with_its_endpoint() -> None:
    """By a header; requests without it are balanced as ever, and a key moves only while its endpoint is not there."""
    hashed = Balancing(BalancingKind.HASH, HashOn(header="x-user"))
    stage = Stage(5, connected=False, traffic=Traffic(balancing=hashed))
    users = [b"user%d" % number for number in range(30)]

    def chosen() -> dict[bytes, str]:
        return {user: stage.ask(fields=[(b"x-user", user)]).endpoint.address for user in users}

    first = chosen()
    assert chosen() == first
    assert len(set(first.values())) == 5
    lost = stage.endpoints[2]
    lost.mark_down(DOWN, stage.now)
    moved = chosen()
    assert {user for user in users if moved[user] != first[user]} == {
        user for user in users if first[user] == lost.address
    }
    stage.now = lost.down_until
    assert chosen() == first


def test_a_key_may_be_the_clients_address() -> None:
    """All requests of one client are one key."""
    hashed = Balancing(BalancingKind.HASH, HashOn(source=True))
    stage = Stage(5, connected=False, traffic=Traffic(balancing=hashed))
    assert len({stage.ask().endpoint for _ in range(20)}) == 1


@pytest.mark.parametrize(
    ("own", "down", "expected"), [("a", 0, {"a"}), ("a", 2, {"b"}), ("", 0, {"a", "b"}), ("c", 0, {"a", "b"})]
)
def test_traffic_stays_in_the_proxys_zone(own: str, down: int, expected: set[str]) -> None:
    """While that has endpoints; a proxy that knows no zone, or one without endpoints, uses all."""
    stage = Stage(connected=False)
    specs = tuple(EndpointSpec(f"10.0.0.{number}:80", zone="ab"[number % 2]) for number in range(4))
    spec = Service("words", specs, traffic=Traffic(balancing=Balancing(BalancingKind.ROUND_ROBIN, zone=True)))
    cluster = Cluster(stage.directory.shared._replace(zone=own), spec)
    for endpoint in [one for one in cluster.endpoints if one.zone == "a"][:down]:
        endpoint.mark_down(DOWN, stage.now)
    found = Counter(cluster.balancer.choose((), stage.now).zone for _ in range(40))
    assert set(found) == expected


# --- what people are told ---------------------------------------------------------------


def test_conditions_say_what_is_the_matter() -> None:
    """How many are in which state and why, the most frequent first."""
    stage = Stage(5, connected=False, traffic=Traffic(breaker=Breaker(failures=1)))
    assert stage.cluster.conditions(stage.now) == "5 endpoints: 5 in use"
    broken, unwell, down, *_ = stage.endpoints
    broken.failed(None, "status 500", stage.now)
    unwell.health = Health(HealthCheck(unhealthy=1))
    unwell.health.failed("answered 503")
    stage.update(traffic=Traffic(breaker=Breaker(failures=0)), endpoints=addresses(1, 5))
    assert stage.cluster.conditions(stage.now) == "5 endpoints: 4 in use, 1 ejected (status 500)"
    unwell.health = Health(HealthCheck(unhealthy=1))
    unwell.health.failed("answered 503")
    down.mark_down(DOWN, stage.now)
    said = stage.cluster.conditions(stage.now)
    assert said.startswith("5 endpoints: 2 in use, ")
    for one in ("1 ejected (status 500)", "1 unhealthy (answered 503)", "1 down (Connection refused)"):
        assert one in said
    stage.update(endpoints=())
    assert stage.cluster.conditions(stage.now) == "0 endpoints"


def test_an_error_for_waiting_too_long_says_for_what() -> None:
    """No endpoint, no connection (with the last error), or no word of the control plane."""
    stage = Stage(0, connected=False)
    found = []
    for _ in range(3):
        exchange = stage.ask()
        found.append(stage.cluster.why_pending(exchange, stage.now))
        stage.cluster.configured = False
        exchange.client_reset(stage.now)
        if len(found) == 2:
            stage.cluster.configured = True
            stage.update(endpoints=addresses(1, 1))
    assert found == [
        (Reason.NO_ENDPOINTS, "no endpoint became ready within 3 s (0 endpoints)"),
        (Reason.NOT_CONFIGURED, "the control plane has not said within 3 s what this service is"),
        (Reason.CONNECT_FAILED, "no connection became free within 3 s (1 endpoints: 1 in use)"),
    ]
    stage.endpoints[0].mark_down(DOWN, stage.now)
    exchange = stage.ask()
    assert stage.cluster.why_pending(exchange, stage.now) == (
        Reason.CONNECT_FAILED,
        "no connection became free within 3 s "
        "(last error: Connection refused; 1 endpoints: 1 down (Connection refused))",
    )
    stage.pass_time(4.0)
    assert ("response", exchange.stream, 503, False) in stage.said()


# --- the end ----------------------------------------------------------------------------


def test_retiring_ends_copies_that_are_under_way() -> None:
    """Those that wait and those that were sent; their originals go on."""
    backed = Route("r/0", backends=(Backend("votes"),), mirrors=(Mirror("words"), Mirror("birds")))
    stage = Stage(traffic=Traffic(routed=True, routes=(backed,)), others={"words": 1, "birds": 0})
    words, birds = (stage.directory.services[name] for name in ("words", "birds"))
    up = stage.connect(words.endpoints[0])
    exchange = stage.ask()
    assert len(up.exchanges) == len(words.mirrors) == len(birds.mirrors) == 1
    words.retire()
    birds.retire()
    assert not words.mirrors
    assert not birds.mirrors
    assert not up.exchanges
    assert exchange.upstream is stage.up
    assert stage.tallies("mirrored") == {"dropped": 1, "failed": 1}
