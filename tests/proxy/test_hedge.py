"""A second try beside the first: when it begins, who wins, and that the loser leaves nothing."""

from __future__ import annotations

import pytest

from mesh.model.config import Timeouts
from mesh.model.traffic import Breaker, Hedge, Retry, RetryBudget, Traffic
from mesh.proxy.deadlines import TICK
from mesh.proxy.exchange import DONE, SENT
from mesh.proxy.latencies import SAMPLES
from mesh.wire.codec import Data, GoAway, Informational, Refused, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import LATE, OK, Stage

USUAL = 0.1
AFTER = USUAL * 1.1 + LATE


def stage(endpoints: int = 2, *, attempts: int = 1, known: bool = True, rest: dict | None = None, **traffic) -> Stage:
    """Answers usually take 0.1 s; the second endpoint's connection is `other`."""
    retry = Retry(attempts=attempts, statuses=(503,), backoff=0.0, methods=("*",), hedge=Hedge(0.9, 0.01))
    made = Stage(endpoints, traffic=Traffic(retry=retry, **{"breaker": Breaker(failures=0), **traffic}), **(rest or {}))
    made.other = made.connect(made.endpoints[1]) if endpoints > 1 else made.up
    for _ in range(SAMPLES if known else SAMPLES - 1):
        made.cluster.plan.latencies.observe(USUAL, made.now)
    return made


def hedged(play: Stage, **ask):
    """A request that has taken too long."""
    exchange = play.ask(**ask)
    play.pass_time(AFTER, TICK)
    assert exchange.care.hedge is not None
    play.asked()
    return exchange


def test_a_slow_request_is_sent_a_second_time_elsewhere() -> None:
    """Not before it has taken longer than usual, and with its body."""
    play = stage()
    play.ask(b"POST", end=False)
    play.downstream.handle([Data(1, b"body", True)])
    play.pass_time(USUAL * 0.9, TICK)
    assert play.asked(play.other) == []
    play.pass_time(AFTER, TICK)
    assert play.asked(play.other) == [("request", 1, b"/", False), ("data", 1, b"body", True)]
    assert play.tallies("hedges") == {"started": 1}


def test_whoever_answers_first_is_the_one() -> None:
    """The hedge does: the client hears it, the first try is reset, and what comes after is one exchange's."""
    play = stage()
    exchange = hedged(play)
    play.hear(play.other, Response(1, OK, False))
    assert play.asked() == [("reset", 1, 8)]
    play.hear(play.other, Data(1, b"x", False), Trailers(1, ()))
    assert [command[0] for command in play.said()] == ["response", "data", "trailers"]
    assert play.outcomes() == [("completed", 200, "")]
    assert exchange.endpoint is play.endpoints[1]
    assert play.tallies("hedges") == {"started": 1, "won": 1}
    play.settled()


def test_a_hedge_that_is_slower_is_dropped() -> None:
    """Its stream is reset and nobody hears of it."""
    play = stage()
    hedged(play)
    play.answer(Response(1, OK, True))
    assert play.asked(play.other)[-1] == ("reset", 1, 8)
    assert play.said() == [("response", 1, 200, True)]
    assert play.tallies("hedges") == {"started": 1}
    play.settled()


@pytest.mark.parametrize("how", ["reset", "malformed", "lost", "interim"])
def test_a_hedge_that_fails_is_nobodys_failure(how: str) -> None:
    """The first try goes on alone; a 1xx for the hedge is not the answer."""
    play = stage()
    exchange = hedged(play)
    if how == "lost":
        play.lose(play.other)
    elif how == "interim":
        play.hear(play.other, Informational(1, Head.response(103)))
    else:
        play.other.leg.codec.gone(1)
        play.hear(play.other, Refused(1, "why") if how == "malformed" else Reset(1, 2, False, "reset"))
    assert exchange.state is SENT
    assert play.said() == []
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


