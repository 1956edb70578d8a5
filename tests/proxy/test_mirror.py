"""Copies of requests: they get what the original has, and nothing that becomes of them shows."""

from __future__ import annotations

import pytest

from mesh.model.config import Service
from mesh.model.traffic import Backend, Concurrency, Match, Mirror, Route, Traffic
from mesh.proxy.mirror import SECONDS
from mesh.wire.codec import Data, Informational, Refused, Reset, Response, Trailers
from mesh.wire.head import Head
from tests.proxy.playbook import LATE, LIMITS, LOST, OK, Stage, addresses


def stage(*mirrors: Mirror, connected: bool = True, backend: str = "") -> Stage:
    """Everything is copied to `shadow`, whose connection is `copies`."""
    route = Route("r/0", Match(), (Backend(backend),), mirrors=mirrors or (Mirror("shadow"),))
    made = Stage(traffic=Traffic(routed=True, routes=(route,)), others={"shadow": 1})
    made.shadow = made.directory.services["shadow"]
    if connected:
        made.copies = made.connect(made.shadow.endpoints[0])
    return made


def test_a_copy_is_sent_and_its_answer_dropped() -> None:
    """Head and body alike; the client hears the service's own answer only, and there is one report."""
    play = stage()
    play.ask(b"POST", b"/a", end=False)
    play.downstream.handle([Data(1, b"body", False), Data(1, b"", True)])
    assert play.asked(play.copies) == play.asked() != []
    play.hear(play.copies, Informational(1, Head.response(103)), Response(1, OK, False), Data(1, b"hello", True))
    assert play.said() == []
    assert play.copies.leg.codec.acknowledged[1] == 5
    play.answer(Response(1, Head.response(201), True))
    assert play.outcomes() == [("completed", 201, "")]
    assert play.tallies("mirrored") == {"answered": 1}
    play.settled()


def test_trailers_are_copied() -> None:
    """They end the copy as they end the request."""
    play = stage()
    play.ask(b"POST", end=False)
    play.downstream.handle([Data(1, b"body", False), Trailers(1, ((b"checksum", b"1"),))])
    assert play.asked(play.copies)[-1] == ("trailers", 1, ((b"checksum", b"1"),))
    play.hear(play.copies, Response(1, OK, False), Trailers(1, ()))
    play.answer(Response(1, OK, True))
    assert play.tallies("mirrored") == {"answered": 1}
    play.settled()


def test_body_that_comes_before_a_connection_is_kept() -> None:
    """And sent when there is one; the original is not held back."""
    play = stage(connected=False)
    play.ask(b"POST", end=False)
    play.downstream.handle([Data(1, b"ab", False)])
    assert play.codec.acknowledged[1] == 2
    copies = play.connect(play.shadow.endpoints[0])
    play.downstream.handle([Data(1, b"c", True)])
    assert play.asked(copies) == [("request", 1, b"/", False), ("data", 1, b"ab", False), ("data", 1, b"c", True)]


@pytest.mark.parametrize("why", ["too much", "congested", "trailers"])
def test_a_copy_that_cannot_keep_up_is_dropped(why: str) -> None:
    """More than is kept, a leg without room, trailers before a connection: the original goes on."""
    play = stage(connected=why == "congested")
    play.ask(b"POST", end=False)
    if why == "congested":
        play.copies.leg.codec.full = True
    play.downstream.handle([Data(1, b"x" * (LIMITS.replay_bytes + 1 if why == "too much" else 1), False)])
    play.downstream.handle([Trailers(1, ())])
    assert play.tallies("mirrored") == {"dropped": 1}
    assert play.codec.acknowledged[1] > 0
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


