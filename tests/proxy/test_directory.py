"""Names to clusters: known ones, ones that are asked for, ones outside the mesh, and this proxy itself."""

from __future__ import annotations

import pytest

from mesh.model.config import Endpoint, Service, Timeouts
from mesh.model.traffic import Backend, Mirror, RateLimit, Retry, Traffic
from mesh.model.traffic import Route as TrafficRoute
from mesh.proxy.cluster import Cluster
from mesh.proxy.dial import ConnectFailed
from mesh.proxy.directory import NAMES, Loop, NotAnAuthority
from mesh.proxy.exchange import NEVER
from mesh.proxy.report import EndpointState
from mesh.proxy.rescue import Reason
from mesh.wire.head import Head
from tests.proxy.playbook import Stage, addresses


class Asking:
    """An exchange that waits in a cluster, as a directory sees it."""

    def __init__(self, authority: bytes, scheme: bytes = b"http") -> None:
        self.head = Head.request(b"GET", b"/", authority=authority, scheme=scheme)
        self.queue = self.tried = self.care = self.state = self.slot = None
        self.started_at = self.armed_at = 0.0
        self.deadline = NEVER
        self.cluster = None
        self.protocol = "http1"
        self.failed: list[str] = []

    def wait_in(self, cluster) -> Asking:
        self.cluster = cluster
        cluster.assign(self, 0.0)
        return self

    def connect_failed(self, endpoint, failure, now: float) -> None:
        """Elsewhere there is nobody to send it to."""

    def arm(self, now: float) -> None:
        self.armed_at = now

    def fail(self, reason, cause: str, now: float) -> None:
        self.failed.append(cause)


@pytest.fixture
async def parts(proxy_parts):
    return await proxy_parts()


@pytest.fixture
async def asked(parts) -> list[str]:
    """The names that the directory under test has asked the control plane for."""
    names: list[str] = []
    parts.directory.ask = names.append
    return names


async def test_known_services_are_found_by_host_in_any_spelling(parts) -> None:
    """Case, port and a final dot do not matter; the same cluster every time."""
    cluster = parts.service("votes.demo", "127.0.0.1:1")
    for authority in (b"votes.demo", b"Votes.Demo:8080", b"votes.demo.", b"votes.demo:443"):
        assert parts.directory.resolve(authority, b"http") is cluster
        assert parts.directory.resolve(authority, b"https") is cluster


async def test_an_unknown_name_is_asked_for_once(parts, asked) -> None:
    """Requests wait in one cluster, however it was spelled, until the answer."""
    first = parts.directory.resolve(b"votes", b"http")
    assert parts.directory.resolve(b"VOTES:80", b"http") is first
    assert parts.directory.resolve(b"votes", b"https") is first
    assert asked == ["votes"]
    assert not first.configured


async def test_the_answer_lets_waiting_requests_go_on(parts, asked) -> None:
    """The cluster that they wait in gets the endpoints: one of them takes each."""
    cluster = parts.directory.resolve(b"votes", b"http")
    waiting = Asking(b"votes").wait_in(cluster)
    assert waiting in cluster.waiting
    assigned = []
    parts.directory.apply("votes", Service("votes", ()))
    assert cluster.configured
    assert waiting in cluster.waiting
    waiting.send = lambda upstream, now: assigned.append(upstream)
    waiting.downstream = type("Client", (), {"protocol": "http1"})()
    parts.directory.apply("votes", Service("votes", (Endpoint("192.0.2.1:80"),), timeouts=Timeouts(connect=30)))
    assert not cluster.waiting
    assert waiting in cluster.endpoints[0].queue
    assert waiting.cluster is cluster
    assert waiting.armed_at > 0.0, "an exchange learns its deadline by beginning anew"
    assert parts.directory.resolve(b"votes", b"http") is cluster


