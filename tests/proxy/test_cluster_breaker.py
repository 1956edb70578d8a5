"""Which endpoints of a service get requests: those known to be down, unhealthy or ejected do not; one request tries an
ejected one again."""

from __future__ import annotations

from random import Random

import msgspec
import pytest

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.traffic import Balancing, BalancingKind, Breaker, HealthCheck, HealthKind, Retry, Traffic
from mesh.proxy.breaker import CircuitState
from mesh.proxy.cluster import PROBE_SECONDS
from mesh.proxy.dial import ConnectFailed
from mesh.proxy.health import Health
from mesh.proxy.rescue import Reason
from mesh.wire.codec import CANCEL, INTERNAL_ERROR, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import OK, Stage, addresses

CLOSED, OPEN, HALF_OPEN = CircuitState
BREAKER = Breaker(failures=2, probation=4.0)
IN_TURN = Balancing(BalancingKind.ROUND_ROBIN)
DOWN = ConnectFailed(Reason.CONNECT_FAILED, "Connection refused", "10.0.0.1:80")


def staged(count: int, breaker: Breaker = BREAKER, **more: object) -> Stage:
    """Endpoints with a connection each, which get requests in turn."""
    stage = Stage(count, connected=False, traffic=Traffic(breaker=breaker, balancing=IN_TURN, **more))
    stage.random.draw = Random(count).random
    for endpoint in stage.endpoints:
        stage.connect(endpoint)
    return stage


def answer(stage: Stage, exchange, status: int = 200) -> None:
    """The endpoint that `exchange` was sent to says so."""
    stage.hear(exchange.upstream, Response(exchange.up_stream, Head.response(status), True))


def fail(stage: Stage, *bad) -> None:
    """Requests until each of `bad`, which answer 500 to what they get, is ejected; the others answer well."""
    for _ in range(100):
        if all(one.circuit.state is OPEN for one in bad):
            return
        exchange = stage.ask()
        answer(stage, exchange, 500 if exchange.endpoint in bad else 200)
    raise AssertionError("it is not ejected")


def ejected(stage: Stage) -> tuple:
    """A stage's first endpoint, ejected, and its exchange that tries it, once it is due."""
    bad = stage.endpoints[0]
    fail(stage, bad)
    assert bad.circuit.state is OPEN
    stage.now = bad.circuit.opened_until
    probe = stage.ask()
    assert probe.endpoint is bad
    return bad, probe


def reached(stage: Stage, requests: int = 60) -> set[str]:
    """Who gets requests now."""
    found = set()
    for _ in range(requests):
        exchange = stage.ask()
        found.add(exchange.endpoint.address)
        answer(stage, exchange)
    return found


# --- who is fit -------------------------------------------------------------------------


def test_endpoints_that_are_not_fit_are_left_out() -> None:
    """Of five, one that is down, one that checks found unwell and one that was ejected get nothing."""
    stage = staged(5)
    down, unwell, broken, *rest = stage.endpoints
    fail(stage, broken)
    down.mark_down(DOWN, stage.now)
    unwell.health = Health(HealthCheck(unhealthy=1))
    assert unwell.health.failed("answered 500")
    unwell.health_changed()
    assert reached(stage) == {one.address for one in rest}
    assert [one.state(stage.now) for one in stage.endpoints] == ["down", "unhealthy", "ejected", "in_use", "in_use"]
    stage.now = down.down_until
    assert reached(stage) == {one.address for one in (down, *rest)}
    assert unwell.health.policy.healthy == 2
    assert [unwell.health.passed(), unwell.health.passed()] == [False, True]
    unwell.health_changed()
    assert unwell.load.since == stage.now, "it starts slowly, where that is asked for"
    assert reached(stage) == {one.address for one in (down, unwell, *rest)}
    stage.settled()


@pytest.mark.parametrize(("panic", "in_use"), [(0.0, 2), (30.0, 2), (40.0, 2), (41.0, 5), (100.0, 5)])
def test_with_too_few_that_are_fit_all_are_used(panic: float, in_use: int) -> None:
    """Two of five are 40 %: below `panic` nobody is left out."""
    stage = staged(5, Breaker(panic=panic))
    for endpoint in stage.endpoints[:3]:
        endpoint.mark_down(DOWN, stage.now)
    assert len(reached(stage)) == in_use


