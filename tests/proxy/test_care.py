"""Retries, backoff, per-try timeouts, answers that are held back or dropped: what policy does for one exchange."""

from __future__ import annotations

import pytest

from mesh.model.config import Protocol, Timeouts
from mesh.model.traffic import Backend, Breaker, Concurrency, Edits, Match, Retry, RetryBudget, Route, Traffic
from mesh.proxy.care import HEAD_SECONDS, SWALLOWED
from mesh.proxy.deadlines import TICK
from mesh.proxy.exchange import ANSWERING, DONE, HELD, QUEUED, SENT
from mesh.wire.codec import Data, Refused, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import LATE, LIMITS, OK, Stage

UNAVAILABLE = ((b"grpc-status", b"14"),)
FINE = ((b"grpc-status", b"0"),)


def stage(
    attempts: int = 1, *, endpoints: int = 2, budget: RetryBudget | None = None, rest: dict | None = None, **retry
) -> Stage:
    """Two connected endpoints; 503 is retried at once, `retry` says otherwise; the second connection is `other`."""
    policy = Retry(**{"attempts": attempts, "statuses": (503,), "backoff": 0.0, **retry})
    traffic = Traffic(retry=policy, budget=budget or RetryBudget(), breaker=Breaker(failures=0))
    made = Stage(endpoints, traffic=traffic, **(rest or {}))
    made.other = made.connect(made.endpoints[-1]) if endpoints > 1 else None
    return made


def bad(stream: int = 1, end: bool = True, *fields: tuple[bytes, bytes]) -> Response:
    return Response(stream, Head.response(503, fields), end)


# --- statuses ---------------------------------------------------------------------------


def test_a_status_that_is_listed_is_tried_again_elsewhere() -> None:
    """The client hears the second answer alone, and there is one report."""
    play = stage()
    exchange = play.ask()
    play.answer(bad())
    assert play.said() == []
    assert exchange.state is SENT
    assert play.asked(play.other) == [("request", 1, b"/", True)]
    play.hear(play.other, Response(1, OK, True))
    assert play.said() == [("response", 1, 200, True)]
    assert play.outcomes() == [("completed", 200, "")]
    assert play.tallies("retries") == {"status": 1}
    play.settled()


@pytest.mark.parametrize("status", [200, 500, 404])
def test_another_status_is_passed_on(status: int) -> None:
    """Only what the policy lists is tried again."""
    play = stage()
    play.ask()
    play.answer(Response(1, Head.response(status), True))
    assert play.outcomes() == [("completed", status, "")]
    assert play.tallies("retries") == {}
    play.settled()


def test_a_dropped_answer_is_read_to_its_end_first() -> None:
    """An HTTP/1.1 connection serves on: nothing is reset, every byte is given back, then the next try begins."""
    play = stage(rest={"protocol": Protocol.HTTP1, "connected": False}, endpoints=1)
    play.ask()
    up = play.connect()
    play.hear(up, bad(1, False), Data(1, b"so", False))
    assert up.leg.codec.acknowledged[1] == 2
    assert play.asked(up) == [("request", 1, b"/", True)]
    play.hear(up, Data(1, b"rry", True))
    assert up.leg.codec.acknowledged[1] == 5
    assert play.asked(up) == [("request", 3, b"/", True)]
    play.hear(up, Response(3, OK, True))
    assert play.said() == [("response", 1, 200, True)]
    play.settled()


@pytest.mark.parametrize("announced", [True, False])
def test_a_long_answer_is_not_read_to_its_end(announced: bool) -> None:
    """Its stream is given up: at the head that announces it, or at the byte too many."""
    play = stage()
    play.ask()
    if announced:
        play.answer(bad(1, False, (b"content-length", b"%d" % (SWALLOWED + 1))))
    else:
        play.answer(bad(1, False), Data(1, b"x" * (SWALLOWED + 1), False))
        assert play.up.leg.codec.acknowledged[1] == SWALLOWED + 1
    assert play.asked()[-1] == ("reset", 1, 8)
    assert play.asked(play.other) == [("request", 1, b"/", True)]
    play.hear(play.other, Response(1, OK, True))
    play.settled()


