"""The control stream from the control plane's end, against a proxy made of two memory channels and a virtual clock."""

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.control.aggregate import Aggregate
from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.issuer import Certificate, NotSigned
from mesh.control.push import Push
from mesh.control.tap import Taps
from mesh.control.tokens import ADMIN, Bearer, Role
from mesh.model.authorization import Action, Egress
from mesh.model.errors import PeerError
from mesh.model.gateway import HTTPRouteRule, HTTPRouteSpec, ParentRef, WeightedBackendRef
from mesh.model.push import (
    Ack,
    Alive,
    FromControl,
    Heartbeat,
    Hello,
    Nack,
    Refused,
    Report,
    ServiceUpdate,
    Settings,
    Sign,
    Signed,
    Subscribe,
    Tapped,
    TapStart,
    TapStop,
    Unsubscribe,
    Welcome,
)
from mesh.model.push import NotSigned as Denial
from mesh.model.reports import Seen, SeriesDelta, SeriesKey, TapEvent, TapMatch, TcpDelta
from mesh.model.resources import (
    Endpoint,
    EndpointSpec,
    HTTPRoute,
    Metadata,
    TrafficPolicy,
    TrafficPolicySpec,
    Workload,
    WorkloadSpec,
)
from mesh.model.traffic import RateLimit

HELLO = Hello("web", "demo", "web/h/1", "0.1")
WORDS = ServiceKey("demo", "words")


class FakeSocket:
    """A proxy's end: what it says is queued, what it is told is taken when it likes."""

    def __init__(self):
        self.to_control, self.heard = trio.open_memory_channel(100)
        self.told, self.from_control = trio.open_memory_channel(0)

    async def receive(self):
        try:
            return await self.heard.receive()
        except trio.EndOfChannel:
            raise PeerError("gone") from None

    async def send(self, message, deadline):
        with trio.move_on_after(deadline) as scope:
            try:
                await self.told.send(message)
            except trio.BrokenResourceError:
                raise PeerError("gone") from None
        if scope.cancelled_caught:
            raise PeerError("takes nothing")

    def say(self, message):
        self.to_control.send_nowait(msgspec.json.encode(message))

    async def hear(self, kind=None):
        """The next message, or the next of a kind."""
        while True:
            message = msgspec.json.decode(await self.from_control.receive(), type=FromControl)
            if kind is None or isinstance(message, kind):
                return message


class Signer:
    """Signs by writing the name; refuses the request `bad`."""

    trust_domain = "cluster.local"
    anchors = "roots"
    fingerprint = "first"

    def sign(self, csr, identity):
        if csr == "bad":
            raise NotSigned("the request cannot be read")
        return Certificate(f"{csr} for {identity}", 0.0, 1000.0)


class Bench:
    """A control plane's push side with one service, words, of one workload, words-v1."""

    def __init__(self, log, signer=None):
        self.cluster, self.taps = Cluster(), Taps()
        self.aggregate = Aggregate(trio.current_time())
        self.push = Push(self.cluster, self.aggregate, self.taps, "epoch", log, signer=signer)
        self.cluster.set_file(
            "f", [Workload(Metadata("words-v1", "demo"), WorkloadSpec(("x",), service="words", port="auto"))]
        )

    def set_endpoints(self, *addresses):
        resources = [
            Endpoint(Metadata(f"w{n}", "demo"), EndpointSpec("words", "words-v1", address))
            for n, address in enumerate(addresses)
        ]
        self.push.changed(self.cluster.set_file("e", resources))

    def requests(self, direction="inbound"):
        window = self.aggregate.window(trio.current_time(), 0)
        return {s.service: c.requests for s, c in window.cells.items() if s.direction == direction}

    async def serve(self, socket, bearer=ADMIN):
        with socket.told:  # closed at the end, so that a test that still listens is told
            await self.push.serve(socket, bearer)

    async def connect(self, nursery, hello=HELLO, bearer=ADMIN):
        socket = FakeSocket()
        nursery.start_soon(self.serve, socket, bearer)
        socket.say(hello)
        assert isinstance(await socket.hear(), Welcome)
        assert isinstance(await socket.hear(), Settings)
        return socket


@pytest.fixture
async def bench(log, autojump_clock):
    """Nobody connected yet; tests take the clock too, so that time passes when everybody waits."""
    return Bench(log)