def test_when_none_is_fit_all_are_used_whatever_panic_says() -> None:
    """Trying is better than waiting for nothing."""
    stage = staged(2, Breaker(panic=0.0))
    for endpoint in stage.endpoints:
        endpoint.mark_down(DOWN, stage.now)
    assert len(reached(stage)) == 2


def test_endpoints_that_take_nothing_do_not_count() -> None:
    """Weight 0: the only one that takes requests is not ejected, and still used when it is down."""
    stage = Stage(0, connected=False, traffic=Traffic(breaker=BREAKER))
    idle = EndpointSpec("10.0.0.2:80", weight=0)
    stage.update(endpoints=(EndpointSpec("10.0.0.1:80"), idle))
    only = stage.endpoints[0]
    stage.connect(only)
    for _ in range(5):
        answer(stage, stage.ask(), 500)
    assert only.circuit.state is CLOSED
    only.mark_down(DOWN, stage.now)
    assert stage.ask().endpoint is only


# --- ejecting ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "share", "most"),
    [(1, 50.0, 0), (1, 100.0, 0), (2, 50.0, 1), (2, 49.0, 0), (5, 50.0, 2), (5, 60.0, 3), (5, 10.0, 0), (5, 100.0, 5)],
)
def test_no_more_than_a_share_is_ejected(count: int, share: float, most: int) -> None:
    """Of one, two and five endpoints that all fail; never the only one. Each ejection is counted once."""
    stage = staged(count, Breaker(failures=2, eject_most=share, panic=0.0))
    for _ in range(40 * count):
        answer(stage, stage.ask(), 500)
    out = [one.address for one in stage.endpoints if one.circuit.state is OPEN]
    assert len(out) == most
    assert stage.tallies("ejections") == dict.fromkeys(out, 1)
    stage.settled()


def test_an_endpoint_that_may_not_be_ejected_is_when_there_is_room() -> None:
    """Its next failure, after another one has recovered, ejects it."""
    stage = staged(2)
    first, second = stage.endpoints
    fail(stage, first)
    for _ in range(5):
        answer(stage, stage.ask(), 500)
    assert second.circuit.state is CLOSED
    stage.now = first.circuit.opened_until
    answer(stage, stage.ask())
    assert first.circuit.state is CLOSED
    while second.circuit.state is CLOSED:
        exchange = stage.ask()
        answer(stage, exchange, 500 if exchange.endpoint is second else 200)
    assert stage.tallies("ejections") == {first.address: 1, second.address: 1}


def test_an_endpoint_that_cannot_be_reached_is_ejected_too() -> None:
    """A failed connect is a failure, though no exchange has one."""
    stage = staged(2)
    bad = stage.endpoints[0]
    for _ in range(2):
        bad.mark_down(DOWN, stage.now)
    assert bad.circuit.state is OPEN
    assert bad.state(stage.now) == "ejected"


# --- trying it again --------------------------------------------------------------------


def test_one_request_tries_it_and_the_others_go_elsewhere() -> None:
    """Nobody does before probation is over; then exactly one does, however many come."""
    stage = staged(2)
    bad, good = stage.endpoints
    fail(stage, bad)
    stage.now = bad.circuit.opened_until - 0.001
    assert reached(stage) == {good.address}
    stage.now = bad.circuit.opened_until
    crowd = [stage.ask() for _ in range(20)]
    assert [one.endpoint for one in crowd] == [bad] + [good] * 19
    assert bad.circuit.state is HALF_OPEN
    for one in crowd:
        answer(stage, one)
    assert bad.circuit.state is CLOSED
    assert reached(stage) == {bad.address, good.address}
    stage.settled()


def test_success_closes_the_circuit_and_starts_slowly() -> None:
    """It has been away: its share grows from now on."""
    stage = staged(2)
    bad, probe = ejected(stage)
    stage.now += 0.5
    answer(stage, probe)
    assert bad.circuit.state is CLOSED
    assert bad.load.since == stage.now
    assert bad.probing is None
    assert bad.state(stage.now) == "in_use"


