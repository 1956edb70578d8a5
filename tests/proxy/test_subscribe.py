"""The proxy's end of the control stream, against a control plane that does as the test says."""

import random
import ssl
from functools import partial

import msgspec
import pytest
import trio
import trustme
from trio_websocket import ConnectionClosed, serve_websocket

from mesh.model.config import ControlLink, Service
from mesh.model.errors import ControlError
from mesh.model.explain import Question, Step
from mesh.model.push import (
    Ack,
    Alive,
    Explain,
    Explained,
    FromProxy,
    Heartbeat,
    Hello,
    Nack,
    NotSigned,
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
from mesh.model.reports import Seen, SeriesDelta, SeriesKey, TapEvent, TapMatch
from mesh.proxy import subscribe
from mesh.proxy.subscribe import Subscriptions

SECONDS = 30.0


class Applied:
    """Takes every update but those of `bad`."""

    def __init__(self):
        self.updates = []

    def apply(self, update):
        if update.name == "bad":
            return "endpoints[0].address: no"
        if update.name == "bug":
            raise KeyError("a bug")
        self.updates.append(update)
        return None

    def settle(self, settings):
        if settings.issuer == "bad":
            return "egress: no"
        if settings.issuer == "bug":
            raise KeyError("a bug")
        self.updates.append(settings)
        return None

    def explain(self, question):
        if question.authority == "bug":
            raise KeyError("a bug")
        return (Step("name", "found", question.authority),)


class Counters:
    """Grows by one request a drain while `growing`."""

    def __init__(self):
        self.growing = True
        self.drained = 0

    def drain(self):
        if not self.growing:
            return [], []
        self.drained += 1
        key = SeriesKey("outbound", "words", "", "http1", 200, -1, "completed", "", True, "disabled")
        return [SeriesDelta(key, 1, 1.0, {1: 1})], []

    def drain_seen(self):
        return [Seen("web", "", "127.0.0.1", "http", "GET", "/", "/", True, "default:all", "", 1)] * self.growing


class Watched:
    """Sessions, and an event for each take while there are some."""

    def __init__(self):
        self.sessions = {}

    def start(self, session, match):
        self.sessions[session] = match

    def stop(self, session):
        self.sessions.pop(session, None)

    def stop_all(self):
        self.sessions.clear()

    def take(self):
        event = TapEvent("req", "0:1", "out", "web", "a", "b", "disabled")
        return [Tapped(session, (event,)) for session in self.sessions]


class Stream:
    """One accepted control stream."""

    def __init__(self, websocket, hello, headers):
        self.websocket, self.hello, self.headers = websocket, hello, headers
        self.over = trio.Event()

    async def say(self, message):
        await self.websocket.send_message(msgspec.json.encode(message).decode())

    async def hear(self, kind):
        """The next message of a kind."""
        with trio.fail_after(SECONDS):
            while True:
                message = msgspec.json.decode(await self.websocket.get_message(), type=FromProxy)
                if isinstance(message, kind):
                    return message

    async def closed(self):
        """Returns when the proxy has closed it."""
        with trio.fail_after(SECONDS):
            while self.websocket.closed is None:
                await trio.sleep(0.005)


class Control:
    """Accepts streams and hands them to the test."""

    def __init__(self, tls=None):
        self._given, self._streams = trio.open_memory_channel(10)
        self.status = 0
        self.port = 0
        self.tls = tls

    @property
    def url(self):
        return f"{'http' if self.tls is None else 'https'}://127.0.0.1:{self.port}"

    async def run(self, task_status):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(
                partial(serve_websocket, self._serve, "127.0.0.1", self.port, self.tls, handler_nursery=nursery)
            )
            self.port = server.port
            task_status.started(nursery.cancel_scope)

    async def _serve(self, request):
        if self.status:
            await request.reject(self.status)
            return
        websocket = await request.accept()
        try:
            hello = msgspec.json.decode(await websocket.get_message(), type=FromProxy)
            stream = Stream(websocket, hello, dict(request.headers))
            self._given.send_nowait(stream)
            await stream.over.wait()
        except ConnectionClosed:
            return

    async def stream(self):
        """The next stream that the proxy opens."""
        with trio.fail_after(SECONDS):
            return await self._streams.receive()


class Bench:
    """A proxy's subscriptions on a control plane of ours."""

    def __init__(self, control, nursery, anchors="", **options):
        self.control, self.nursery = control, nursery
        self.applied, self.counters, self.watched, self.logged = Applied(), Counters(), Watched(), []
        self.subscriptions = Subscriptions(
            ControlLink(control.url, "secret", "web", "demo", anchors),
            applier=self.applied,
            reports=self.counters,
            taps=self.watched,
            admin="127.0.0.1:1",
            log=lambda *event: self.logged.append(event),
            chance=random.Random(1),
            **options,
        )

    async def connect(self):
        stream = await self.control.stream()
        await stream.say(Welcome("epoch", 1))
        await self.until(lambda: self.subscriptions.connected)
        return stream

    async def until(self, condition):
        with trio.fail_after(SECONDS):
            while not condition():
                await trio.sleep(0.005)


@pytest.fixture
async def control(nursery):
    """Listens."""
    control = Control()
    control.scope = await nursery.start(control.run)
    return control


@pytest.fixture
async def bench(control, nursery):
    """Runs, with heartbeats fast enough for a test."""
    bench = Bench(control, nursery, heartbeat=0.05, silence=1.0)
    bench.subscriptions.want("early")
    await nursery.start(bench.subscriptions.run)
    return bench


async def test_hello_says_who_we_are_and_what_we_want(bench):
    """Workload, token, addresses, and the names that were wanted before there was a stream."""
    assert not bench.subscriptions.ever_connected
    stream = await bench.connect()
    hello = stream.hello
    assert isinstance(hello, Hello)
    assert (hello.workload, hello.namespace, hello.admin, hello.services) == ("web", "demo", "127.0.0.1:1", ("early",))
    assert hello.proxy.startswith("web/")
    assert stream.headers[b"authorization"] == b"Bearer secret"
    assert bench.subscriptions.connected
    assert bench.subscriptions.ever_connected


async def test_names_are_asked_for_once_and_answers_applied(bench):
    """An update that is in force is acked, one that is refused or breaks the applier is nacked with the reason."""
    stream = await bench.connect()
    for name in ("words", "words", "bad", "bug"):
        bench.subscriptions.want(name)
    names = [(await stream.hear(Subscribe)).name for _ in range(3)]
    assert names == ["words", "bad", "bug"]
    for version, name in enumerate(names, 3):
        await stream.say(ServiceUpdate(name, version, Service(name)))
    answers = [await stream.hear(Ack | Nack) for _ in range(3)]
    assert answers == [
        Ack("words", 3),
        Nack("bad", 4, "endpoints[0].address: no"),
        Nack("bug", 5, "KeyError: 'a bug'"),
    ]
    assert [update.name for update in bench.applied.updates] == ["words"]
    assert bench.subscriptions.connected
    bench.subscriptions.unwant("words")
    assert (await stream.hear(Unsubscribe)).name == "words"
    await stream.say(ServiceUpdate("words", 9, None))
    assert (await stream.hear(Alive)).version <= 9
    assert [update.name for update in bench.applied.updates] == ["words"]


async def test_a_broken_stream_is_dialled_again_with_all_names(bench):
    """The new hello asks for everything; what was applied stays meanwhile; the reason is known."""
    stream = await bench.connect()
    bench.subscriptions.want("words")
    await stream.say(ServiceUpdate("early", 1, Service("early")))
    await stream.hear(Ack)
    stream.over.set()
    stream = await bench.connect()
    assert stream.hello.services == ("early", "words")
    assert len(bench.applied.updates) == 1
    assert [event for event, *_ in bench.logged] == [
        "control_plane_found",
        "control_plane_lost",
        "control_plane_found",
    ]


async def test_a_control_plane_that_comes_back_is_found_soon(control, bench, nursery):
    """Dead for a while, refusing or not listening at all: it is found again within the longest pause."""
    stream = await bench.connect()
    control.scope.cancel()
    stream.over.set()
    await bench.until(lambda: not bench.subscriptions.connected)
    await bench.until(lambda: "cannot connect" in bench.subscriptions.reason)
    again = Control()
    again.port, again.status = control.port, 401
    scope = await nursery.start(again.run)
    await bench.until(lambda: "401" in bench.subscriptions.reason)
    again.status = 0
    bench.control = again
    started = trio.current_time()
    await bench.connect()
    assert trio.current_time() - started < subscribe.LONGEST_PAUSE + 1
    scope.cancel()


async def test_silence_ends_the_stream(control, nursery):
    """A control plane that is stopped, not dead, is noticed; one that only beats is not silent."""
    bench = Bench(control, nursery, heartbeat=0.02, silence=0.2)
    await nursery.start(bench.subscriptions.run)
    stream = await bench.connect()
    for _ in range(15):
        await stream.say(Heartbeat(0))
        await stream.hear(Alive)
    assert bench.subscriptions.connected
    await bench.until(lambda: not bench.subscriptions.connected)
    assert bench.subscriptions.reason == "silent for 0.2 s"
    await bench.connect()


async def test_who_does_not_shake_hands_is_given_up(nursery, monkeypatch):
    """A port that accepts and says nothing does not hold us."""
    monkeypatch.setattr(subscribe, "CONNECT_SECONDS", 0.05)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    accepted = []

    async def mute(stream):
        accepted.append(stream)
        await trio.sleep_forever()

    await nursery.start(trio.serve_listeners, mute, listeners)
    control = Control()
    control.port = listeners[0].socket.getsockname()[1]
    bench = Bench(control, nursery)
    await nursery.start(bench.subscriptions.run)
    await bench.until(lambda: len(accepted) >= 2)
    assert bench.subscriptions.reason == "no answer"


@pytest.mark.parametrize(
    "text", ["nonsense", "{}", '{"type":"Unknown"}', "[" * 10_000, '{"type":"Refused","reason":"no"}']
)
async def test_what_we_do_not_understand_ends_the_stream_and_no_more(bench, text):
    """The next stream is as good as the first."""
    stream = await bench.connect()
    await stream.websocket.send_message(text)
    await stream.closed()
    stream.over.set()
    await bench.connect()


async def test_a_lost_update_is_noticed_and_asked_for(bench):
    """A heartbeat with a newer version than we saw means that one did not arrive: all is asked for again."""
    stream = await bench.connect()
    await stream.say(ServiceUpdate("early", 3, Service("early")))
    await stream.say(Heartbeat(3))
    await stream.hear(Ack)
    assert (await stream.hear(Alive)).version == 3
    await stream.say(Heartbeat(4))
    assert (await stream.hear(Subscribe)).name == "early"


async def test_reports_cover_the_time_without_a_stream(bench, monkeypatch):
    """Nothing is drained while nobody listens; the next report says how long it covers."""
    monkeypatch.setattr(subscribe, "REPORT_SECONDS", 0.05)
    stream = await bench.connect()
    report = await stream.hear(Report)
    assert report.series[0].requests == 1
    stream.over.set()
    await bench.until(lambda: not bench.subscriptions.connected)
    drained = bench.counters.drained
    lost_at = trio.current_time()
    stream = await bench.connect()
    report = await stream.hear(Report)
    assert bench.counters.drained == drained + 1
    assert report.seconds >= trio.current_time() - lost_at - 1.0
    assert report.seconds < 10


async def test_what_could_not_be_sent_is_merged_into_the_next_report(bench):
    """A report that was cut off is told with what came after, once."""
    stream = await bench.connect()
    bench.subscriptions._unsent.add(*bench.counters.drain())
    bench.nursery.start_soon(bench.subscriptions.flush)
    assert (await stream.hear(Report)).series[0].requests == 2


async def test_flush_sends_what_is_known_now(bench):
    """At the end nothing waits for the next second; without a stream there is nobody to wait for."""
    await bench.subscriptions.flush()
    stream = await bench.connect()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.subscriptions.flush)
        await stream.hear(Report)
    assert trio.current_time() - started < 0.9