@pytest.fixture
async def secure(log, autojump_clock):
    """The same with somebody who signs."""
    return Bench(log, Signer())


def addresses(update):
    return [endpoint.address for endpoint in update.service.endpoints]


async def test_subscriptions_are_answered_and_followed(bench, nursery, autojump_clock):
    """What a name means is told when it is asked for and whenever it changes, also that it means nothing."""
    socket = await bench.connect(nursery)
    socket.say(Subscribe("words"))
    update = await socket.hear(ServiceUpdate)
    assert (update.name, update.version, addresses(update)) == ("words", 1, [])
    socket.say(Subscribe("nobody.demo"))
    assert (await socket.hear(ServiceUpdate)).service is None
    bench.set_endpoints("127.0.0.1:1")
    update = await socket.hear(ServiceUpdate)
    assert (update.name, update.version, addresses(update)) == ("words", 2, ["127.0.0.1:1"])
    socket.say(Unsubscribe("words"))
    socket.say(Ack("words", 2))
    await trio.testing.wait_all_tasks_blocked()
    bench.set_endpoints("127.0.0.1:2")
    assert isinstance(await socket.hear(), Heartbeat)


async def test_a_proxy_is_told_of_the_service_that_it_is_beside(bench, nursery, autojump_clock):
    """Its own service's limits reach it like any destination's, and follow the policy, also without an endpoint."""
    socket = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1", services=("words",)))
    assert (await socket.hear(ServiceUpdate)).service.traffic.rate_limits == ()
    policy = TrafficPolicySpec("words", rate_limits=(RateLimit(5),))
    bench.push.changed(bench.cluster.set_file("p", [TrafficPolicy(Metadata("p", "demo"), policy)]))
    assert (await socket.hear(ServiceUpdate)).service.traffic.rate_limits == (RateLimit(5),)
    bench.push.changed(bench.cluster.remove_file("p"))
    assert (await socket.hear(ServiceUpdate)).service.traffic.rate_limits == ()


async def test_a_backend_that_comes_is_told_to_who_asked_for_the_parent(bench, nursery, autojump_clock):
    """The reference resolves from then on, until the backend goes."""
    parent = ParentRef("words", group="", kind="Service")
    rule = HTTPRouteRule(backend_refs=(WeightedBackendRef("words-v2"),))
    route = HTTPRoute(Metadata("r", "demo"), HTTPRouteSpec((parent,), rules=(rule,)))
    bench.cluster.set_file("r", [route])
    socket = await bench.connect(nursery, msgspec.structs.replace(HELLO, services=("words",)))

    def problem(update):
        return update.service.traffic.routes[0].backends[0].problem

    assert problem(await socket.hear(ServiceUpdate)) != ""
    endpoint = Endpoint(Metadata("w", "demo"), EndpointSpec("words-v2", "words-v2", "127.0.0.1:1"))
    bench.push.changed(bench.cluster.set_file("e", [endpoint]))
    assert problem(await socket.hear(ServiceUpdate)) == ""
    bench.push.changed(bench.cluster.remove_file("e"))
    assert problem(await socket.hear(ServiceUpdate)) != ""


async def test_a_reconnect_is_told_everything_at_once(bench, nursery, autojump_clock):
    """Names in the hello are subscribed already."""
    socket = await bench.connect(nursery, msgspec.structs.replace(HELLO, services=("words", "x")))
    assert {(await socket.hear(ServiceUpdate)).name for _ in range(2)} == {"words", "x"}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(bursts=st.lists(st.integers(1, 5), max_size=12))
