"""Names to clusters: known ones, ones that are asked for, ones outside the mesh, and this proxy itself."""

from __future__ import annotations

import pytest

from mesh.model.config import Endpoint, Service, Timeouts
from mesh.proxy.directory import NAMES, Loop, NotAnAuthority
from mesh.proxy.exchange import NEVER
from mesh.wire.head import Head


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
