"""From a head to an endpoint: limits, faults and routes, in that order, and what each of them answers."""

from __future__ import annotations

import pytest

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.config import Service, Timeouts
from mesh.model.traffic import (
    Abort,
    Backend,
    Concurrency,
    Edits,
    Injection,
    Match,
    Mirror,
    PathMatch,
    RateLimit,
    Redirect,
    Retry,
    Route,
    Traffic,
)
from mesh.proxy.deadlines import TICK
from mesh.proxy.exchange import DONE, HELD, QUEUED, SENT
from mesh.wire.codec import Response
from tests.proxy.playbook import LATE, OK, Stage, addresses


def routed(*backends: Backend, **rest) -> Traffic:
    """One route under /a."""
    return Traffic(routed=True, routes=(Route("r/0", Match(path=PathMatch("/a")), backends, **rest),))


def errors(play: Stage) -> list[tuple[int, int, str, str]]:
    """(status, gRPC status, outcome, error) of the reports."""
    return [(one.key.status, one.key.grpc_status, one.key.outcome, one.key.error) for one in play.reports.series]


# --- limits -----------------------------------------------------------------------------


@pytest.mark.parametrize("grpc", [False, True])
def test_a_request_over_the_rate_is_told_when_to_come_back(grpc: bool) -> None:
    """429 with retry-after, RESOURCE_EXHAUSTED for gRPC; the endpoint sees nothing of it."""
    play = Stage(traffic=Traffic(rate_limits=(RateLimit(0.5, burst=1),)))
    play.ask(grpc=grpc)
    play.ask(grpc=grpc)
    assert errors(play) == [(200 if grpc else 429, 8 if grpc else -1, "shed", "rate_limited")]
    assert play.codec.heads[3].get(b"retry-after") == b"2"
    assert play.tallies("limited") == {"rate": 1}
    assert len(play.asked()) == 1


def test_requests_in_hand_are_bounded() -> None:
    """503 beyond, and room again when one has ended."""
    play = Stage(traffic=Traffic(concurrency=Concurrency(most=1)))
    first = play.ask()
    assert play.ask() is None
    assert errors(play) == [(503, -1, "shed", "over_concurrency")]
    assert play.tallies("limited") == {"concurrency": 1}
    play.answer(Response(first.up_stream, OK, True))
    assert play.ask().state is SENT


@pytest.mark.parametrize(
    ("outbound", "meshed", "limited"), [(True, True, False), (True, False, True), (False, False, True)]
)
def test_limits_are_kept_at_the_service(outbound: bool, meshed: bool, limited: bool) -> None:
    """By the proxy beside it; by the caller's only where there is none."""
    traffic = Traffic(rate_limits=(RateLimit(1.0, burst=1),), concurrency=Concurrency(most=1))
    play = Stage(traffic=traffic, outbound=outbound, meshed=meshed)
    play.ask()
    assert (play.ask() is None) is limited


def test_the_rate_of_a_client_goes_by_its_address_without_port() -> None:
    """Another connection of the same client draws on the same bucket."""
    play = Stage(traffic=Traffic(rate_limits=(RateLimit(1.0, burst=1, by="client"),)))
    play.ask()
    play.downstream.peer = "127.0.0.1:6000"
    assert play.ask() is None
    play.downstream.peer = "127.0.0.2:5000"
    assert play.ask() is not None


# --- faults -----------------------------------------------------------------------------


@pytest.mark.parametrize("grpc", [False, True])
def test_an_abort_answers_in_the_clients_terms(grpc: bool) -> None:
    """With the status, or code, of the fault; nothing reaches the endpoint."""
    play = Stage(traffic=Traffic(faults=(Injection(abort=Abort(418, 5)),)))
    assert play.ask(grpc=grpc) is None
    assert errors(play) == [(200 if grpc else 418, 5 if grpc else -1, "failed", "fault")]
    assert play.tallies("faults") == {"abort": 1}
    assert play.asked() == []
    play.settled()


def test_a_delay_is_no_work_and_no_silence() -> None:
    """Nobody has it in hand, no bound on silence counts; then it is sent."""
    play = Stage(traffic=Traffic(faults=(Injection(delay=5.0),)), timeouts=Timeouts(idle=1.0))
    exchange = play.ask()
    assert exchange.state is HELD
    play.pass_time(4.9, TICK)
    play.downstream.watch(play.now)
    assert exchange.state is HELD
    assert play.pending() == 0
    play.pass_time(0.1 + LATE)
    assert exchange.state is SENT
    play.downstream.watch(play.now)
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    assert play.tallies("faults") == {"delay": 1}
    play.settled()