async def test_a_name_outside_the_mesh_is_reached_by_its_own_address(parts, asked) -> None:
    """Each waiting request knows its port; later requests do not ask again."""
    cluster = parts.directory.resolve(b"example.org", b"http")
    plain = Asking(b"example.org").wait_in(cluster)
    secure = Asking(b"example.org", b"https").wait_in(cluster)
    odd = Asking(b"example.org:8443").wait_in(cluster)
    parts.directory.apply("example.org", None)
    found = [one.cluster.endpoints[0].address for one in (plain, secure, odd)]
    assert found == ["example.org:80", "example.org:443", "example.org:8443"]
    assert parts.directory.resolve(b"example.org", b"http") is plain.cluster
    assert asked == ["example.org"]
    assert "example.org" not in parts.directory.services


async def test_a_name_that_joins_the_mesh_later_is_found(parts, asked) -> None:
    """What was outside becomes a service as soon as the control plane says so."""
    parts.directory.resolve(b"votes", b"http")
    parts.directory.apply("votes", None)
    outside = parts.directory.resolve(b"votes", b"http")
    parts.directory.apply("votes", Service("votes", (Endpoint("127.0.0.1:1"),)))
    inside = parts.directory.resolve(b"votes", b"http")
    assert inside is not outside
    assert inside is parts.directory.services["votes"]


async def test_a_service_that_leaves_the_mesh_has_no_endpoints(parts, asked) -> None:
    """Its requests wait, and are refused in time, rather than going to whoever has that name outside."""
    parts.directory.resolve(b"votes", b"http")
    parts.directory.apply("votes", Service("votes", (Endpoint("127.0.0.1:1"),)))
    cluster = parts.directory.services["votes"]
    parts.directory.apply("votes", None)
    assert parts.directory.resolve(b"votes", b"http") is cluster
    assert cluster.endpoints == []


@pytest.mark.parametrize("authority", [b"127.0.0.1:9000", b"10.0.0.1", b"[::1]:80", b"localhost:8080"])
async def test_addresses_are_not_asked_for(parts, asked, authority: bytes) -> None:
    """An address names itself; the control plane has nothing to say about it."""
    cluster = parts.directory.resolve(authority, b"http")
    assert asked == []
    assert len(cluster.endpoints) == 1


async def test_without_a_control_plane_names_are_outside(parts) -> None:
    """Nobody could say more."""
    cluster = parts.directory.resolve(b"votes", b"http")
    assert [endpoint.address for endpoint in cluster.endpoints] == ["votes:80"]


@pytest.mark.parametrize(
    ("own", "authority"),
    [
        ("127.0.0.1:4140", b"127.0.0.1:4140"),
        ("127.0.0.1:4140", b"127.0.0.1:04140"),
        ("127.0.0.1:4140", b"localhost:4140"),
        ("127.0.0.1:4140", b"LOCALHOST:4140"),
        ("[::1]:4140", b"localhost:4140"),
        ("[::1]:4140", b"[::1]:4140"),
        ("0.0.0.0:4140", b"127.0.0.1:4140"),
        ("0.0.0.0:4140", b"127.1.2.3:4140"),
        ("0.0.0.0:4140", b"0.0.0.0:4140"),
        ("[::]:4140", b"[::1]:4140"),
        ("10.0.0.1:4140", b"10.0.0.1:4140"),
    ],
)
async def test_this_proxy_itself_is_refused(parts, own: str, authority: bytes) -> None:
    """A request for one of our own listeners would come back for ever."""
    parts.directory.own.add(own)
    with pytest.raises(Loop):
        parts.directory.resolve(authority, b"http")


@pytest.mark.parametrize("authority", [b"127.0.0.1:4141", b"127.0.0.2:4140", b"localhost:80", b"10.0.0.1:4140"])
async def test_a_neighbour_of_this_proxy_is_not(parts, authority: bytes) -> None:
    """Another port or another address is another server."""
    parts.directory.own.add("127.0.0.1:4140")
    assert parts.directory.resolve(authority, b"http").endpoints