@pytest.mark.parametrize("how", ["reset", "unprocessed", "malformed", "lost"])
def test_a_dropped_answer_that_breaks_off_is_as_good_as_over(how: str) -> None:
    """The retry that was decided on takes place, once."""
    play = stage()
    play.ask()
    play.answer(bad(1, False))
    if how == "lost":
        play.lose(play.up)
    else:
        play.up.leg.codec.gone(1)
        play.answer(Refused(1, "why") if how == "malformed" else Reset(1, 2, how == "unprocessed", "reset"))
    assert play.asked(play.other) == [("request", 1, b"/", True)]
    play.hear(play.other, Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    assert play.tallies("retries") == {"status": 1}
    play.settled()


@pytest.mark.parametrize("attempts", [1, 3])
def test_attempts_are_bounded(attempts: int) -> None:
    """So many further tries; the last answer is the client's."""
    play = stage(attempts)
    exchange = play.ask()
    for _ in range(attempts):
        play.hear(exchange.upstream, bad(exchange.up_stream))
        assert play.said() == []
    play.hear(exchange.upstream, bad(exchange.up_stream))
    assert play.said() == [("response", 1, 503, True)]
    assert play.tallies("retries") == {"status": attempts}
    play.settled()


@pytest.mark.parametrize(
    ("methods", "method", "again"),
    [
        ((), b"GET", True),
        ((), b"PUT", True),
        ((), b"POST", False),
        (("*",), b"POST", True),
        (("POST",), b"POST", True),
        (("POST",), b"GET", False),
    ],
)
def test_methods_are_repeated_with_leave(methods: tuple[str, ...], method: bytes, again: bool) -> None:
    """Idempotent ones by themselves, others where the policy names them; with the same body."""
    play = stage(methods=methods)
    play.ask(method, end=False)
    play.downstream.handle([Data(1, b"body", True)])
    play.answer(bad())
    assert play.asked(play.other) == ([("request", 1, b"/", False), ("data", 1, b"body", True)] if again else [])
    assert play.codec.acknowledged[1] == 4


def test_a_body_that_was_not_kept_is_not_repeated() -> None:
    """Beyond `replay_bytes` the answer is the client's."""
    play = stage()
    play.ask(b"PUT", end=False)
    play.downstream.handle([Data(1, b"x" * (LIMITS.replay_bytes + 1), True)])
    play.answer(bad())
    assert play.outcomes() == [("completed", 503, "")]


def test_a_request_that_is_not_whole_is_tried_again_all_the_same() -> None:
    """What came so far goes again, what comes then goes to the new upstream; the old stream is reset."""
    play = stage(methods=("*",))
    play.ask(b"POST", end=False)
    play.downstream.handle([Data(1, b"a", False)])
    play.answer(bad())
    assert play.asked()[-1] == ("reset", 1, 8)
    play.downstream.handle([Data(1, b"b", True)])
    assert play.asked(play.other) == [("request", 1, b"/", False), ("data", 1, b"a", False), ("data", 1, b"b", True)]
    play.hear(play.other, Response(1, OK, True))
    play.settled()


# --- resets and timeouts ----------------------------------------------------------------


@pytest.mark.parametrize("policy", [True, False])
@pytest.mark.parametrize("malformed", [True, False])
def test_a_reset_is_tried_again_where_the_policy_says_so(policy: bool, malformed: bool) -> None:
    """On a new connection, where it would not be without a policy."""
    play = stage(reset=policy)
    play.ask()
    play.up.leg.codec.gone(1)
    play.answer(Refused(1, "why") if malformed else Reset(1, 2, False, "reset"))
    assert play.tallies("retries") == ({"reset": 1} if policy else {})
    if policy:
        play.hear(play.other, Response(1, OK, True))
    failed = ("failed", 502, "upstream_protocol" if malformed else "upstream_reset")
    assert play.outcomes() == [("completed", 200, "") if policy else failed]
    play.settled()


def test_nothing_is_tried_again_once_the_client_heard_something() -> None:
    """Then only a reset can tell."""
    play = stage()
    play.ask()
    play.answer(Response(1, OK, False), Data(1, b"x", False))
    play.up.leg.codec.gone(1)
    play.answer(Reset(1, 2, False, "reset"))
    assert [command[0] for command in play.said()] == ["response", "data", "reset"]
    assert play.asked(play.other) == []
    assert play.outcomes() == [("failed", 200, "upstream_reset")]
    play.settled()


def test_a_try_that_takes_too_long_is_given_up_for_another() -> None:
    """Its stream is reset; the next has as long. After the last one 504."""
    play = stage(rest={"timeouts": Timeouts(backend_request=0.3)})
    exchange = play.ask()
    play.pass_time(0.3, TICK)
    assert exchange.upstream is play.up
    play.pass_time(LATE, TICK)
    assert play.asked()[-1] == ("reset", 1, 8)
    assert exchange.upstream is play.other
    play.pass_time(0.3 - TICK, TICK)
    assert exchange.state is SENT
    play.pass_time(2 * LATE, TICK)
    assert play.asked(play.other)[-1] == ("reset", 1, 8)
    assert play.outcomes() == [("expired", 504, "timeout")]
    assert play.tallies("retries") == {"timeout": 1}
    play.settled()


@pytest.mark.parametrize("answering", [True, False])
def test_a_slow_try_ends_the_request_where_it_may_not_be_repeated(answering: bool) -> None:
    """The bound is that of the whole answer: once a head has gone out the rest is broken off."""
    play = stage(timeout=False, rest={"timeouts": Timeouts(backend_request=0.3)})
    play.ask()
    if answering:
        play.answer(Response(1, OK, False))
    play.pass_time(0.3 + LATE)
    assert play.outcomes() == [("expired", 200 if answering else 504, "timeout")]
    assert play.said()[-1][0] == ("reset" if answering else "data")
    play.settled()


def test_a_try_timeout_is_a_failure_of_its_endpoint() -> None:
    """The circuit opens for it."""
    traffic = Traffic(breaker=Breaker(failures=1, eject_most=100.0))
    play = Stage(2, traffic=traffic, timeouts=Timeouts(backend_request=0.3))
    play.ask()
    play.pass_time(0.3 + LATE)
    assert play.tallies("ejections") == {"10.0.0.1:80": 1}
    play.settled()


# --- when and whether -------------------------------------------------------------------


def test_pauses_grow_and_nobody_works_meanwhile() -> None:
    """Half of the backoff where chance is 0, doubled for each try."""
    play = stage(2, backoff=0.2)
    exchange = play.ask()
    for pause in (0.1, 0.2):
        play.hear(exchange.upstream, bad(exchange.up_stream))
        assert exchange.state is HELD
        assert play.pending() == 0
        play.pass_time(pause - TICK, TICK)
        assert exchange.state is HELD
        play.pass_time(2 * LATE, TICK)
        assert exchange.state is SENT
    play.hear(exchange.upstream, Response(exchange.up_stream, OK, True))
    play.settled()


def test_body_that_comes_in_a_pause_is_kept() -> None:
    """And sent with the rest, once."""
    play = stage(backoff=0.2, methods=("*",))
    exchange = play.ask(b"POST", end=False)
    play.answer(bad())
    play.downstream.handle([Data(1, b"ab", False)])
    assert play.codec.acknowledged[1] == 0
    play.pass_time(0.1 + LATE)
    play.downstream.handle([Data(1, b"c", True)])
    assert play.asked(exchange.upstream) == [
        ("request", 1, b"/", False), ("data", 1, b"ab", False), ("data", 1, b"c", True)
    ]  # fmt: skip
    assert play.codec.acknowledged[1] == 3


def test_retry_after_is_heeded() -> None:
    """Not before the endpoint wants it."""
    play = stage()
    exchange = play.ask()
    play.answer(bad(1, True, (b"retry-after", b"1")))
    play.pass_time(1.0 - TICK, TICK)
    assert exchange.state is HELD
    play.pass_time(2 * LATE, TICK)
    assert exchange.state is SENT


@pytest.mark.parametrize(("after", "timeout", "why"), [(b"100", 0.0, "retry_after"), (b"2", 1.0, "deadline")])
def test_a_wait_that_is_too_long_is_the_clients(after: bytes, timeout: float, why: str) -> None:
    """It gets the answer now, rather than wait for minutes or for its deadline."""
    play = stage(rest={"timeouts": Timeouts(request=timeout)})
    play.ask()
    play.answer(bad(1, True, (b"retry-after", after)))
    assert play.outcomes() == [("completed", 503, "")]
    assert play.tallies("retries_refused") == {why: 1}
    play.settled()


def test_an_empty_budget_passes_the_answer_on() -> None:
    """A token is a retry; they trickle in again."""
    play = stage(budget=RetryBudget(percent=0.0, per_second=1.0))
    for number in range(3):
        exchange = play.ask()
        while exchange.state is SENT:
            play.hear(exchange.upstream, bad(exchange.up_stream))
        assert play.tallies("retries") == {"status": 1 if number < 2 else 2}
        if number == 1:
            play.pass_time(2.0)
    assert play.tallies("retries_refused") == {"budget": 1}
    play.settled()


def test_a_retry_that_was_not_made_costs_nothing() -> None:
    """The client leaves in the pause: the only token is there for the next."""
    play = stage(backoff=0.2, budget=RetryBudget(percent=0.0, per_second=1.0))
    for _ in range(3):
        exchange = play.ask()
        play.hear(exchange.upstream, bad(exchange.up_stream))
        assert exchange.state is HELD
        play.codec.gone(exchange.stream)
        play.downstream.handle([Reset(exchange.stream, 8, False, "cancelled")])
    assert play.tallies("retries_refused") == {}
    play.settled()


def test_the_deadline_is_over_all_tries() -> None:
    """Whatever state it finds the request in."""
    play = stage(3, backoff=0.4, rest={"timeouts": Timeouts(request=0.5)})
    exchange = play.ask()
    play.answer(bad())
    play.pass_time(0.2 + LATE)
    assert exchange.state is SENT
    play.pass_time(0.3)
    assert exchange.state is DONE
    assert play.outcomes() == [("expired", 504, "timeout")]
    play.settled()


def test_the_next_try_waits_for_an_endpoint_like_the_first() -> None:
    """All endpoints are gone: it is queued, and told of it in time."""
    play = stage()
    exchange = play.ask()
    play.update(endpoints=())
    play.answer(bad())
    assert exchange.state is QUEUED
    play.pass_time(LIMITS.pending_timeout + LATE)
    assert play.outcomes() == [("failed", 503, "no_endpoints")]
    play.settled()


# --- gRPC -------------------------------------------------------------------------------


@pytest.mark.parametrize("trailers_only", [True, False])
def test_a_grpc_status_that_is_listed_is_tried_again(trailers_only: bool) -> None:
    """In a head alone, or in trailers right behind a head, which the client does not get. Codes are leave for POST."""
    play = stage(grpc=(14,))
    play.ask(b"POST", grpc=True)
    if trailers_only:
        play.answer(Response(1, Head.response(200, UNAVAILABLE), True))
    else:
        play.answer(Response(1, OK, False))
        assert play.said() == []
        play.answer(Trailers(1, UNAVAILABLE))
    assert play.asked(play.other) == [("request", 1, b"/", True)]
    play.hear(play.other, Response(1, OK, False), Data(1, b"answer", False), Trailers(1, FINE))
    assert play.said() == [("response", 1, 200, False), ("data", 1, b"answer", False), ("trailers", 1, FINE)]
    assert [one.key.grpc_status for one in play.reports.series] == [0]
    assert play.tallies("retries") == {"grpc_status": 1}
    play.settled()


@pytest.mark.parametrize("first", ["data", "trailers", "time"])
def test_a_held_head_goes_out_with_what_comes_next(first: str) -> None:
    """With body, with a status that is not to be retried, or when it has waited long enough."""
    play = stage(grpc=(14,))
    exchange = play.ask(b"POST", grpc=True)
    play.answer(Response(1, OK, False))
    assert play.said() == []
    if first == "data":
        play.answer(Data(1, b"x", False))
        assert play.said() == [("response", 1, 200, False), ("data", 1, b"x", False)]
    elif first == "trailers":
        play.answer(Trailers(1, ((b"grpc-status", b"3"),)))
        assert play.said() == [("response", 1, 200, False), ("trailers", 1, ((b"grpc-status", b"3"),))]
        play.settled()
        return
    else:
        play.pass_time(HEAD_SECONDS + LATE)
        assert play.said() == [("response", 1, 200, False)]
    assert exchange.state is ANSWERING
    play.answer(Trailers(1, UNAVAILABLE))
    assert exchange.grpc_status == 14
    assert play.asked(play.other) == []
    play.settled()


def test_an_answer_whose_head_is_held_is_not_repeated_as_unseen() -> None:
    """A stream that says REFUSED_STREAM behind a head has been seen; the old head is forgotten with it."""
    play = stage(grpc=(14,))
    play.ask(b"POST", grpc=True)
    play.answer(Response(1, OK, False))
    play.up.leg.codec.gone(1)
    play.answer(Reset(1, 7, True, "refused"))
    assert play.asked(play.other) == []
    play.pass_time(HEAD_SECONDS + LATE)
    assert play.outcomes() == [("failed", 200, "upstream_reset")]
    play.settled()


@pytest.mark.parametrize("value", [b"-1", b"soon", b"100"])
@pytest.mark.parametrize("trailers_only", [True, False])
def test_pushback_says_when_or_not_at_all(value: bytes, trailers_only: bool) -> None:
    """grpc-retry-pushback-ms: negative or unreadable means no retry (gRFC A6)."""
    play = stage(grpc=(14,))
    exchange = play.ask(b"POST", grpc=True)
    fields = (*UNAVAILABLE, (b"grpc-retry-pushback-ms", value))
    if trailers_only:
        play.answer(Response(1, Head.response(200, fields), True))
    else:
        play.answer(Response(1, OK, False), Trailers(1, fields))
    if value == b"100":
        assert exchange.state is HELD
        play.pass_time(0.1 + LATE)
        assert exchange.state is SENT
    else:
        assert exchange.state is DONE
        assert exchange.grpc_status == 14


# --- what else it looks after -----------------------------------------------------------


@pytest.mark.parametrize("grpc", [True, False])
def test_the_routes_edits_show_in_the_answer(grpc: bool) -> None:
    """Whether its head was held or not; not in the head of the upstream itself."""
    route = Route("r/0", Match(), (Backend(""),), response=Edits(set=(("x-route", "1"),)))
    traffic = Traffic(routed=True, routes=(route,), retry=Retry(grpc=(14,)))
    play = Stage(traffic=traffic)
    play.ask(grpc=grpc)
    head = Head.response(200)
    play.answer(Response(1, head, False), Data(1, b"", True))
    assert play.codec.heads[1].get(b"x-route") == b"1"
    assert head.get(b"x-route") is None
    play.settled()


def test_the_gate_is_left_at_every_end() -> None:
    """By an answer, an error, a client that goes."""
    play = Stage(traffic=Traffic(concurrency=Concurrency(most=3)))
    gate = play.cluster.plan.gate
    first, second, third = (play.ask() for _ in range(3))
    assert gate.in_hand == 3
    play.answer(Response(first.up_stream, OK, True))
    play.up.leg.codec.gone(second.up_stream)
    play.answer(Reset(second.up_stream, 2, False, "reset"))
    play.codec.gone(third.stream)
    play.downstream.handle([Reset(third.stream, 8, False, "cancelled")])
    assert gate.in_hand == 0
    play.settled()


@pytest.mark.parametrize(("reset", "statuses", "again"), [(True, (), True), (False, (502,), False)])
def test_a_reset_that_a_proxy_tells_of_is_a_reset(reset: bool, statuses: tuple[int, ...], again: bool) -> None:
    """Beside a meshed application its proxy must say something: 502 with `upstream_reset`, which is no status of it."""
    play = Stage(traffic=Traffic(retry=Retry(attempts=1, reset=reset, statuses=statuses, backoff=0.0)), meshed=True)
    play.ask()
    play.answer(Response(1, Head.response(502, [(b"conduit-error", b"upstream_reset")]), True))
    assert play.tallies("retries") == ({"reset": 1} if again else {})
    assert (play.outcomes() == []) is again