async def test_taps_run_while_there_are_sessions(bench):
    """Events come a few times a second; a stop ends one session, a lost stream all."""
    stream = await bench.connect()
    await stream.say(TapStart(1, TapMatch(to="words")))
    await stream.say(TapStart(2, TapMatch()))
    assert {(await stream.hear(Tapped)).session for _ in range(4)} == {1, 2}
    await stream.say(TapStop(2))
    await bench.until(lambda: bench.watched.sessions == {1: TapMatch(to="words")})
    stream.over.set()
    await bench.until(lambda: bench.watched.sessions == {})
    stream = await bench.connect()
    assert isinstance(await stream.hear(Alive), Alive)


async def test_names_are_bounded(bench, monkeypatch):
    """Names that the mesh does not have make room for new ones, those that it has do not; long ones are not asked."""
    monkeypatch.setattr(subscribe, "MAX_WANTED", 2)
    stream = await bench.connect()
    bench.subscriptions.want("words")
    await stream.say(ServiceUpdate("early", 1, Service("early")))
    await stream.say(ServiceUpdate("words", 1, Service("words")))
    for _ in range(2):
        await stream.hear(Ack)
    bench.subscriptions.want("third")
    bench.subscriptions.want("x" * 5000)
    assert bench.logged[-1][0] == "too_many_destinations"
    await stream.say(ServiceUpdate("words", 2, None))
    await stream.hear(Ack)
    bench.subscriptions.want("third")
    assert (await stream.hear(Unsubscribe)).name == "words"
    assert (await stream.hear(Subscribe)).name == "third"


