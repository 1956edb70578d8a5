"""Power of two choices over peak EWMA, with a seeded Random and a clock that is a number."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.balance import DECAY, UNKNOWN, Balancer, Load, Loaded


class One(Loaded):
    def __init__(self, name: str, weight: int = 1, ewma: float = UNKNOWN, pending: int = 0) -> None:
        self.name = name
        self.load = Load(weight, 0.0)
        self.load.ewma = ewma
        self.load.pending = pending

    def __repr__(self) -> str:
        return self.name


def shares(endpoints: list[One], draws: int = 6000, hold: bool = False) -> Counter[str]:
    """How often each is chosen; with `hold` every choice stays pending."""
    balancer = Balancer(endpoints, Random(7).random)
    chosen: Counter[str] = Counter()
    for _ in range(draws):
        endpoint = balancer.choose()
        assert endpoint is not None
        chosen[endpoint.name] += 1
        endpoint.load.pending += hold
    return chosen


def test_equal_endpoints_get_equal_shares() -> None:
    """With equal load each of four gets a quarter, within a tenth, once what is pending is counted."""
    found = shares([One(name) for name in "abcd"], hold=True)
    assert all(abs(found[name] - 1500) < 150 for name in "abcd")


def test_the_slow_one_is_spared_and_not_starved_of_two() -> None:
    """Of many, the slowest is only chosen when drawn against nobody faster: never."""
    found = shares([One("a"), One("b"), One("c"), One("slow", ewma=1.0)])
    assert found["slow"] == 0


def test_pending_requests_weigh_as_much_as_latency() -> None:
    """Twice as slow with a third of the requests in hand is the better choice."""
    busy, slow = One("busy", ewma=0.01, pending=5), One("slow", ewma=0.02, pending=1)
    assert shares([busy, slow])["slow"] == 6000


@pytest.mark.parametrize("weights", [(1, 3), (1, 1, 2), (5, 1, 0)])
def test_weights_are_kept_where_load_is_proportional(weights: tuple[int, ...]) -> None:
    """Where the work in hand follows the weights the shares do so roughly; weight 0 gets nothing."""
    endpoints = [One(str(index), weight) for index, weight in enumerate(weights)]
    found = shares(endpoints)
    assert all((found[one.name] == 0) == (one.load.weight == 0) for one in endpoints)
    for one in endpoints:
        for other in endpoints:
            assert one.load.weight >= other.load.weight or found[one.name] < found[other.name]


def test_a_canary_gets_its_share_however_idle_it_is() -> None:
    """99 to 1 with equal latency: the light one, always less loaded, is not flooded."""
    heavy, light = One("heavy", 99, pending=50), One("light", 1)
    found = shares([heavy, light], draws=20_000)
    assert 150 < found["light"] < 600  # 1 % drawn first, 1 % drawn second


@given(
    weights=st.lists(st.integers(0, 5), max_size=6),
    seed=st.integers(),
    excluded=st.sets(st.integers(0, 5)),
    loads=st.lists(st.tuples(st.floats(1e-6, 10), st.integers(0, 100)), min_size=6, max_size=6),
)
def test_a_choice_is_never_of_weight_zero_and_avoids_the_excluded(
    weights: list[int], seed: int, excluded: set[int], loads: list[tuple[float, int]]
) -> None:
    """None only where nobody has weight; an excluded one only where no other is left."""
    endpoints = [One(str(index), weight, *loads[index]) for index, weight in enumerate(weights)]
    avoid = [one for index, one in enumerate(endpoints) if index in excluded]
    chosen = Balancer(endpoints, Random(seed).random).choose(avoid)
    able = [one for one in endpoints if one.load.weight]
    if not able:
        assert chosen is None
    else:
        assert chosen in able
        assert chosen not in avoid or all(one in avoid for one in able)


@pytest.mark.parametrize("value", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_random_range_are_in_bounds(value: float) -> None:
    """0 and the largest float below 1 draw an endpoint, weighted or not."""
    for weights in ((1, 1), (1, 2), (3, 1, 2), (1,)):
        endpoints = [One(str(index), weight) for index, weight in enumerate(weights)]
        assert Balancer(endpoints, lambda: value).choose() in endpoints


def test_a_slow_answer_counts_at_once_and_fades() -> None:
    """The peak is taken over whole; after DECAY seconds 1/e of its excess is left."""
    load = Load(1, 0.0)
    load.observe(2.0, 1.0)
    assert load.ewma == 2.0
    load.observe(1.0, 1.0 + DECAY)
    assert math.isclose(load.ewma, 1.0 + 1.0 / math.e)


def test_an_instant_later_nothing_has_faded() -> None:
    """A fast answer at the same instant does not erase the peak."""
    load = Load(1, 0.0)
    load.observe(2.0, 1.0)
    load.observe(0.001, 1.0)
    assert load.ewma == 2.0


def test_one_slow_answer_does_not_starve_an_endpoint() -> None:
    """Single requests all go to the fast one of two until what is known of the other is old; then it is tried."""
    slow, fast = One("slow"), One("fast")
    slow.load.observe(0.1, 0.0)
    balancer, now = Balancer([slow, fast], Random(7).random), 0.0
    while balancer.choose((), now) is fast:
        now += 0.5
        fast.load.observe(0.001, now)
        assert now < 6 * DECAY
    assert now > 4 * DECAY  # 0.1 s, as it fades, is 1 ms after ln 100 times DECAY
    slow.load.pending = 1
    before = slow.load.ewma
    slow.load.fade(now + 99.0)
    assert slow.load.ewma == before  # what it does now is not known yet, and may be slow


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 60)), max_size=30))
def test_the_estimate_stays_within_what_was_seen(seen: list[tuple[float, float]]) -> None:
    """Never above the greatest latency nor below the least, whenever they came."""
    load, now = Load(1, 0.0), 0.0
    for latency, gap in seen:
        now += gap
        load.observe(latency, now)
    values = [UNKNOWN, *(latency for latency, _ in seen)]
    assert min(values) * 0.999999 <= load.ewma <= max(values) * 1.000001


def test_repr_tells_the_load() -> None:
    """What a person debugging wants: requests, latency, weight."""
    assert repr(One("a", 3, 0.0125, 2).load) == "<Load 2 pending, 12.50 ms, weight 3>"