def test_an_abort_can_come_after_a_delay() -> None:
    """Then it is sent nowhere."""
    play = Stage(traffic=Traffic(faults=(Injection(delay=0.5, abort=Abort(500, 13)),)))
    exchange = play.ask()
    play.pass_time(0.5 + LATE)
    assert exchange.state is DONE
    assert play.outcomes() == [("failed", 500, "fault")]
    assert play.asked() == []
    play.settled()


def test_a_deadline_is_shorter_than_a_delay() -> None:
    """The client does not wait for a fault longer than for the service."""
    play = Stage(traffic=Traffic(faults=(Injection(delay=5.0),)), timeouts=Timeouts(request=1.0))
    play.ask()
    play.pass_time(1.0 + LATE)
    assert play.outcomes() == [("expired", 504, "timeout")]
    play.settled()


def test_a_fault_that_has_lifted_does_nothing() -> None:
    """By the wall's clock."""
    play = Stage(traffic=Traffic(faults=(Injection(delay=5.0, until=1_700_000_001.0),)))
    assert play.ask().state is HELD
    play.wall += 1.0
    assert play.ask().state is SENT


# --- routes -----------------------------------------------------------------------------


@pytest.mark.parametrize("grpc", [False, True])
def test_a_request_that_no_route_matches_is_not_found(grpc: bool) -> None:
    """404, UNIMPLEMENTED for gRPC."""
    play = Stage(traffic=routed(Backend("")))
    assert play.ask(path=b"/b", grpc=grpc) is None
    assert errors(play) == [(200 if grpc else 404, 12 if grpc else -1, "failed", "no_route")]
    assert play.ask(path=b"/a", grpc=grpc).state is SENT


def test_weights_choose_among_services() -> None:
    """What was asked for is counted, with the name of its route; what it led to is its peer."""
    play = Stage(traffic=routed(Backend("", 3), Backend("other", 1)), others={"other": 1})
    other = play.connect(play.directory.services["other"].endpoints[0])
    assert play.ask(path=b"/a").endpoint.cluster is play.cluster
    play.random.value = 0.8
    exchange = play.ask(path=b"/a")
    assert play.asked(other) == [("request", 1, b"/a", True)]
    play.hear(other, Response(1, OK, True))
    (series,) = play.reports.series
    assert (series.key.service, series.key.peer, series.key.route) == ("votes", "10.0.0.100:80", "r/0")
    assert exchange.parent is play.cluster


@pytest.mark.parametrize(
    "backends", [(), (Backend("", 0),), (Backend("gone", problem="there is none"),), (Backend("127.0.0.1:4140"),)]
)
def test_a_share_that_leads_nowhere_is_500(backends: tuple[Backend, ...]) -> None:
    """No backends, a reference that resolves to nothing, this proxy itself: the client is told, others are served."""
    play = Stage(traffic=routed(*backends))
    play.directory.own.add("127.0.0.1:4140")
    assert play.ask(path=b"/a") is None
    assert errors(play) == [(500, -1, "failed", "bad_backend")]
    play.settled()


def test_a_copy_that_would_lead_back_to_us_is_not_made() -> None:
    """The request itself is served."""
    play = Stage(traffic=routed(Backend(""), mirrors=(Mirror("127.0.0.1:4140"),)))
    play.directory.own.add("127.0.0.1:4140")
    assert play.ask(path=b"/a").state is SENT
    assert play.tallies("mirrored") == {"failed": 1}


def test_a_redirect_is_answered_here() -> None:
    """It completes, with its route, and needs no endpoint."""
    play = Stage(traffic=routed(redirect=Redirect(hostname="elsewhere", status=301)))
    assert play.ask(path=b"/a") is None
    assert play.codec.heads[1].get(b"location") == b"http://elsewhere/a"
    assert play.outcomes() == [("completed", 301, "")]
    assert play.reports.series[0].key.route == "r/0"
    assert play.asked() == []
    play.settled()


def test_edits_go_upstream_and_stay_out_of_the_clients_head() -> None:
    """Each try starts from the same."""
    play = Stage(traffic=routed(Backend(""), request=Edits(set=(("x-route", "1"),))))
    exchange = play.ask(path=b"/a")
    assert play.up.leg.codec.heads[1].get(b"x-route") == b"1"
    assert exchange.head.get(b"x-route") is None