@pytest.mark.parametrize("url", ["", "127.0.0.1:1", "ftp://x", "http://"])
def test_a_link_must_be_a_url(url):
    """What cannot be dialled is refused at the start."""
    with pytest.raises(ControlError, match="is not http"):
        Subscriptions(ControlLink(url, "t", "w"), applier=Applied(), reports=Counters(), taps=Watched())


# --- what a proxy itself must know ------------------------------------------------------


async def test_settings_are_put_in_force_and_answered(bench):
    """By the empty name; what cannot be put in force, or holds no roots, is refused with the reason."""
    stream = await bench.connect()
    good = Settings(3, trustme.CA().cert_pem.bytes().decode(), "good")
    for settings, answer in (
        (good, Ack("", 3)),
        (Settings(4, "", "bad"), Nack("", 4, "egress: no")),
        (Settings(5, "", "bug"), Nack("", 5, "KeyError: 'a bug'")),
        (Settings(6, "nonsense", "good"), Nack("", 6, "anchors: hold no PEM certificate to trust")),
    ):
        await stream.say(settings)
        assert await stream.hear(Ack | Nack) == answer
    assert bench.applied.updates == [good]
    assert (await stream.hear(Alive)).version == 6


async def test_a_certificate_is_asked_for_and_comes(bench, nursery):
    """Also where the wish is older than the stream; a refusal says why."""
    got = []

    async def sign(csr):
        try:
            got.append(await bench.subscriptions.sign(csr))
        except ControlError as exc:
            got.append(str(exc))

    nursery.start_soon(sign, "first")
    stream = await bench.connect()
    assert await stream.hear(Sign) == Sign("first")
    answer = Signed("chain", "anchors", "issuer")
    await stream.say(answer)
    await bench.until(lambda: len(got) == 1)
    nursery.start_soon(sign, "second")
    assert await stream.hear(Sign) == Sign("second")
    await stream.say(NotSigned("you are nobody"))
    await bench.until(lambda: len(got) == 2)
    await stream.say(answer)  # nobody waits for it
    await stream.say(Settings(1))
    await stream.hear(Ack)
    nursery.start_soon(sign, "third")
    assert await stream.hear(Sign) == Sign("third")
    stream.over.set()
    await bench.until(lambda: len(got) == 3)
    assert got[:2] == [answer, "the control plane does not sign: you are nobody"]
    assert got[2].startswith("the control stream ended: ")