def test_failure_opens_it_again_for_longer() -> None:
    """Twice as long each time; the next verdict is another probe's."""
    stage = staged(2)
    bad, probe = ejected(stage)
    stage.random.draw = lambda: 0.5  # no jitter
    found = []
    for _ in range(3):
        answer(stage, probe, 500)
        assert bad.circuit.state is OPEN
        assert bad.probing is None
        found.append(bad.circuit.opened_until - stage.now)
        stage.now = bad.circuit.opened_until
        probe = stage.ask()
        assert probe.endpoint is bad
    assert found == [8.0, 16.0, 32.0]
    assert stage.tallies("ejections") == {bad.address: 1}, "it had not come back in between"
    answer(stage, probe)
    assert bad.circuit.state is CLOSED


@pytest.mark.parametrize("how", ["client", "deadline", "refused_unseen"])
def test_a_probe_without_a_verdict_frees_the_next(how: str) -> None:
    """The client left, its time was too short to tell, or the endpoint turned it away unseen: the next one tries."""
    stage = staged(2)
    bad, probe = ejected(stage)
    if how == "client":
        probe.client_reset(stage.now)
    elif how == "deadline":
        stage.now += 0.01
        probe.deadline = stage.now
        probe.expire(stage.now)
    else:
        stage.hear(probe.upstream, Reset(probe.up_stream, 7, True, "refused"))
        assert probe.endpoint is not bad or bad.probing is probe
    if bad.probing is None:
        assert bad.circuit.state is OPEN
        assert bad.circuit.due(stage.now)
        assert stage.ask().endpoint is bad
    assert bad.circuit.state is HALF_OPEN


def test_a_probe_that_waits_for_a_connection_and_is_given_up_frees_the_next() -> None:
    """It was in the endpoint's queue, and never sent."""
    stage = Stage(2, connected=False, traffic=Traffic(breaker=BREAKER))
    bad, good = stage.endpoints
    for _ in range(2):
        bad.mark_down(DOWN, stage.now)
    stage.connect(good)
    stage.now = max(bad.circuit.opened_until, bad.down_until)
    probe = stage.ask()
    assert probe in bad.queue
    assert stage.ask().endpoint is good
    probe.client_reset(stage.now)
    assert bad.probing is None
    assert bad.circuit.state is OPEN
    assert stage.ask() in bad.queue
    assert bad.circuit.state is HALF_OPEN


def test_a_probe_that_cannot_connect_is_a_failure_and_served_elsewhere() -> None:
    """The circuit opens for longer, and the client does not notice."""
    stage = Stage(2, connected=False, traffic=Traffic(breaker=BREAKER))
    bad, good = stage.endpoints
    for _ in range(2):
        bad.mark_down(DOWN, stage.now)
    stage.connect(good)
    stage.now = max(bad.circuit.opened_until, bad.down_until)
    probe = stage.ask()
    stage.refuse(bad)
    assert bad.circuit.state is OPEN
    assert bad.circuit.trips == 2
    assert probe.endpoint is good
    answer(stage, probe)
    stage.settled()


def test_a_probe_that_is_retried_elsewhere_has_spoken() -> None:
    """Its failure opens the circuit again at once, its success elsewhere says nothing of this one."""
    stage = staged(2, retry=Retry(statuses=(500,), backoff=0.0))
    bad = stage.endpoints[0]
    while bad.circuit.state is CLOSED:
        exchange = stage.ask()
        while exchange.endpoint is bad:
            answer(stage, exchange, 500)
        answer(stage, exchange)
    stage.now = bad.circuit.opened_until
    probe = stage.ask()
    assert probe.endpoint is bad
    answer(stage, probe, 500)
    assert probe.endpoint is not bad
    assert bad.circuit.state is OPEN
    answer(stage, probe)
    assert bad.circuit.state is OPEN
    assert bad.circuit.trips == 2
    stage.settled()


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize("when", ["open", "half_open"])
def test_late_answers_decide_nothing(status: int, when: str) -> None:
    """Requests that were sent before the ejection neither close the circuit nor make its probation longer."""
    stage = staged(2)
    bad = stage.endpoints[0]
    late = []
    while len(late) < 3:
        exchange = stage.ask()
        if exchange.endpoint is bad:
            late.append(exchange)
        else:
            answer(stage, exchange)
    for _ in range(2):
        bad.failed(None, "reset", stage.now)
    assert bad.circuit.state is OPEN
    until = bad.circuit.opened_until
    if when == "half_open":
        stage.now = until
        probe = stage.ask()
        assert probe.endpoint is bad
    for one in late:
        answer(stage, one, status)
    assert (bad.circuit.opened_until, bad.circuit.trips) == (until, 1)
    assert bad.circuit.state is (OPEN if when == "open" else HALF_OPEN)
    if when == "half_open":
        assert bad.probing is probe
        answer(stage, probe)
        assert bad.circuit.state is CLOSED
    stage.settled()