def test_latest_wins(log, bursts):
    """However slowly a proxy takes, nothing queues up: of each burst it sees the last state, after few older ones."""

    async def main():
        bench = Bench(log)
        async with trio.open_nursery() as nursery:
            socket = await bench.connect(nursery, msgspec.structs.replace(HELLO, services=("words",)))
            seen = [await socket.hear(ServiceUpdate)]
            port = 0
            for changes in bursts:
                for _ in range(changes):
                    port += 1
                    bench.set_endpoints(f"127.0.0.1:{port}")
                    await trio.testing.wait_all_tasks_blocked()
                assert len(bench.push.links["web/h/1"].dirty) <= 1
                older = 0
                while addresses(seen[-1]) != [f"127.0.0.1:{port}"]:
                    seen.append(await socket.hear(ServiceUpdate))
                    older += 1
                assert older <= 2
            versions = [update.version for update in seen]
            assert versions == sorted(set(versions))
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_acks_and_nacks_are_shown(bench, nursery, autojump_clock):
    """A nack stands with its reason until an ack; answers about what was never sent count for nothing."""
    socket = await bench.connect(nursery)
    socket.say(Subscribe("words"))
    update = await socket.hear(ServiceUpdate)
    socket.say(Nack("words", update.version, "bad " * 1000))
    socket.say(Nack("other", update.version, "never asked"))
    socket.say(Ack("words", 99))
    await trio.testing.wait_all_tasks_blocked()
    [info] = bench.push.proxies()
    assert (info.proxy, info.subscriptions, info.acknowledged) == ("web/h/1", ("words",), 0)
    assert list(info.nacks) == ["words"]
    assert len(info.nacks["words"]) == 500
    socket.say(Ack("words", update.version))
    await trio.testing.wait_all_tasks_blocked()
    [info] = bench.push.proxies()
    assert (info.acknowledged, info.nacks) == (1, {})


async def test_heartbeats_carry_the_newest_version_pushed(bench, nursery, autojump_clock):
    """So a proxy that has seen less knows that it missed something."""
    socket = await bench.connect(nursery)
    assert await socket.hear() == Heartbeat(1)  # of the settings
    bench.cluster.set_file("x", [Workload(Metadata("other", "demo"), WorkloadSpec(("x",), port="auto"))])
    socket.say(Alive(1))
    assert await socket.hear() == Heartbeat(1)
    socket.say(Subscribe("words"))
    await socket.hear(ServiceUpdate)
    assert await socket.hear() == Heartbeat(2)


async def test_a_proxy_that_missed_an_update_gets_it_again(bench, nursery, autojump_clock):
    """When it still claims to have less after the update had its time, all that it asked for is sent again."""
    socket = await bench.connect(nursery)
    socket.say(Subscribe("words"))
    await socket.hear(ServiceUpdate)
    while not isinstance(message := await socket.hear(), ServiceUpdate):
        socket.say(Alive(0))
    assert (message.name, bench.push.counters["resynced"]) == ("words", 1)


async def test_silence_ends_a_stream(bench, nursery, autojump_clock):
    """Five seconds without a word, and the proxy is no longer one of ours."""
    socket = await bench.connect(nursery)
    started = trio.current_time()
    with pytest.raises(trio.EndOfChannel):
        await socket.hear(Refused)
    assert 4.9 < trio.current_time() - started < 5.1
    assert bench.push.links == {}
    assert bench.push.counters["ended"] == 1


async def test_a_proxy_that_takes_nothing_is_let_go(bench, nursery, autojump_clock):
    """It may talk as much as it likes."""
    socket = await bench.connect(nursery)
    socket.say(Subscribe("words"))
    for _ in range(7):
        socket.say(Alive(0))
        await trio.sleep(1)
    assert bench.push.links == {}


