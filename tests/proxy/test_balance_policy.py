"""What a policy makes of endpoints: the kind of balancer, and how a zone is preferred."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from mesh.model.traffic import Balancing, BalancingKind
from mesh.proxy.balance import Balancer
from mesh.proxy.balance_hash import Hashed
from mesh.proxy.balance_kinds import LeastRequest, RoundRobin
from mesh.proxy.balance_policy import Zoned, build
from tests.proxy.balanced import One

EVERY_KIND = pytest.mark.parametrize("kind", list(BalancingKind))
_RANDOM = Random("keys")
KEYS = [_RANDOM.getrandbits(63) for _ in range(4000)]


def zones(**counts: int) -> list[One]:
    """So many endpoints in each zone."""
    return [One(f"{zone}{index}:80", zone=zone) for zone, count in counts.items() for index in range(count)]


def share(balancer: Balancer[One], zone: str = "a") -> float:
    """The part of KEYS' requests that goes to the zone."""
    found = Counter(chosen.zone for key in KEYS if (chosen := balancer.choose((), 0.0, key)) is not None)
    assert found.total() == len(KEYS)
    return found[zone] / len(KEYS)


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        (BalancingKind.EWMA, Balancer),
        (BalancingKind.LEAST_REQUEST, LeastRequest),
        (BalancingKind.ROUND_ROBIN, RoundRobin),
        (BalancingKind.HASH, Hashed),
    ],
)
def test_each_kind_is_made(kind: BalancingKind, made: type) -> None:
    """The balancer is what the policy asks for, over those that are fit, with slow start where that applies."""
    endpoints = zones(a=3)
    endpoints[0].load.since = 100.0
    balancer = build(Balancing(kind, slow_start=10.0), endpoints, endpoints[:2], Random(7).random, now=100.0)
    assert type(balancer) is made
    assert balancer.endpoints == endpoints[:2]
    found = Counter(balancer.choose((), 100.0, key) for key in KEYS)
    assert endpoints[2] not in found
    cold = found[endpoints[0]] / found[endpoints[1]]
    assert cold > 0.8 if kind is BalancingKind.HASH else 0.05 < cold < 0.15


@EVERY_KIND
def test_without_endpoints_there_is_no_choice(kind: BalancingKind) -> None:
    """None for nobody, for nobody fit, and for nobody with weight, zone or not."""
    endpoints = [One("a:1", 0, zone="a"), One("b:1", 0, zone="b")]
    for zone in ("", "a"):
        for fit in ([], endpoints):
            assert build(Balancing(kind, zone=True), endpoints, fit, Random(7).random, zone=zone).choose() is None


@EVERY_KIND
@pytest.mark.parametrize(
    ("counts", "fit_here", "least", "most"),
    [
        ({"a": 10, "b": 10}, 10, 1.0, 1.0),
        ({"a": 10, "b": 10}, 7, 1.0, 1.0),
        ({"a": 10, "b": 10}, 5, 0.67, 0.76),  # 5 / (10 * 0.7)
        ({"a": 10, "b": 1}, 1, 0.11, 0.175),
        ({"a": 10, "b": 10}, 0, 0.0, 0.0),
        ({"a": 1, "b": 30}, 1, 1.0, 1.0),
        ({"a": 10}, 1, 1.0, 1.0),
    ],
)
def test_a_zone_keeps_what_it_is_well_enough_for(
    kind: BalancingKind, counts: dict[str, int], fit_here: int, least: float, most: float
) -> None:
    """All of the traffic while 70 % of its endpoints are fit, proportionally less below, all where nobody else is."""
    endpoints = zones(**counts)
    fit = endpoints[:fit_here] + endpoints[10:] if counts["a"] == 10 else endpoints
    balancer = build(Balancing(kind, zone=True), endpoints, fit, Random(7).random, zone="a")
    assert least <= share(balancer) <= most


@EVERY_KIND
@pytest.mark.parametrize("policy", [{"zone": False}, {"zone": True}])
def test_where_the_zone_says_nothing_all_are_used(kind: BalancingKind, policy: dict[str, bool]) -> None:
    """No preference, a proxy whose zone is unknown, or one in whose zone nobody is: each endpoint gets requests."""
    endpoints = zones(a=3, b=3)
    for zone in ("a", "b") if not policy["zone"] else ("", "c"):
        balancer = build(Balancing(kind, **policy), endpoints, endpoints, Random(7).random, zone=zone)
        assert 0.4 < share(balancer) < 0.6


@pytest.mark.parametrize(("overflow", "expected"), [(0.0, 1.0), (10.0, 1.0), (100.0, 0.1)])
def test_the_overflow_is_the_policys(overflow: float, expected: float) -> None:
    """One of ten fit is enough for 0 and for 10 %, and a tenth for 100 %."""
    endpoints = zones(a=10, b=10)
    fit = [endpoints[0], *endpoints[10:]]
    policy = Balancing(zone=True, zone_overflow=overflow)
    assert share(build(policy, endpoints, fit, Random(7).random, zone="a")) == pytest.approx(expected, abs=0.02)


@EVERY_KIND
def test_a_retry_leaves_the_zone_when_all_of_it_failed(kind: BalancingKind) -> None:
    """First the zone's other endpoint, then one elsewhere, and when nobody is left the zone again."""
    endpoints = zones(a=2, b=1)
    balancer = build(Balancing(kind, zone=True), endpoints, endpoints, Random(7).random, zone="a")
    assert balancer.choose(endpoints[:1], 0.0, 5) is endpoints[1]
    assert balancer.choose(endpoints[:2], 0.0, 5) is endpoints[2]
    assert balancer.choose(endpoints, 0.0, 5) in endpoints[:2]


def test_a_key_keeps_its_side_of_the_zone() -> None:
    """Hashed requests of one key do not alternate between the zone and the rest while half of the zone is unfit."""
    endpoints = zones(a=10, b=10)
    fit = endpoints[:5] + endpoints[10:]
    policy = Balancing(BalancingKind.HASH, zone=True)
    balancers = [build(policy, endpoints, fit, Random(seed).random, zone="a") for seed in (1, 2)]
    assert isinstance(balancers[0], Zoned)
    for key in KEYS[:300]:
        assert len({balancer.choose((), 0.0, key) for balancer in balancers for _ in range(3)}) == 1


def test_all_endpoints_of_a_zoned_balancer_can_be_seen() -> None:
    """Those fit for use, near ones first."""
    endpoints = zones(b=2, a=2)
    balancer = build(Balancing(zone=True), endpoints, endpoints, Random(7).random, zone="a")
    assert balancer.endpoints == endpoints[2:] + endpoints[:2]