def test_a_grpc_probe_is_judged_by_its_status() -> None:
    """Its head says 200 whatever happens; the trailers are the verdict."""
    stage = staged(2)
    bad = stage.endpoints[0]
    fail(stage, bad)
    for code, state in ((b"14", OPEN), (b"0", CLOSED)):
        stage.now = bad.circuit.opened_until
        probe = stage.ask(b"POST", grpc=True)
        assert probe.endpoint is bad
        stage.hear(probe.upstream, Response(probe.up_stream, OK, False))
        assert bad.circuit.state is HALF_OPEN
        stage.hear(probe.upstream, Trailers(probe.up_stream, ((b"grpc-status", code),)))
        assert bad.circuit.state is state
    stage.settled()


@pytest.mark.parametrize("begun", [False, True])
def test_a_probe_that_takes_long_is_judged_by_whether_it_has_an_answer(begun: bool) -> None:
    """A stream that goes on closes the circuit; silence opens it again, and the next request tries it later."""
    stage = staged(2)
    bad = stage.endpoints[0]
    fail(stage, bad)
    stage.now = bad.circuit.opened_until
    probe = stage.ask(b"POST", grpc=True)
    if begun:
        stage.hear(probe.upstream, Response(probe.up_stream, OK, False))
    stage.pass_time(PROBE_SECONDS)
    stage.ask()  # whoever asks next finds it out
    assert bad.circuit.state is (CLOSED if begun else OPEN)
    assert bad.probing is None


@pytest.mark.parametrize("change", [{"weight": 5}, {"zone": "b"}, {"version": "v2"}])
def test_an_endpoint_that_is_only_described_anew_stays(change: dict) -> None:
    """Its connections, its load and its ejection are those of the address; weight and zone are the new ones."""
    stage = staged(2)
    bad = stage.endpoints[0]
    fail(stage, bad)
    first, second = stage.cluster.spec.endpoints
    changed = msgspec.structs.replace(first, **change)
    stage.cluster.update(msgspec.structs.replace(stage.cluster.spec, endpoints=(changed, second)))
    assert stage.cluster.endpoints[0] is bad
    assert bad.circuit.state is OPEN
    assert (bad.spec, bad.zone, bad.load.weight) == (changed, changed.zone, changed.weight)


def test_a_stream_that_is_broken_off_is_a_failure() -> None:
    """Also of a probe."""
    stage = staged(2)
    bad, probe = ejected(stage)
    stage.hear(probe.upstream, Response(probe.up_stream, OK, False))
    assert bad.circuit.state is CLOSED, "the head was the verdict"
    stage.hear(probe.upstream, Reset(probe.up_stream, INTERNAL_ERROR, False, "reset"))
    fail(stage, bad)
    stage.now = bad.circuit.opened_until
    probe = stage.ask(b"POST")
    stage.hear(probe.upstream, Reset(probe.up_stream, INTERNAL_ERROR, False, "reset"))
    assert bad.circuit.state is OPEN
    assert bad.circuit.cause == "reset"


def test_what_checks_find_unwell_is_not_tried() -> None:
    """A client's request does not find out what a check knows already; it does once the check is content."""
    stage = staged(2)
    bad, good = stage.endpoints
    fail(stage, bad)
    bad.health = Health(HealthCheck(HealthKind.TCP, unhealthy=1, healthy=1))
    bad.health.failed("Connection refused")
    bad.health_changed()
    stage.now = bad.circuit.opened_until + 1.0
    assert reached(stage) == {good.address}
    bad.health.passed()
    bad.health_changed()
    assert stage.ask().endpoint is bad


# --- connections that are not HTTP ------------------------------------------------------


