"""Whom a proxy speaks for on its stream: its token's workload, and nobody else."""

import msgspec
import pytest
import trio

from mesh.control.cluster import ServiceKey
from mesh.control.tokens import Bearer, Role
from mesh.model.authorization import Action, Egress
from mesh.model.push import (
    Ack,
    Alive,
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
    Welcome,
)
from mesh.model.push import NotSigned as Denial
from mesh.model.reports import Seen, TcpDelta

from .streams import HELLO, Bench, FakeSocket, Signer, keep_hearing


@pytest.fixture
async def bench(log, autojump_clock):
    """Nobody connected yet; tests take the clock too, so that time passes when everybody waits."""
    return Bench(log)


@pytest.fixture
async def secure(log, autojump_clock):
    """The same with somebody who signs."""
    return Bench(log, Signer())


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