async def test_a_certificate_that_does_not_come_is_given_up(bench, monkeypatch):
    """In time; the stream lives on."""
    monkeypatch.setattr(subscribe, "SIGN_SECONDS", 0.1)
    await bench.connect()
    with pytest.raises(ControlError, match=r"has not signed within 0\.1 s"):
        await bench.subscriptions.sign("csr")
    assert bench.subscriptions.connected


async def test_questions_are_answered_by_number(bench):
    """A bug in answering costs that answer its steps, and is logged."""
    stream = await bench.connect()
    await stream.say(Explain(7, Question("outbound", "votes")))
    assert await stream.hear(Explained) == Explained(7, (Step("name", "found", "votes"),))
    await stream.say(Explain(8, Question("outbound", "bug")))
    answer = await stream.hear(Explained)
    assert (answer.number, answer.steps[0].outcome) == (8, "failed")
    assert bench.logged[-1][:2] == ("explain_failed", "bug")
    assert bench.subscriptions.connected


async def test_what_was_seen_is_reported(bench, nursery):
    """With the counters."""
    stream = await bench.connect()
    nursery.start_soon(bench.subscriptions.flush)
    assert (await stream.hear(Report)).seen == tuple(bench.counters.drain_seen())


# --- over TLS ---------------------------------------------------------------------------


async def test_the_control_plane_proves_who_it_is(nursery, tmp_path):
    """Under the roots of the file; when it has told others, and comes back with a certificate of those, under them."""
    first, second = trustme.CA(), trustme.CA()
    anchors = tmp_path / "anchors.pem"
    first.cert_pem.write_to_path(anchors)

    def context(authority):
        made = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(made)
        return made

    control = Control(context(first))
    control.scope = await nursery.start(control.run)
    bench = Bench(control, nursery, str(anchors))
    await nursery.start(bench.subscriptions.run)
    stream = await bench.connect()
    again = Control(context(second))
    control.scope.cancel()
    stream.over.set()
    again.port = control.port
    scope = await nursery.start(again.run)
    await bench.until(lambda: "certificate was refused" in bench.subscriptions.reason)
    scope.cancel()
    third = Control(context(first))
    third.port = control.port
    bench.control, scope = third, await nursery.start(third.run)
    stream = await bench.connect()
    await stream.say(Settings(1, second.cert_pem.bytes().decode(), "second"))
    await stream.hear(Ack)
    scope.cancel()
    stream.over.set()
    fourth = Control(context(second))
    fourth.port = control.port
    await nursery.start(fourth.run)
    bench.control = fourth
    await bench.connect()


async def test_a_file_that_is_missing_is_the_reason(nursery, tmp_path):
    """It is looked for again at each dial."""
    control = Control(ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    await nursery.start(control.run)
    bench = Bench(control, nursery, str(tmp_path / "missing.pem"))
    await nursery.start(bench.subscriptions.run)
    await bench.until(lambda: "No such file" in bench.subscriptions.reason)
    assert "missing.pem: anchors" in bench.subscriptions.reason
