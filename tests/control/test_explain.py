"""Whom the control plane asks about a request, and what it makes of the answers; the proxies are ours."""

from contextlib import asynccontextmanager

import msgspec
import pytest
from msgspec.structs import replace
from trio_websocket import ConnectionClosed

from mesh.model.explain import Question, Step, Trace
from mesh.model.push import Explain, Explained, FromControl, Hello, Tapped, TapStart
from mesh.model.reports import TapEvent

WEB = "web.demo.serviceaccount.identity.cluster.local"
WORDS = "127.0.0.1:7001"
FOUND = Step("name", "found")
ONWARD = Question("inbound", "words", path="/rewritten", identity=WEB)
CHOSEN = Step("endpoint", "chosen", address=WORDS, onward=ONWARD)
ALLOWED, DENIED = Step("policy", "allowed", by="demo/p"), Step("policy", "denied", by="demo/p", verdict="denied")
REQ = TapEvent(
    "req", "3:1", "out", "web", "127.0.0.1:5", "", "disabled", "words", method="GET", authority="words", path="/a?b=c"
)


class Proxy:
    """A connected proxy. `steps` are its answers, the last one for ever; `questions` what it was asked."""

    def __init__(self, *steps):
        self.steps = list(steps)
        self.questions = []
        self.tapped = ()

    async def run(self, socket):
        while True:
            try:
                message = msgspec.json.decode(await socket.get_message(), type=FromControl)
            except ConnectionClosed:
                return
            match message:
                case Explain(number, question):
                    self.questions.append(question)
                    steps = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
                    if steps is not None:
                        await self.say(socket, Explained(number, steps))
                case TapStart(session):
                    await self.say(socket, Tapped(session, self.tapped))

    async def say(self, socket, message):
        await socket.send_message(msgspec.json.encode(message).decode())


@asynccontextmanager
async def connected(plane, until, nursery, workload, proxy, inbound=(), name=""):
    """The proxy on a control stream of its own."""
    async with plane.websocket("/api/v1/proxies/connect") as socket:
        hello = Hello(workload, "demo", name or f"{workload}/h/1", "0", inbound=inbound)
        await proxy.say(socket, hello)
        nursery.start_soon(proxy.run, socket)

        async def known():
            return any(row["proxy"] == hello.proxy for row in await plane.get("/api/v1/proxies"))

        await until(known)
        yield


@pytest.fixture
async def mesh(plane, until, nursery):
    """Proxies of web and words, and an endpoint of words."""
    plane.put_endpoint("words-1", "words", WORDS, workload="words-v1")

    async def serves():
        return await plane.get("/api/v1/endpoints")

    await until(serves)
    plane.web, plane.words = Proxy((FOUND, CHOSEN)), Proxy((ALLOWED,))
    async with (
        connected(plane, until, nursery, "web", plane.web),
        connected(plane, until, nursery, "words-v1", plane.words, inbound=(WORDS,)),
    ):
        yield plane


async def explained(plane, **ask):
    """The answer: a Trace, or the status and the error."""
    async with plane.client() as client:
        answer = await client.post("/api/v1/explain", json=ask)
    if answer.status_code == 200:
        return msgspec.json.decode(answer.content, type=Trace)
    return answer.status_code, answer.json()["error"]


async def test_both_ends_are_asked(mesh):
    """The caller's proxy about what its application asks, the other one about what would reach it."""
    trace = await explained(mesh, **{"from": "web"}, to="words", path="/a", headers=[["x", "1"]])
    [asked] = mesh.web.questions
    assert asked == Question("outbound", "words", path="/a", headers=(("x", "1"),))
    assert mesh.words.questions == [ONWARD]
    assert trace.verdict == "allowed"
    assert [(step.stage, step.where) for step in trace.steps] == [
        ("name", "web.demo"),
        ("endpoint", "web.demo"),
        ("policy", "words-v1.demo"),
    ]
    assert all(step.onward is None for step in trace.steps)
    mesh.words.steps = [(DENIED,)]
    assert (await explained(mesh, **{"from": "web.demo"}, to="words")).verdict == "denied"


async def test_a_proxy_proves_its_own_account_alone(mesh):
    """What it says of others is not believed; whoever asks may ask as anybody."""
    king = "king.palace.serviceaccount.identity.cluster.local"
    mesh.web.steps = [(replace(CHOSEN, onward=replace(ONWARD, identity=king)),)]
    await explained(mesh, **{"from": "web"}, to="words")
    assert mesh.words.questions[-1].identity == WEB
    mesh.web.steps = [(replace(CHOSEN, onward=replace(ONWARD, identity="")),)]
    await explained(mesh, **{"from": "web"}, to="words")
    assert mesh.words.questions[-1].identity == ""
    await explained(mesh, **{"from": "web"}, to="words", identity=king)
    assert mesh.words.questions[-1].identity == king


async def test_workloads_that_would_treat_it_otherwise_are_told(mesh, until, nursery):
    """Policy may be for one of those behind a service alone; the likeliest decides the verdict."""
    other = "127.0.0.1:7002"
    mesh.put_endpoint("words-2", "words", other, workload="words-v2")

    async def known():
        return len(await mesh.get("/api/v1/endpoints")) == 2

    await until(known)
    mesh.web.steps = [(FOUND, replace(CHOSEN, outcome="candidate"), Step("endpoint", "candidate", address=other))]
    v2 = Proxy((DENIED,))
    async with connected(mesh, until, nursery, "words-v2", v2, inbound=(other,)):
        trace = await explained(mesh, **{"from": "web"}, to="words")
        assert trace.verdict == "allowed"
        [differs] = [step for step in trace.steps if step.outcome == "differs"]
        assert (differs.where, differs.by) == ("words-v2.demo", "demo/p")
        assert f"at {other} it would be denied" in differs.detail
        v2.steps = [(ALLOWED,)]
        trace = await explained(mesh, **{"from": "web"}, to="words")
        assert "differs" not in [step.outcome for step in trace.steps]