@pytest.mark.parametrize("how", ["500", "reset", "malformed", "lost", "refused"])
def test_what_becomes_of_a_copy_shows_in_no_answer(how: str) -> None:
    """The stream is left alone once it is over, and its failure is counted with its own service."""
    play = stage(connected=how != "refused")
    play.ask()
    if how == "refused":
        play.refuse(play.shadow.endpoints[0])
    elif how == "lost":
        play.lose(play.copies)
    elif how == "500":
        play.hear(play.copies, Response(1, Head.response(500), True))
    else:
        play.copies.leg.codec.gone(1)
        play.hear(play.copies, Refused(1, "why") if how == "malformed" else Reset(1, 2, False, "reset"))
    assert play.said() == []
    assert play.tallies("mirrored") == {"answered" if how == "500" else "failed": 1}
    play.answer(Response(1, OK, True))
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_a_copy_that_is_whole_outlives_its_original() -> None:
    """For a while; then it is given up."""
    play = stage()
    play.ask()
    play.answer(Response(1, OK, True))
    assert len(play.shadow.mirrors) == 1
    play.pass_time(SECONDS + LATE)
    assert play.asked(play.copies)[-1] == ("reset", 1, 8)
    assert play.tallies("mirrored") == {"failed": 1}
    assert play.outcomes() == [("completed", 200, "")]
    play.settled()


def test_a_copy_of_what_is_broken_off_is_broken_off() -> None:
    """The client leaves in the middle of its body."""
    play = stage()
    play.ask(b"POST", end=False)
    play.codec.gone(1)
    play.downstream.handle([Reset(1, 8, False, "cancelled")])
    assert play.asked(play.copies)[-1] == ("reset", 1, 8)
    assert play.tallies("mirrored") == {"dropped": 1}
    play.settled()


def test_what_comes_for_a_copy_that_is_over_is_nothing() -> None:
    """It was answered early: the rest of the body has nobody to go to, the original's goes on."""
    play = stage()
    play.ask(b"POST", end=False)
    play.hear(play.copies, Response(1, OK, True))
    play.downstream.handle([Data(1, b"x", False), Trailers(1, ())])
    assert [command[0] for command in play.asked(play.copies)] == ["request", "reset"]
    assert [command[0] for command in play.asked()] == ["request", "data", "trailers"]
    play.answer(Response(1, OK, True))
    play.settled()


def test_a_head_that_cannot_be_sent_is_no_copy() -> None:
    """Counted, and the original is told what is the matter with it."""
    play = stage()
    play.ask(path=LOST)
    assert play.tallies("mirrored") == {"failed": 1}
    assert play.outcomes() == [("failed", 400, "unsendable")]
    play.settled()


def test_the_policies_of_the_other_service_are_not_asked() -> None:
    """Neither at first nor when it becomes known while the copy waits; then the copy goes."""
    play = stage(Mirror("news"))
    play.ask()
    assert play.asked_for == ["news"]
    (copy,) = play.directory.services["news"].mirrors
    limits = Traffic(concurrency=Concurrency(most=1), routed=True)
    play.directory.apply("news", Service("news", addresses(50, 1), traffic=limits))
    assert copy.care is None
    copies = play.connect(play.directory.services["news"].endpoints[0])
    assert play.asked(copies) == [("request", 1, b"/", True)]
    play.hear(copies, Response(1, OK, True))
    play.answer(Response(1, OK, True))
    play.settled()


def test_a_copy_for_a_service_that_is_none_goes_nowhere() -> None:
    """Least of all to the service that the original names."""
    play = stage(Mirror("news"))
    play.ask()
    play.asked()
    play.directory.apply("news", None)
    assert play.asked() == []
    assert play.tallies("mirrored") == {"failed": 1}
    assert not play.directory.outside
    play.answer(Response(1, OK, True))
    play.settled()


def test_copies_end_with_their_service() -> None:
    """Retired, it keeps none of them."""
    play = stage()
    play.ask()
    play.shadow.retire()
    assert play.tallies("mirrored") == {"dropped": 1}
    play.answer(Response(1, OK, True))
    play.settled()


@pytest.mark.parametrize(("chance", "copied"), [(0.2, 1), (0.3, 0)])
def test_a_share_is_copied(chance: float, copied: int) -> None:
    """So many of a hundred."""
    play = stage(Mirror("shadow", 25.0))
    play.random.value = chance
    play.ask()
    assert len(play.asked(play.copies)) == copied