def test_the_routes_times_and_retries_go_before_the_services() -> None:
    """Where a route says nothing the service's hold."""
    traffic = Traffic(
        routed=True,
        routes=(
            Route(
                "r/0",
                Match(path=PathMatch("/a")),
                (Backend(""),),
                timeout=1.0,
                try_timeout=0.5,
                retry=Retry(attempts=5, methods=("*",)),
            ),
            Route("r/1", Match(), (Backend(""),)),
        ),
        retry=Retry(attempts=1),
    )
    play = Stage(traffic=traffic, timeouts=Timeouts(request=2.0, backend_request=1.5))
    first, second = play.ask(b"POST", b"/a"), play.ask(b"POST", b"/b")
    assert first.deadline == play.now + 1.0
    assert first.care.try_until == play.now + 0.5
    assert (first.care.retrying.policy.attempts, first.care.repeats) == (5, True)
    assert second.deadline == play.now + 2.0
    assert second.care.try_until == play.now + 1.5
    assert (second.care.retrying.policy.attempts, second.care.repeats) == (1, False)


@pytest.mark.parametrize(
    ("field", "grpc", "left"),
    [
        ((b"grpc-timeout", b"250m"), True, 0.25),
        ((b"grpc-timeout", b"250m"), False, 1.0),
        ((b"grpc-timeout", b"5S"), True, 1.0),
        ((b"conduit-timeout-ms", b"300"), False, 0.3),
        ((b"conduit-timeout-ms", b"soon"), False, 1.0),
    ],
)
def test_a_client_can_shorten_its_time_only(field: tuple[bytes, bytes], grpc: bool, left: float) -> None:
    """The service's bound stands."""
    play = Stage(timeouts=Timeouts(request=1.0))
    assert play.ask(fields=[field], grpc=grpc).deadline == play.now + left


# --- waiting ----------------------------------------------------------------------------


@pytest.mark.parametrize("governed", [False, True])
@pytest.mark.parametrize("grpc", [False, True])
def test_whose_time_is_up_is_not_sent(grpc: bool, governed: bool) -> None:
    """It is answered at once, and no endpoint begins to work for it."""
    play = Stage(traffic=Traffic(rate_limits=(RateLimit(100),)) if governed else Traffic())
    field = (b"grpc-timeout", b"0n") if grpc else (b"conduit-timeout-ms", b"0")
    assert play.ask(grpc=grpc, fields=[field]) is None
    assert errors(play) == [(200 if grpc else 504, 4 if grpc else -1, "expired", "timeout")]
    assert play.asked() == []


def test_who_waits_for_the_first_word_about_a_service_learns_its_policy() -> None:
    """The limits count once, when they are known."""
    play = Stage(0, False)
    first, second = play.ask(), play.ask()
    play.update(endpoints=addresses(1, 1), traffic=Traffic(rate_limits=(RateLimit(1.0, burst=1),)))
    assert first.state is QUEUED
    assert second.state is DONE
    assert errors(play) == [(429, -1, "shed", "rate_limited")]
    play.connect()
    assert first.state is SENT


def test_who_was_let_through_is_not_asked_again() -> None:
    """It waits for endpoints, and moves on with them."""
    play = Stage(0, False, traffic=Traffic(concurrency=Concurrency(most=1)))
    play.update(endpoints=(EndpointSpec("10.0.0.1:80", weight=0),))
    exchange = play.ask()
    assert exchange.queue is play.cluster.waiting
    play.update(endpoints=addresses(1, 1))
    assert exchange.queue is play.endpoints[0].queue
    assert play.cluster.plan.gate.in_hand == 1


def test_a_backend_that_turns_out_to_be_none_is_500() -> None:
    """The control plane says so while the request waits for it."""
    play = Stage(traffic=routed(Backend("news")))
    play.ask(path=b"/a")
    assert play.asked_for == ["news"]
    play.directory.apply("news", None)
    assert errors(play) == [(500, -1, "failed", "bad_backend")]
    play.settled()


def test_a_backend_that_becomes_known_gets_the_request() -> None:
    """Under the policies of the service that was asked for."""
    play = Stage(traffic=routed(Backend("news")))
    exchange = play.ask(path=b"/a")
    play.directory.apply("news", Service("news", addresses(50, 1), traffic=Traffic(routed=True)))
    up = play.connect(play.directory.services["news"].endpoints[0])
    assert exchange.upstream is up
    play.hear(up, Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()
