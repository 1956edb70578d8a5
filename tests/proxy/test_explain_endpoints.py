"""Which endpoint is named, and how it is told."""

from __future__ import annotations

from msgspec.structs import replace

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.identity import parse
from mesh.model.traffic import Balancing, BalancingKind, Breaker, Traffic
from mesh.proxy.credentials import Credentials
from mesh.proxy.endpoint import Endpoint
from mesh.proxy.explain_endpoints import MOST_SHOWN, choice, endpoint_steps, tls_step, told
from mesh.wire.head import Head
from tests.proxy.playbook import Stage

HEAD = Head.request(b"GET", b"/", authority=b"votes")
VOTES, WEB = (f"{name}.demo.serviceaccount.identity.cluster.local" for name in ("votes", "web"))


def test_an_endpoint_whose_probation_is_over_gets_the_next_request() -> None:
    """Also though others are fit; asking does not take its turn away."""
    play = Stage(3, connected=False, traffic=Traffic(breaker=Breaker(failures=1)))
    ejected = play.endpoints[1]
    ejected.failed(None, "went away", play.now)
    assert ejected not in choice(play.cluster, HEAD, "", play.now).candidates
    play.now += 2.0
    for _ in range(2):
        chosen = choice(play.cluster, HEAD, "", play.now)
        assert (chosen.endpoint, chosen.certain) == (ejected, True)
    play.ask()
    assert ejected.load.pending == 1
    assert "ejected (went away)" in told(ejected, play.now)


def test_the_likeliest_is_the_least_loaded_for_its_weight() -> None:
    """It comes first; the kind of balancing is told."""
    play = Stage(3, connected=False, traffic=Traffic(balancing=Balancing(BalancingKind.LEAST_REQUEST)))
    for endpoint, pending in zip(play.endpoints, (3, 0, 1), strict=True):
        endpoint.load.pending = pending
    chosen = choice(play.cluster, HEAD, "", play.now)
    assert (chosen.endpoint, chosen.certain) == (play.endpoints[1], False)
    steps = endpoint_steps(play.cluster, chosen, play.now)
    assert [step.outcome for step in steps] == [*["candidate"] * 3, "drawn"]
    assert "fewer requests in hand" in steps[-1].detail


def test_asking_does_not_turn_a_round() -> None:
    """The endpoint whose turn it is stays the next one."""
    balancing = Traffic(balancing=Balancing(BalancingKind.ROUND_ROBIN))
    asked, unasked = (Stage(3, connected=False, traffic=balancing) for _ in range(2))
    for _ in range(6):
        choice(asked.cluster, HEAD, "", asked.now)
        for play in (asked, unasked):
            play.ask()
        assert [e.load.pending for e in asked.endpoints] == [e.load.pending for e in unasked.endpoints]


def test_of_many_endpoints_some_are_told() -> None:
    """And how many more there are."""
    play = Stage(MOST_SHOWN + 5, connected=False)
    steps = endpoint_steps(play.cluster, choice(play.cluster, HEAD, "", play.now), play.now)
    assert len(steps) == MOST_SHOWN + 2
    assert steps[-2].detail == "and 5 more endpoints"


def secured(play: Stage) -> Endpoint:
    """Its first endpoint, where this proxy can prove to be web."""
    who = parse(WEB)
    assert who is not None
    play.cluster.shared = play.cluster.shared._replace(credentials=Credentials(who, log=lambda *words: None))
    return play.endpoints[0]


def test_tls_is_mutual_between_two_identities() -> None:
    """Where either has none it is plain text, and says whose lack that is."""
    play = Stage(connected=False)
    votes = EndpointSpec("10.0.0.1:80", identity=VOTES, workload="votes", meshed=True)
    play.update(endpoints=(votes,))
    assert "this proxy has no identity" in tls_step(play.endpoints[0]).detail
    mutual = tls_step(secured(play))
    assert mutual.outcome == "mutual"
    assert "as soon as we have our first certificate" in mutual.detail
    assert mutual.detail.endswith(f"it must prove to be {VOTES}, we are {WEB}")
    assert told(play.endpoints[0], play.now).startswith("10.0.0.1:80 (votes) in use")
    play.update(endpoints=(replace(votes, identity=""),))
    assert "it has no identity" in tls_step(secured(play)).detail


def test_an_endpoint_of_another_mesh_is_not_reached() -> None:
    """Its identity is none that it could prove to us."""
    play = Stage(connected=False)
    play.update(endpoints=(EndpointSpec("10.0.0.1:80", identity="votes.demo.serviceaccount.identity.other"),))
    step = tls_step(secured(play))
    assert (step.outcome, step.verdict) == ("tls_failed", "refused")