@pytest.mark.parametrize("authority", [b"", b"user@votes", b":80", b"votes:x", b"votes:70000", b"."])
async def test_what_is_no_authority_is_refused(parts, asked, authority: bytes) -> None:
    """And is neither asked for nor remembered."""
    for _ in range(2):
        with pytest.raises(NotAnAuthority):
            parts.directory.resolve(authority, b"http")
    assert asked == []
    assert parts.directory.services == {}
    assert parts.directory.outside == {}


async def test_names_outside_are_bounded(parts) -> None:
    """An application that invents addresses costs no memory past the bound; the clusters forgotten end."""
    for number in range(NAMES + 10):
        parts.directory.resolve(b"10.%d.%d.1" % (number // 250, number % 250), b"http")
    assert len(parts.directory.outside) <= NAMES


async def test_names_asked_for_are_bounded(parts, asked) -> None:
    """Nor do names that the control plane never answered, or answered with no."""
    for number in range(NAMES + 10):
        parts.directory.resolve(b"s%d" % number, b"http")
    assert len(parts.directory.services) <= NAMES
    for number in range(NAMES + 10):
        parts.directory.apply(f"s{number}", None)
    assert parts.directory.services == {}


async def test_an_application_can_say_one_name_in_many_spellings(parts) -> None:
    """The memory for spellings is bounded too, and what falls out of it is found again."""
    cluster = parts.service("votes", "127.0.0.1:1")
    for port in range(1, NAMES + 100):
        assert parts.directory.resolve(b"votes:%d" % port, b"http") is cluster
    assert parts.directory.resolve(b"votes:1", b"http") is cluster


# --- routes and policies ----------------------------------------------------------------


def test_a_route_finds_services_as_an_application_would() -> None:
    """Known ones at once; others are asked for, once."""
    stage = Stage(connected=False, others={"votes-v2": 1})
    assert stage.directory.named("votes-v2") is stage.directory.services["votes-v2"]
    assert stage.asked_for == []
    found = stage.directory.named("votes-v3.demo")
    assert stage.directory.named("votes-v3.demo") is found
    assert not found.configured
    assert stage.asked_for == ["votes-v3.demo"]


@pytest.mark.parametrize("name", ["", "user@votes", "votes:x"])
async def test_a_route_to_what_is_no_name_is_refused(parts, name: str) -> None:
    """The one that follows it answers 500."""
    with pytest.raises(NotAnAuthority):
        parts.directory.named(name)


def led(stage: Stage, service: str = "votes-v2", mirror: str = "") -> None:
    """All requests for `votes` go to that one."""
    route = TrafficRoute("r/0", backends=(Backend(service),), mirrors=(Mirror(mirror),) if mirror else ())
    stage.update(traffic=Traffic(routed=True, routes=(route,)))


def test_a_backend_that_turns_out_to_be_unknown_is_an_error() -> None:
    """What waits for it, and what comes later, is told so: a route does not lead out of the mesh."""
    stage = Stage(connected=False)
    led(stage)
    assert stage.ask() is not None
    assert stage.asked_for == ["votes-v2"]
    assert stage.said() == []
    stage.directory.apply("votes-v2", None)
    first = stage.said()
    assert stage.ask() is None
    second = stage.said()
    for said in (first, second):
        assert said[0][0] == "response"
        assert said[0][2] == 500
        assert b"votes-v2 is no service of the mesh" in said[1][2]
    assert stage.directory.outside == {}
    stage.directory.apply("votes-v2", Service("votes-v2", addresses(7, 1)))
    assert stage.ask().endpoint.address == "10.0.0.7:80", "it has come"


def test_a_mirror_to_what_is_unknown_is_dropped() -> None:
    """Those that wait and those that come later; the request itself goes on."""
    stage = Stage(connected=False)
    led(stage, "votes", mirror="nobody")
    assert stage.ask().endpoint is stage.endpoints[0]
    stage.directory.apply("nobody", None)
    assert stage.ask().endpoint is stage.endpoints[0]
    assert stage.tallies("mirrored") == {"failed": 2}
    assert stage.said() == []


def test_policies_reach_the_inbound_cluster_of_that_name() -> None:
    """Its endpoint stays the application beside us, and nobody is dialled for it outside."""
    stage = Stage(connected=False)
    application = Cluster(stage.directory.shared, Service("words", addresses(50, 1)), outbound=False)
    stage.directory.host_inbound(application)
    limits = Traffic(rate_limits=(RateLimit(1.0),))
    stage.directory.apply("words", Service("words", addresses(60, 3), traffic=limits))
    assert application.plan.rates is not None
    assert [one.address for one in application.endpoints] == ["10.0.0.50:80"]
    assert "words" not in stage.directory.services
    assert [one.service for one in stage.directory.states()] == ["votes"]


def test_a_service_of_ours_that_is_called_here_too_is_known_already() -> None:
    """The control plane has told of it for the application's sake, and would not tell it again."""
    stage = Stage(connected=False)
    stage.directory.host_inbound(Cluster(stage.directory.shared, Service("words", addresses(50, 1)), outbound=False))
    stage.directory.apply("words", Service("words", addresses(60, 3)))
    stage.directory.apply("words", Service("words", addresses(60, 2)))
    found = stage.directory.resolve(b"words", b"http")
    assert found.configured
    assert [one.address for one in found.endpoints] == ["10.0.0.60:80", "10.0.0.61:80"]
    assert stage.asked_for == []
    stage.directory.apply("words", Service("words", addresses(70, 1), traffic=Traffic(retry=Retry())))
    assert [one.address for one in found.endpoints] == ["10.0.0.70:80"]
    assert stage.directory.resolve(b"words", b"http") is found


def test_a_service_of_ours_that_left_the_mesh_is_not_remembered() -> None:
    """Nor called at the addresses that it had."""
    stage = Stage(connected=False)
    stage.directory.host_inbound(Cluster(stage.directory.shared, Service("words", addresses(50, 1)), outbound=False))
    stage.directory.apply("words", Service("words", addresses(60, 3)))
    stage.directory.apply("words", None)
    assert [one.address for one in stage.directory.resolve(b"words", b"http").endpoints] == ["words:80"]


def test_states_are_those_of_services_that_were_asked_for() -> None:
    """What /metrics shows: service, workload, address, state."""
    stage = Stage(connected=False)
    spec = Endpoint("10.0.0.1:80", workload="votes-v1-0")
    stage.update(endpoints=(spec, *addresses(2, 1)))
    stage.directory.resolve(b"10.9.9.9:80", b"http")
    stage.endpoints[0].mark_down(ConnectFailed(Reason.CONNECT_FAILED, "Connection refused", ""), stage.now)
    assert stage.reports.states() == [
        EndpointState("votes", "votes-v1-0", "10.0.0.1:80", "down"),
        EndpointState("votes", "", "10.0.0.2:80", "in_use"),
    ]


def test_finding_a_name_changes_nothing() -> None:
    """Neither a cluster nor a question comes of it, and it agrees with what resolving makes of the name."""
    stage = Stage(connected=False)
    directory = stage.directory
    assert directory.find("votes:80", 80).cluster is stage.cluster
    found = directory.find("words", 80)
    assert (found.cluster, found.asks, found.address) == (None, True, "words:80")
    assert not directory.find("10.0.0.9", 80).asks
    directory.apply("gone", None)
    assert not directory.find("gone.", 80).asks
    assert (stage.asked_for, list(directory.services), directory.outside) == ([], ["votes"], {})
    with pytest.raises(NotAnAuthority):
        directory.find("a@b", 80)
