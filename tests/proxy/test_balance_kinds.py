"""Least request and round robin: shares, exclusion, slow start."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.balance import Balancer
from mesh.proxy.balance_kinds import LeastRequest, RoundRobin
from tests.proxy.balanced import One, ramp

KINDS = pytest.mark.parametrize("kind", [LeastRequest, RoundRobin])


def names(balancer: Balancer[One], count: int) -> str:
    """The names of the next `count` choices."""
    return "".join(str(balancer.choose()) for _ in range(count))


@KINDS
@given(
    weights=st.lists(st.integers(0, 5), max_size=6),
    seed=st.integers(),
    excluded=st.lists(st.sets(st.integers(0, 5)), min_size=1, max_size=5),
)
def test_a_choice_has_weight_and_avoids_the_excluded(
    kind: type[Balancer[One]], weights: list[int], seed: int, excluded: list[set[int]]
) -> None:
    """None only where nobody has weight; an excluded one only where no other is left; every time it is asked."""
    endpoints = [One(str(index), weight) for index, weight in enumerate(weights)]
    able = [one for one in endpoints if one.load.weight]
    balancer = kind(endpoints, Random(seed).random)
    for indices in excluded:
        avoid = [one for index, one in enumerate(endpoints) if index in indices]
        chosen = balancer.choose(avoid)
        assert chosen in able if able else chosen is None
        assert chosen not in avoid or all(one in avoid for one in able)


@KINDS
def test_weights_are_kept_by_idle_endpoints(kind: type[Balancer[One]]) -> None:
    """5, 3 and 1 get that many parts of nine, within a tenth of a part, where nobody has anything in hand."""
    balancer = kind([One("a", 5), One("b", 3), One("c", 1)], Random(7).random)
    found = Counter(names(balancer, 18_000))
    assert all(abs(found[name] - 2000 * weight) < 200 for name, weight in (("a", 5), ("b", 3), ("c", 1)))


@KINDS
@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("latency", [0.0, 0.05])
def test_a_new_endpoint_gets_a_share_that_grows(kind: type[Balancer[One]], count: int, latency: float) -> None:
    """A tenth of what the others get at first, half of it half way, then all."""
    assert 0.08 < ramp(kind, count, age=0.0, latency=latency) < 0.13
    assert 0.42 < ramp(kind, count, age=50.0, latency=latency) < 0.58
    assert 0.9 < ramp(kind, count, age=100.0, latency=latency) < 1.1


# --- least request ------------------------------------------------------------------------------------------------


def test_who_has_less_in_hand_is_chosen_however_slow() -> None:
    """Latency does not count, only requests in hand do."""
    slow, fast = One("s", ewma=9.0, pending=1), One("f", ewma=0.001, pending=2)
    assert names(LeastRequest([slow, fast], Random(7).random), 200) == "s" * 200


def test_requests_in_hand_settle_as_the_weights_are() -> None:
    """Where nothing is ever answered, 4 to 1 is what each has in the end."""
    heavy, light = One("h", 4), One("l", 1)
    balancer = LeastRequest([heavy, light], Random(7).random)
    for _ in range(5000):
        chosen = balancer.choose()
        assert chosen is not None
        chosen.load.pending += 1
    assert abs(light.load.pending - 1000) < 20


# --- round robin --------------------------------------------------------------------------------------------------


def test_equals_take_turns_strictly() -> None:
    """Each once per round, in the same order in every round; which one begins is left to chance."""
    orders = set()
    for seed in range(50):
        balancer = RoundRobin([One(name) for name in "abc"], Random(seed).random)
        order = names(balancer, 3)
        assert sorted(order) == ["a", "b", "c"]
        assert names(balancer, 300) == order * 100
        orders.add(order)
    assert len(orders) == 6


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers())
def test_every_endpoint_is_close_to_its_share_at_any_time(weights: list[int], seed: int) -> None:
    """After any number of choices nobody is a turn of its own, or two, away from what its weight is due."""
    endpoints = [One(str(index), weight) for index, weight in enumerate(weights)]
    balancer = RoundRobin(endpoints, Random(seed).random)
    found: Counter[One | None] = Counter()
    for total in range(1, 3 * sum(weights) + 1):
        found[balancer.choose()] += 1
        for endpoint in endpoints:
            due = total * endpoint.load.weight / sum(weights)
            assert abs(found[endpoint] - due) < len(weights) / 2 + 1


@pytest.mark.parametrize("seed", range(10))
def test_turns_of_a_heavy_one_are_spread(seed: int) -> None:
    """6 and 2: three or four of the heavy one's turns in a row, where a block would be six."""
    order = names(RoundRobin([One("a", 6), One("b", 2)], Random(seed).random), 800)
    assert abs(order.count("b") - 200) <= 1
    assert {len(run) for run in order.split("b")[1:-1]} <= {2, 3, 4}


def test_who_was_excluded_keeps_its_turn() -> None:
    """A retry takes somebody else's turn, and who was passed over is next."""
    balancer = RoundRobin([One(name) for name in "abc"], Random(1).random)
    order = names(balancer, 3)
    first = next(one for one in balancer.endpoints if one.name == order[0])
    assert str(balancer.choose([first])) == order[1]
    assert names(balancer, 2) == order[0] + order[2]
