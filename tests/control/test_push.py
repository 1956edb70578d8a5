"""The control stream from the control plane's end, against a proxy made of two memory channels and a virtual clock."""

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mesh.model.errors import PeerError
from mesh.model.gateway import HTTPRouteRule, HTTPRouteSpec, ParentRef, WeightedBackendRef
from mesh.model.push import (
    Ack,
    Alive,
    Heartbeat,
    Hello,
    Nack,
    Refused,
    Report,
    ServiceUpdate,
    Subscribe,
    Tapped,
    TapStart,
    TapStop,
    Unsubscribe,
)
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

from .streams import HELLO, Bench, FakeSocket, addresses, keep_hearing


@pytest.fixture
async def bench(log, autojump_clock):
    """Nobody connected yet; tests take the clock too, so that time passes when everybody waits."""
    return Bench(log)


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
