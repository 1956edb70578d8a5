"""Updates of the control plane: put in force whole, or refused with a reason and nothing changed."""

from __future__ import annotations

import pytest

from mesh.model.authorization import Action, Destination, Egress, EgressRule
from mesh.model.config import Endpoint, Service, Timeouts
from mesh.model.explain import Question
from mesh.model.push import ServiceUpdate, Settings
from mesh.model.traffic import FieldMatch, Injection, Match, PathKind, PathMatch, RateLimit, Route, Traffic
from mesh.proxy.apply import ENDPOINTS_MOST, WEIGHT_MOST, Apply, problem_with
from tests.proxy.trust import WEB, Trust

ROUTED = Service("votes", traffic=Traffic(routed=True, routes=(Route("bad", Match(PathMatch("(", PathKind.REGEX))),)))
HEADER = Match(headers=(FieldMatch("x-user", "a**", regex=True),))
BAD_PATTERNS = [
    (ROUTED, "'('"),
    (Service("votes", traffic=Traffic(routed=True, routes=(Route("bad", HEADER),))), "'a**'"),
    (Service("votes", traffic=Traffic(faults=(Injection(match=HEADER),))), "'a**'"),
    (Service("votes", traffic=Traffic(rate_limits=(RateLimit(1.0, match=HEADER),))), "'a**'"),
]


class Directory:
    """Remembers what was put in force."""

    def __init__(self) -> None:
        self.applied: list[tuple[str, Service | None]] = []

    def apply(self, name: str, service: Service | None) -> None:
        self.applied.append((name, service))


GOOD = Service("votes", (Endpoint("10.0.0.1:80"), Endpoint("[::1]:80", weight=0)), timeouts=Timeouts(request=1.5))

BAD = [
    (Service("votes", (Endpoint("10.0.0.1"),)), "endpoints[0].address"),
    (Service("votes", (Endpoint("10.0.0.1:80"), Endpoint("10.0.0.1:http"))), "endpoints[1].address"),
    (Service("votes", (Endpoint(":80"),)), "endpoints[0].address"),
    (Service("votes", (Endpoint("10.0.0.1:80"), Endpoint("10.0.0.1:80", weight=2))), "twice"),
    (Service("votes", (Endpoint("10.0.0.1:80", weight=-1),)), "endpoints[0].weight"),
    (Service("votes", (Endpoint("10.0.0.1:80", weight=WEIGHT_MOST + 1),)), "endpoints[0].weight"),
    (Service("votes", timeouts=Timeouts(connect=-1)), "timeouts.connect"),
    (Service("votes", timeouts=Timeouts(request=-0.1)), "timeouts.request"),
    (Service("votes", timeouts=Timeouts(idle=-1)), "timeouts.idle"),
    (Service("votes", timeouts=Timeouts(backend_request=-1)), "timeouts.backend_request"),
    (Service("votes", timeouts=Timeouts(request=float("nan"))), "timeouts.request"),
    (Service("votes", tuple(Endpoint(f"10.0.0.1:{n}") for n in range(ENDPOINTS_MOST + 1))), "endpoints: 10001"),
]


@pytest.mark.parametrize("service", [GOOD, Service("empty")])
def test_a_sound_service_has_no_problem(service: Service) -> None:
    """Also one without endpoints, and weights of zero."""
    assert problem_with(service) is None


@pytest.mark.parametrize(("service", "field"), BAD)
def test_a_problem_names_its_field(service: Service, field: str) -> None:
    """In a sentence that the control plane can show to a person."""
    assert field in problem_with(service)


@pytest.mark.parametrize(("service", "field"), BAD)
def test_a_bad_update_changes_nothing(service: Service, field: str) -> None:
    """It is refused and counted; what was in force stays so."""
    directory = Directory()
    apply = Apply(directory)
    reason = apply.apply(ServiceUpdate("votes", 7, service))
    assert reason is not None
    assert field in reason
    assert directory.applied == []
    assert (apply.applied, apply.refused) == (0, 1)


@pytest.mark.parametrize(("service", "pattern"), BAD_PATTERNS)
def test_what_is_no_regular_expression_is_refused_by_its_text(service: Service, pattern: str) -> None:
    """In routes, faults and limits; what was in force stays so."""
    directory = Directory()
    reason = Apply(directory).apply(ServiceUpdate("votes", 7, service))
    assert reason is not None
    assert reason.startswith("traffic: ")
    assert f"{pattern} is no regular expression" in reason
    assert directory.applied == []


@pytest.mark.parametrize("pattern", ["(" * 10_000, "[" + "x" * 10_000])
def test_a_problem_is_short_whatever_the_pattern(pattern: str) -> None:
    """Neither are thousands of its characters sent back, nor does it bring the compiler down."""
    route = Route("bad", Match(PathMatch(pattern, PathKind.REGEX)))
    reason = problem_with(Service("votes", traffic=Traffic(routed=True, routes=(route,))))
    assert reason is not None
    assert "regular expression" in reason
    assert len(reason) < 300


@pytest.mark.parametrize("service", [GOOD, None])
def test_a_good_update_is_put_in_force(service: Service | None) -> None:
    """Also the news that a name is not in the mesh."""
    directory = Directory()
    apply = Apply(directory)
    assert apply.apply(ServiceUpdate("votes", 7, service)) is None
    assert directory.applied == [("votes", service)]
    assert (apply.applied, apply.refused) == (1, 0)


# --- what a proxy itself must know ------------------------------------------------------


async def test_settings_are_put_in_force_whole(proxy_parts) -> None:
    """Roots, issuer and egress; what is wrong with one of them leaves all as it was, with the reason."""
    trust, other = Trust(), Trust()
    parts, credentials = await proxy_parts(), trust.certified(WEB)
    apply = Apply(parts.directory, credentials)
    held = credentials.current
    closed = Egress(Action.DENY)
    bad = Egress(rules=(EgressRule("demo/x", destinations=(Destination(networks=("nonsense",)),)),))
    assert "egress: " in (apply.settle(Settings(1, other.anchors, egress=bad)) or "")
    assert apply.settle(Settings(2, "nonsense", egress=closed)) == "anchors: hold no PEM certificate to trust"
    assert credentials.current is held
    assert parts.directory.exit_to("example.com:80") is None
    assert apply.refused == 2
    assert apply.settle(Settings(3, trust.anchors + other.anchors, egress=closed)) is None
    assert credentials.current is not held
    decision = parts.directory.exit_to("example.com:80")
    assert decision is not None
    assert not decision.allowed
    assert Apply(parts.directory).settle(Settings(4, "")) is None


async def test_questions_are_answered_from_what_is_in_force(proxy_parts) -> None:
    """By the code that decides."""
    parts = await proxy_parts()
    steps = Apply(parts.directory).explain(Question("outbound", "votes.demo@elsewhere"))
    assert [step.verdict for step in steps] == ["refused"]