@pytest.mark.parametrize("how", ["refused", "over"])
def test_a_hedge_that_finds_no_endpoint_costs_nothing(how: str) -> None:
    """It waits for a connection; refused one, or the request over first, its token is given back."""
    play = stage(budget=RetryBudget(percent=0.0, per_second=1.0))
    play.lose(play.other)
    exchange = hedged(play)
    assert not exchange.care.hedge.sent_at
    if how == "refused":
        play.refuse(play.endpoints[1])
        assert exchange.care.hedge is None
        assert exchange.care.retries == 0
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    budget = play.cluster.plan.budget
    assert budget.withdraw(play.now)
    assert not budget.withdraw(play.now)
    play.settled()


@pytest.mark.parametrize("why", ["open", "unknown", "budget", "method"])
def test_what_is_not_hedged(why: str) -> None:
    """A body that may go on, a service of which too little is known, an empty budget, no attempts."""
    play = stage(
        known=why != "unknown",
        attempts=0 if why == "method" else 1,
        budget=RetryBudget(percent=0.0, per_second=0.0) if why == "budget" else RetryBudget(),
    )
    exchange = play.ask(end=why != "open")
    play.pass_time(1.0, TICK)
    assert exchange.care.hedge is None
    assert play.asked(play.other) == []
    assert play.tallies("retries_refused") == ({"budget": 1} if why == "budget" else {})


@pytest.mark.parametrize("how", ["status", "status_with_body", "reset", "malformed", "time"])
def test_a_first_try_that_fails_leaves_it_to_the_hedge(how: str) -> None:
    """That is the other try already: no further token, no further request."""
    play = stage(rest={"timeouts": Timeouts(backend_request=0.2)})
    exchange = hedged(play)
    if how.startswith("status"):
        play.answer(Response(1, Head.response(503), how == "status"))
    elif how == "time":
        play.pass_time(0.1, TICK)
    else:
        play.up.leg.codec.gone(1)
        play.answer(Refused(1, "why") if how == "malformed" else Reset(1, 2, False, "reset"))
    assert exchange.upstream is play.other
    assert len(play.asked(play.other)) == 1
    assert exchange.care.retries == 1
    play.hear(play.other, Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    assert play.tallies("retries") == {}
    play.settled()


def test_both_tries_lost_with_one_connection() -> None:
    """They shared it: the request is told of it, and is not left behind on a connection that is gone."""
    play = stage(1)
    exchange = hedged(play, method=b"POST")
    assert len(play.up.exchanges) == 2
    play.lose(play.up)
    assert exchange.state is DONE
    assert play.outcomes() == [("failed", 502, "upstream_reset")]
    play.settled()


def test_the_hedge_answers_while_the_first_is_on_its_way_elsewhere() -> None:
    """The first try was refused unseen and waits for a connection: it is taken out of the queue."""
    play = stage(3)
    exchange = hedged(play)
    play.up.leg.codec.alive = False
    play.answer(GoAway(0, 0))
    play.up.leg.codec.gone(1)
    play.answer(Reset(1, 7, True, "above the last stream"))
    assert exchange.queue is not None
    play.hear(play.other, Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_the_deadline_ends_both() -> None:
    """Neither stream is left."""
    play = stage(rest={"timeouts": Timeouts(request=0.5)})
    hedged(play)
    play.pass_time(0.5)
    assert play.asked()[-1] == ("reset", 1, 8)
    assert play.asked(play.other)[-1] == ("reset", 1, 8)
    assert play.outcomes() == [("expired", 504, "timeout")]
    play.settled()


def test_a_client_that_leaves_ends_both() -> None:
    """At once."""
    play = stage()
    hedged(play)
    play.codec.gone(1)
    play.downstream.handle([Reset(1, 8, False, "cancelled")])
    assert play.asked(play.other)[-1] == ("reset", 1, 8)
    play.settled()


def test_a_hedge_that_waits_is_not_begun_anew_by_an_update() -> None:
    """All endpoints but the first's connection are gone: the service's limits are not asked a second time."""
    play = stage()
    exchange = play.ask()
    play.update(endpoints=())
    play.pass_time(AFTER, TICK)
    hedge = exchange.care.hedge
    assert hedge.queue is play.cluster.waiting
    play.update(endpoints=play.cluster.spec.endpoints)
    assert hedge.care is None
    assert hedge.queue is play.cluster.waiting
    play.answer(Response(1, OK, True))
    play.settled()
