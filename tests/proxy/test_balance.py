"""Power of two choices over peak EWMA, with a seeded Random and a clock that is a number."""

from __future__ import annotations

import math
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.balance import COLDEST, DECAY, UNKNOWN, Balancer, Load
from tests.proxy.balanced import One, ramp


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


# --- slow start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("latency", [0.0, 0.001, 0.05])
def test_a_new_endpoint_gets_a_share_that_grows(count: int, latency: float) -> None:
    """A tenth of what the others get at first, half of it half way, then all; idle (0 s) as well as busy."""
    assert 0.07 < ramp(Balancer, count, age=0.0, latency=latency) < 0.16
    assert 0.38 < ramp(Balancer, count, age=50.0, latency=latency) < 0.62
    assert 0.85 < ramp(Balancer, count, age=100.0, latency=latency) < 1.2


def test_a_new_endpoint_that_hangs_gets_less_than_its_share() -> None:
    """Requests that it does not answer count against it before it is warm, too."""
    old, new = [One(str(index)) for index in range(4)], One("new")
    new.load.since = 100.0
    balancer = Balancer([*old, new], Random(7).random, 10.0, 100.0)
    for _ in range(2000):
        chosen = balancer.choose((), 100.0)
        assert chosen is not None
        chosen.load.pending += chosen is new
    assert new.load.pending < 10


def test_a_new_endpoint_that_is_first_of_all_is_used() -> None:
    """Where all are equally new, slow start changes nothing; one endpoint alone gets everything."""
    endpoints = [One("a"), One("b")]
    balancer = Balancer(endpoints, Random(7).random, 10.0, 0.0)
    found = Counter(str(balancer.choose((), 0.0)) for _ in range(2000))
    assert abs(found["a"] - 1000) < 150
    alone = One("alone")
    assert Balancer([alone], Random(7).random, 10.0, 0.0).choose((), 0.0) is alone


def test_weights_hold_while_warming() -> None:
    """Of weights 4 and 1, where the heavy one is half warm, shares are 2 to 1."""
    heavy, light = One("heavy", 4), One("light", 1)
    heavy.load.since = 50.0
    balancer = Balancer([heavy, light], Random(7).random, 100.0, 50.0)
    found = Counter(str(balancer.choose((), 100.0)) for _ in range(6000))
    assert 1.6 < found["heavy"] / found["light"] < 2.5


def test_a_retry_prefers_who_is_warm() -> None:
    """A failing endpoint's retries do not all go to the newcomer, which looks idle; they do if nobody else is left."""
    failing, busy, new = One("failing"), One("busy", pending=9), One("new")
    new.load.since = 5.0
    balancer = Balancer([failing, busy, new], Random(7).random, 10.0, 5.0)
    assert balancer.choose([failing], 5.0) is busy
    assert balancer.choose([failing, busy], 5.0) is new
    assert balancer.choose([failing], 15.0) is new  # warm


def test_warmth_has_bounds() -> None:
    """From COLDEST, also for clocks that say it is of the future, to 1; 1 where there is no slow start."""
    load = Load(1, 10.0)
    assert [load.warmth(10.0, now) for now in (0.0, 10.0, 15.0, 20.0, 99.0)] == [COLDEST, COLDEST, 0.5, 1.0, 1.0]
    assert load.warmth(0.0, 10.0) == 1.0


@pytest.mark.parametrize("value", [0.0, 0.5, 1 - 2**-53])
def test_the_ends_of_the_random_range_are_in_bounds_while_warming(value: float) -> None:
    """Some endpoint is chosen whatever the draws, and however often they are refused."""
    for weights in ((1, 1), (1, 2), (3, 1, 2)):
        endpoints = [One(str(index), weight) for index, weight in enumerate(weights)]
        endpoints[-1].load.since = 5.0
        assert Balancer(endpoints, lambda: value, 10.0, 5.0).choose((), 5.0) in endpoints