async def test_no_hello_no_stream(bench, autojump_clock):
    """Who says nothing at first is gone after the silence; who says something else is told why not."""
    with pytest.raises(PeerError, match="said nothing"):
        await bench.push.serve(FakeSocket())
    socket = FakeSocket()
    socket.say(Subscribe("words"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.push.serve, socket)
        assert await socket.hear() == Refused("the first message must be a hello")
    assert bench.push.links == {}


@pytest.mark.parametrize(
    "message", [b"nonsense", msgspec.json.encode(HELLO), msgspec.json.encode(Subscribe("x" * 2000))]
)
async def test_what_is_malformed_ends_its_own_stream_only(bench, nursery, autojump_clock, message):
    """With a word why; the other proxies' streams go on."""
    other = await bench.connect(nursery, msgspec.structs.replace(HELLO, proxy="other"))
    socket = await bench.connect(nursery)
    socket.to_control.send_nowait(message)
    nursery.start_soon(keep_hearing, other)
    assert isinstance(await socket.hear(Refused), Refused)
    await trio.testing.wait_all_tasks_blocked()
    assert list(bench.push.links) == ["other"]
    assert bench.push.counters["refused"] == 1


async def keep_hearing(socket, answer=True):
    while True:
        await socket.hear()
        if answer:
            socket.say(Alive(0))


async def test_subscriptions_are_bounded(bench, nursery, autojump_clock, monkeypatch):
    """One proxy cannot make us remember without end."""
    monkeypatch.setattr("mesh.control.link.MAX_SUBSCRIPTIONS", 3)
    socket = await bench.connect(nursery)
    for n in range(4):
        socket.say(Subscribe(f"s{n}"))
    assert "more than 3" in (await socket.hear(Refused)).reason


async def test_a_newer_stream_of_the_same_proxy_replaces_the_older(bench, nursery, autojump_clock):
    """A proxy that is back before its dead stream was noticed is known once."""
    await bench.connect(nursery)
    newer = await bench.connect(nursery)
    await trio.testing.wait_all_tasks_blocked()
    assert len(bench.push.links) == 1
    newer.say(Subscribe("words"))
    assert (await newer.hear(ServiceUpdate)).name == "words"


def series(direction, service, requests):
    key = SeriesKey(direction, service, "", "http1", 200, -1, "completed", "", True, "disabled")
    return SeriesDelta(key, requests, 1.0, {1: requests})


async def test_reports_are_attributed_to_who_speaks(bench, nursery, autojump_clock):
    """A workload reports its own inbound traffic and anything outbound; inbound of another's service is dropped."""
    words = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1"))
    web = await bench.connect(nursery)
    words.say(Report(0.0, 1.0, (series("inbound", "words", 5),), (TcpDelta("inbound", "words", 2, 0, 2, 0, 0),)))
    web.say(Report(0.0, 1.0, (series("inbound", "words", 100), series("inbound", "web", 7))))
    web.say(Report(0.0, 1.0, (series("outbound", "words.demo", 3), series("outbound", "a.example:443", 1))))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.requests() == {"words": 5, "web": 7}
    assert bench.requests("outbound") == {"words": 3, "a.example:443": 1}
    assert bench.push.counters["foreign"] == 1
    assert [count for *_, count in bench.aggregate.tcp_open()] == [2]
    words.to_control.close()
    await trio.testing.wait_all_tasks_blocked()
    assert list(bench.aggregate.tcp_open()) == []


async def test_seen_traffic_is_told_by_who_is_behind_the_service(bench, nursery, autojump_clock):
    """A proxy tells what its own application was asked; about another's service, or about none, it is not heard."""
    words = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1"))
    web = await bench.connect(nursery)
    seen = Seen("words", "", "10.0.0.1", "http", "GET", "/a", "/a", True, "default:audit", "", 3)
    words.say(Report(0.0, 1.0, seen=(seen, msgspec.structs.replace(seen, service="words.demo", count=4))))
    web.say(Report(0.0, 1.0, seen=(seen, msgspec.structs.replace(seen, service="a.example:443"))))
    await trio.testing.wait_all_tasks_blocked()
    [row] = bench.push.seen.rows()
    assert (row.namespace, row.service, row.requests, row.workloads) == ("demo", "words", 7, {"words-v1": 7})
    assert bench.push.counters["foreign"] == 2


async def test_taps_are_told_to_their_proxies_also_to_later_ones(bench, nursery, autojump_clock):
    """Start and stop reach those of the workload, whenever they connect; events are of the workload that speaks."""
    early = await bench.connect(nursery)
    other = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1"))
    session = bench.taps.open(TapMatch(workload="web.demo", to="words.demo"), trio.current_time())
    late = await bench.connect(nursery, msgspec.structs.replace(HELLO, proxy="web/h/2"))
    for socket in (early, late):
        assert await socket.hear(TapStart) == TapStart(session.number, TapMatch(workload="web", to="words"))
    event = TapEvent("req", "0:1", "out", "somebody", "a", "b", "disabled", service="words")
    late.say(Tapped(session.number, (event,)))
    other.say(Tapped(session.number, (event,)))
    await session.wake.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert [e.workload for e in session.take_out()[0]] == ["web"]
    bench.taps.close(session)
    for socket in (early, late):
        assert await socket.hear(TapStop) == TapStop(session.number)
    with trio.move_on_after(0.1):
        assert not isinstance(await other.hear(), TapStart)


async def test_taps_come_at_once_to_a_new_proxy(bench, nursery, autojump_clock):
    """It need not ask for anything first, nor wait for a heartbeat: its first request may already be wanted."""
    session = bench.taps.open(TapMatch(to="words"), trio.current_time())
    before = trio.current_time()
    socket = await bench.connect(nursery)
    assert await socket.hear(TapStart) == TapStart(session.number, TapMatch(to="words"))
    assert trio.current_time() == before


async def test_who_says_too_much_is_read_more_slowly(bench, nursery, autojump_clock):
    """Messages over the allowance wait; none is lost, and the stream lives."""
    socket = await bench.connect(nursery)
    nursery.start_soon(keep_hearing, socket, False)
    started = trio.current_time()
    for _ in range(3_000):
        await socket.to_control.send(msgspec.json.encode(Report(0.0, 1.0, (series("outbound", "words", 1),))))
    await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() - started > 1.0
    assert bench.push.counters["metered"] > 0
    assert bench.requests("outbound")["words"] >= 2_900


async def test_an_update_that_is_too_large_is_not_sent_but_told(bench, nursery, autojump_clock, monkeypatch):
    """The proxy keeps what it has, and people see why."""
    monkeypatch.setattr("mesh.control.push.MAX_MESSAGE", 2_000)
    socket = await bench.connect(nursery)
    bench.set_endpoints(*(f"127.0.0.1:{port}" for port in range(1, 100)))
    socket.say(Subscribe("words"))
    assert isinstance(await socket.hear(), Heartbeat)
    assert "too large" in bench.push.proxies()[0].nacks["words"]


# --- whom it speaks for

FRONT = Bearer(Role.PROXY, "web.demo", workload="web", namespace="demo", account="front")


@pytest.mark.parametrize(
    "hello",
    [
        Hello("words-v1", "demo", "words-v1/h/1", "0.1"),
        Hello("web", "other", "web/h/1", "0.1"),
        Hello("front", "demo", "front/h/1", "0.1"),
    ],
    ids=["workload", "namespace", "account"],
)
async def test_a_proxys_token_speaks_for_its_workload_alone(secure, hello, autojump_clock):
    """A hello of anybody else is refused with a word why, before anything is told."""
    socket = FakeSocket()
    socket.say(hello)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(secure.push.serve, socket, FRONT)
        assert await socket.hear() == Refused(
            f"this token is for the proxies of web.demo, not for those of {hello.workload}.{hello.namespace}"
        )
    assert secure.push.links == {}


async def test_a_certificate_is_for_the_tokens_account(secure, nursery, autojump_clock):
    """Not for the workload, nor what the request says; with the roots and the issuer, and shown to people."""
    socket = await secure.connect(nursery, bearer=FRONT)
    socket.say(Sign("csr"))
    identity = "front.demo.serviceaccount.identity.cluster.local"
    assert await socket.hear() == Signed(f"csr for {identity}", "roots", "first")
    [info] = secure.push.identities()
    assert (info.proxy, info.identity, info.not_after, info.issuer) == ("web/h/1", identity, 1000.0, "first")


async def test_by_hand_a_certificate_is_for_the_workload(secure, nursery, autojump_clock):
    """With the admin's token, which is for any workload."""
    socket = await secure.connect(nursery)
    socket.say(Sign("csr"))
    assert (await socket.hear(Signed)).chain == "csr for web.demo.serviceaccount.identity.cluster.local"


async def test_what_cannot_be_signed_is_told(secure, bench, nursery, autojump_clock):
    """A bad request, and a mesh without an issuer: the stream lives on."""
    socket = await secure.connect(nursery)
    socket.say(Sign("bad"))
    assert await socket.hear() == Denial("the request cannot be read")
    socket.say(Sign("good"))
    assert isinstance(await socket.hear(), Signed)
    socket = await bench.connect(nursery)
    socket.say(Sign("csr"))
    assert "no identities" in (await socket.hear(Denial)).reason


async def test_certificates_are_metered(secure, nursery, autojump_clock):
    """A few at once, then two a second, however often it asks; an honest proxy beside it has its own measure."""
    socket = await secure.connect(nursery)
    other = await secure.connect(nursery, msgspec.structs.replace(HELLO, proxy="web/h/2"))
    for _ in range(20):
        socket.say(Sign("csr"))
    answers = [await socket.hear() for _ in range(20)]
    assert [isinstance(answer, Signed) for answer in answers] == [True] * 5 + [False] * 15
    assert "too many" in answers[-1].reason
    other.say(Sign("csr"))
    assert isinstance(await other.hear(Signed), Signed)
    nursery.start_soon(keep_hearing, other)
    await trio.sleep(0.6)
    socket.say(Sign("csr"))
    assert isinstance(await socket.hear(), Signed)


async def test_settings_come_at_once_and_again_when_trust_changes(secure, nursery, autojump_clock):
    """With the roots and who signs; a newer version each time, and nothing where nothing changed."""
    socket = FakeSocket()
    nursery.start_soon(secure.serve, socket)
    socket.say(HELLO)
    assert isinstance(await socket.hear(), Welcome)
    assert await socket.hear() == Settings(1, "roots", "first")
    secure.set_endpoints("127.0.0.1:1")
    secure.push.taps_changed()
    assert isinstance(await socket.hear(), Heartbeat)
    secure.push._signer.fingerprint = "second"
    secure.push.trust_changed()
    assert await socket.hear() == Settings(3, "roots", "second")
    socket.say(Ack("", 3))
    await trio.testing.wait_all_tasks_blocked()
    assert secure.push.proxies()[0].acknowledged == 3


async def test_settings_follow_what_may_be_called_outside(bench, nursery, autojump_clock):
    """Each workload is told its own, when it is another."""
    limits = {}
    bench.push.egress = lambda workload: limits.get(workload, Egress())
    web = await bench.connect(nursery)
    other = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1"))
    limits[ServiceKey("demo", "web")] = Egress(default=Action.DENY)
    bench.set_endpoints("127.0.0.1:1")
    assert (await web.hear()).egress.default is Action.DENY
    assert isinstance(await other.hear(), Heartbeat)


async def test_settings_that_are_refused_are_shown(bench, nursery, autojump_clock):
    """Under no name, for they are no service's; and settings that are too large are not sent."""
    socket = await bench.connect(nursery)
    socket.say(Nack("", 1, "no PEM"))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.push.proxies()[0].nacks == {"": "no PEM"}
    bench.push.egress = lambda workload: Egress(default_from="x" * 2_000_000)
    bench.set_endpoints("127.0.0.1:1")
    assert isinstance(await socket.hear(), Heartbeat)
    assert "too large" in bench.push.proxies()[0].nacks[""]


async def test_settings_that_were_lost_are_sent_again(secure, nursery, autojump_clock):
    """A proxy that still claims to have less is told anew."""
    socket = await secure.connect(nursery)
    while not isinstance(message := await socket.hear(), Settings):
        socket.say(Alive(0))
    assert message == Settings(1, "roots", "first")
    assert secure.push.counters["resynced"] == 1


async def test_nobody_takes_anothers_place(bench, nursery, autojump_clock):
    """A proxy that calls itself as another workload's does is known by another name, and ends nothing."""
    web = await bench.connect(nursery)
    thief = await bench.connect(nursery, Hello("words-v1", "demo", "web/h/1", "0.1"))
    again = await bench.connect(nursery, Hello("words-v1", "demo", "web/h/1", "0.1"))
    await trio.testing.wait_all_tasks_blocked()
    assert list(bench.push.links) == ["web/h/1", "web/h/1@words-v1.demo"]
    assert [info.workload for info in bench.push.proxies()] == ["web", "words-v1"]
    for socket in (web, again):
        socket.say(Subscribe("words"))
        assert (await socket.hear(ServiceUpdate)).name == "words"
    with pytest.raises(trio.EndOfChannel):
        await thief.hear(Refused)


async def test_no_kind_of_report_is_about_others(bench, nursery, autojump_clock):
    """Neither connections nor what was seen: only who is behind a service tells of what came to it."""
    web = await bench.connect(nursery)
    words = await bench.connect(nursery, Hello("words-v1", "demo", "words-v1/h/1", "0.1"))
    seen = Seen("words", "x.demo.serviceaccount.identity.cluster.local", "", "http", "GET", "/", "/", True, "d", "", 5)
    tcp = TcpDelta("inbound", "words", 9, 0, 9, 0, 0)
    web.say(Report(0.0, 1.0, (), (tcp,), (seen,)))
    await trio.testing.wait_all_tasks_blocked()
    assert bench.push.counters["foreign"] == 2
    assert list(bench.aggregate.tcp_open()) == []
    assert list(bench.push.seen.rows()) == []
    words.say(Report(0.0, 1.0, (), (tcp,), (seen,)))
    await trio.testing.wait_all_tasks_blocked()
    assert [row.requests for row in bench.push.seen.rows()] == [5]
    assert [count for *_, count in bench.aggregate.tcp_open()] == [9]