def test_an_opaque_connection_probes_too() -> None:
    """One is dialled to it, the others elsewhere; that it can be dialled closes the circuit."""
    stage = staged(2)
    bad, good = stage.endpoints
    for _ in range(2):
        bad.mark_down(DOWN, stage.now)
    assert {stage.cluster.choose_to_dial([], stage.now) for _ in range(30)} == {good}
    stage.now = max(bad.circuit.opened_until, bad.down_until)
    assert [stage.cluster.choose_to_dial([], stage.now) for _ in range(5)] == [bad] + [good] * 4
    bad.unjudged(stage.now)
    assert stage.cluster.choose_to_dial([], stage.now) is bad, "the client left before it was dialled"
    bad.succeeded(None, stage.now)
    assert bad.circuit.state is CLOSED
    assert {stage.cluster.choose_to_dial([], stage.now) for _ in range(30)} == {bad, good}


def test_a_connection_does_not_probe_where_it_has_failed() -> None:
    """An endpoint that is due again while others were dialled is left to the next connection."""
    stage = staged(2)
    bad, good = stage.endpoints
    for _ in range(2):
        bad.mark_down(DOWN, stage.now)
    stage.now = max(bad.circuit.opened_until, bad.down_until)
    assert stage.cluster.choose_to_dial([bad], stage.now) is good
    assert stage.cluster.choose_to_dial([bad, good], stage.now) is not None
    assert bad.circuit.state is OPEN
    assert stage.cluster.choose_to_dial([], stage.now) is bad


# --- a new policy -----------------------------------------------------------------------


def test_a_new_breaker_is_followed_by_endpoints_that_stay() -> None:
    """Failures so far count, and who is out stays out until its time has come."""
    stage = staged(3, Breaker(failures=100, eject_most=100.0, panic=0.0))
    first, second, _ = stage.endpoints
    for _ in range(3):
        first.failed(None, "status 500", stage.now)
    assert first.circuit.state is CLOSED
    traffic = stage.cluster.spec.traffic
    stage.update(traffic=msgspec.structs.replace(traffic, breaker=Breaker(failures=4, eject_most=100.0)))
    assert stage.endpoints[0] is first
    first.failed(None, "status 500", stage.now)
    assert first.circuit.state is OPEN
    until = first.circuit.opened_until
    stage.update(traffic=Traffic(breaker=Breaker(failures=0)))
    assert (first.circuit.state, first.circuit.opened_until) == (OPEN, until)
    for _ in range(50):
        second.failed(None, "status 500", stage.now)
    assert second.circuit.state is CLOSED
    stage.update(endpoints=addresses(1, 4))
    assert all(one.circuit.policy.failures == 0 for one in stage.endpoints), "new ones begin with it"
    stage.now = until
    answer(stage, stage.ask())
    assert first.circuit.state is CLOSED


def test_an_update_that_leaves_the_breaker_alone_keeps_its_counts() -> None:
    """A failure before an unrelated change and one after are two in a row."""
    stage = staged(2)
    bad = stage.endpoints[0]
    bad.failed(None, "status 500", stage.now)
    stage.update(traffic=msgspec.structs.replace(stage.cluster.spec.traffic, retry=Retry()))
    bad.failed(None, "status 500", stage.now)
    assert bad.circuit.state is OPEN


def test_an_endpoint_that_leaves_while_it_is_tried_ends_quietly() -> None:
    """The probe still gets its answer; nobody is told of an endpoint that is not there."""
    stage = staged(2)
    bad, probe = ejected(stage)
    stage.update(endpoints=(stage.endpoints[1].spec,))
    answer(stage, probe)
    assert bad.retired
    assert stage.ask().endpoint is not bad
    assert stage.cluster.probes == []


def test_a_health_policy_that_goes_takes_its_verdict_along() -> None:
    """An endpoint that checks found unwell is used again as soon as nobody asks for checks."""
    policy = HealthCheck(unhealthy=1)
    stage = staged(2, health=policy)
    unwell, good = stage.endpoints
    unwell.health = Health(policy)
    unwell.health.failed("answered 500")
    unwell.health_changed()
    assert reached(stage) == {good.address}
    stage.update(traffic=Traffic(breaker=BREAKER))
    assert reached(stage) == {unwell.address, good.address}
    assert unwell.state(stage.now) == "in_use"


def test_cancelled_is_no_failure() -> None:
    """Clients that leave say nothing about the endpoint."""
    stage = staged(2)
    for _ in range(30):
        exchange = stage.ask()
        upstream, stream = exchange.upstream, exchange.up_stream
        exchange.client_reset(stage.now)
        assert ("reset", stream, CANCEL) in stage.asked(upstream)
    assert {one.circuit.state for one in stage.endpoints} == {CLOSED}