async def test_what_ends_at_the_caller_is_asked_nobody_else(mesh):
    """A refusal, or a destination without a proxy."""
    for step in (Step("route", "no_route", verdict="refused"), Step("end", "sent")):
        mesh.web.steps = [(FOUND, step)]
        trace = await explained(mesh, **{"from": "web"}, to="words")
        assert trace.verdict == (step.verdict or "allowed")
    assert mesh.words.questions == []


async def test_a_name_that_nobody_had_called_is_asked_again(mesh):
    """Until the caller's proxy has been told what it is."""
    asked = Step("name", "asked", verdict="refused")
    mesh.web.steps = [(asked,), (asked,), (FOUND, CHOSEN)]
    assert (await explained(mesh, **{"from": "web"}, to="words")).verdict == "allowed"
    assert len(mesh.web.questions) == 3


async def test_without_a_caller_the_application_alone_is_asked(mesh):
    """As whom one asks is up to who asks."""
    trace = await explained(mesh, to="words.demo:80", method="POST", identity=WEB, source="10.1.2.3")
    assert mesh.words.questions == [Question("inbound", "words.demo:80", "POST", identity=WEB, source="10.1.2.3")]
    assert (trace.verdict, len(trace.steps)) == ("allowed", 1)
    await explained(mesh, to="words")  # there is one service of that name
    assert len(mesh.words.questions) == 2


async def test_nobody_can_tell(mesh, until, nursery):
    """No such workload, or no proxy of it."""
    assert await explained(mesh, **{"from": "nobody"}, to="words") == (404, "there is no workload nobody")
    assert await explained(mesh, to="nothing") == (404, "there is no service nothing")
    mesh.put_endpoint("lone-1", "lone", "127.0.0.1:7002")

    async def known():
        return len(await mesh.get("/api/v1/endpoints")) == 2

    await until(known)
    assert (await explained(mesh, **{"from": "lone"}, to="words"))[0] == 409
    assert (await explained(mesh, to="lone.demo"))[0] == 409
    mesh.web.steps = [(FOUND, replace(CHOSEN, address="127.0.0.1:7002"))]
    trace = await explained(mesh, **{"from": "web"}, to="lone")
    assert (trace.verdict, trace.steps[-1].outcome) == ("unknown", "unknown")


async def test_a_proxy_that_does_not_answer(mesh):
    """At the caller's there is nothing to tell; beyond, what is known so far is told."""
    mesh.words.steps = [None]
    trace = await explained(mesh, **{"from": "web"}, to="words")
    assert (trace.verdict, trace.steps[0].outcome) == ("unknown", "found")
    mesh.web.steps = [None]
    code, error = await explained(mesh, **{"from": "web"}, to="words")
    assert (code, error) == (503, "the proxy of web.demo has not answered within 2 s")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("to", ""),
        ("to", "http://votes/"),
        ("protocol", "quic"),
        ("method", "G ET"),
        ("path", "votes"),
        ("path", "/a b"),
        ("headers", [["a b", "c"]]),
        ("headers", [["a", "c\r\nd: e"]]),
        ("headers", [["a", "b"]] * 101),
        ("identity", "web"),
        ("source", "somewhere"),
        ("wishes", 3),
    ],
)
async def test_what_is_no_request(plane, field, value):
    """400, which names the field."""
    async with plane.client() as client:
        answer = await client.post("/api/v1/explain", json={"to": "words", field: value})
    assert answer.status_code == 400
    assert field in (answer.json().get("field", ""), *answer.json()["error"].replace("`", " ").split())


async def test_a_request_that_was_tapped(mesh, until):
    """It is asked about as it would be treated now, without its query, beside what became of it."""
    end = replace(REQ, event="end", status=403, error="denied", policy="demo/old", dst=WORDS)
    mesh.web.tapped = (REQ, end)
    async with mesh.websocket("/api/v1/tap/watch?workload=web") as tap:
        await tap.get_message()
        await tap.get_message()
        async with mesh.client() as client:
            answer = await client.get("/api/v1/explain?tap=web.demo/3:1")
            trace = msgspec.json.decode(answer.content, type=Trace)
            assert [
                (await client.get(f"/api/v1/explain{q}")).status_code for q in ("", "?tap=web", "?tap=web/9:9")
            ] == [*(400, 400, 404)]
    assert mesh.web.questions == [Question("outbound", "words", path="/a")]
    assert trace.verdict == "allowed"
    assert trace.happened is not None
    assert (trace.happened.status, trace.happened.policy, trace.happened.endpoint) == (403, "demo/old", WORDS)
    assert trace.steps[0].outcome == "tapped"


async def test_a_request_that_was_tapped_beside_the_application(mesh):
    """Only that proxy is asked, about the caller that it saw."""
    mesh.words.tapped = (replace(REQ, proxy="in", workload="words-v1", src="10.9.9.9:77", src_workload=WEB),)
    async with mesh.websocket("/api/v1/tap/watch?workload=words-v1") as tap:
        await tap.get_message()
        async with mesh.client() as client:
            answer = await client.get("/api/v1/explain?tap=words-v1/3:1")
    assert answer.status_code == 200
    assert mesh.words.questions == [Question("inbound", "words", path="/a", identity=WEB, source="10.9.9.9")]
    assert mesh.web.questions == []
