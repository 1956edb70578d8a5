"""What would become of a request, asked of the proxies that would handle it: the caller's, then the one beside whom it
would reach.

The control plane decides nothing here: each step is a proxy's own word. It knows whom to ask, whose identity the caller
would prove, and, of a request that was tapped, what really happened to it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

import msgspec
import trio
from msgspec.structs import replace

from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.link import Link
from mesh.control.plan import resolve
from mesh.control.push import Push
from mesh.control.questions import DEADLINE, NoAnswer, Questions
from mesh.control.recent import Recent, Tapped
from mesh.control.routes import Answer, Query, Refusal, Request, Route, answer, text
from mesh.control.tokens import Role
from mesh.model import identity
from mesh.model.api import Problem
from mesh.model.explain import Ask, Question, Step, Trace, deciding, verdict
from mesh.model.resources import Endpoint

PATH = "/api/v1/explain"
TAP = Query("tap", "A request that was tapped: `WORKLOAD/ID`, the id as tap shows it.")
AGAIN_SECONDS = 0.05
"""Between two questions to a proxy that is being told of a service that nobody had called."""
PROTOCOLS = ("http", "grpc", "tcp")
MAX_TEXT = 8_192
"""Characters of a path or of a header's value."""
MAX_HEADERS = 100
MOST_OTHERS = 4
"""Workloads, beside the one that likeliest gets a request, that are asked whether they would treat it alike."""
DEFAULT_NAMESPACE = "default"
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
"""RFC 9110 section 5.6.2: a method, or the name of a field."""
UNTOLD = Step(
    "name", "tapped", "what the tap has shown is asked about: header fields are not part of that, nor is the query"
)


class ExplainApi:
    """Handlers; each asks at most a few proxies, for DEADLINE seconds altogether at the caller's and again beyond."""

    def __init__(self, cluster: Cluster, push: Push, recent: Recent) -> None:
        self._cluster, self._push, self._recent = cluster, push, recent
        self._questions = Questions()
        push.explained = self._questions.take

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        return [
            Route(
                "POST",
                PATH,
                "What would become of a request, step by step; nothing is sent.",
                Trace,
                handler=self.post,
                takes="application/json",
                hears=Ask,
                role=Role.VIEW,
                problems=(404, 409, 503),
            ),
            Route(
                "GET",
                PATH,
                "The same of a request that was tapped, and what did become of it.",
                Trace,
                handler=self.get,
                query=(TAP,),
                role=Role.TAP,
                problems=(404, 409, 503),
            ),
        ]

    async def post(self, request: Request) -> Answer:
        try:
            ask = msgspec.json.decode(request.body, type=Ask)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise Refusal(400, Problem(str(exc))) from exc
        check(ask)
        return answer(await self.trace(ask))

    async def get(self, request: Request) -> Answer:
        workload, slash, id_ = text(request, TAP).rpartition("/")
        if not slash or not workload or not id_:
            raise Refusal(400, Problem("is not WORKLOAD/ID", field=TAP.name))
        found = self._recent.find(workload, id_)
        if not found:
            raise Refusal(404, Problem(f"no tap has shown a request {id_} of {workload} lately"))
        if len(found) > 1:
            raise Refusal(409, Problem(f"{workload} is in several namespaces: name it as {workload}.NAMESPACE"))
        return answer(await self.again(found[0]))

    async def trace(self, ask: Ask) -> Trace:
        """All steps of a request; raises Refusal where nobody can be asked."""
        question = Question(
            "outbound", ask.to, ask.method, ask.path, ask.headers, ask.protocol, ask.identity, ask.source
        )
        if ask.caller:
            return await self._from(self._link(ask.caller), question)
        question = replace(question, direction="inbound")
        try:
            return traced(await self._questions.ask(self._beside(ask.to), question), question)
        except NoAnswer as exc:
            raise Refusal(503, Problem(str(exc))) from exc

    async def again(self, tapped: Tapped) -> Trace:
        """The same of a request that was tapped, with what became of it."""
        head = tapped.head
        path = head.path.partition("?")[0]
        inbound = head.proxy == "in"
        source = head.src.rpartition(":")[0].strip("[]") if inbound else ""
        protocol = "grpc" if tapped.last.grpc_status >= 0 else "http"
        question = Question("outbound", head.authority, head.method, path, (), protocol, "", source)
        name = f"{tapped.workload.name}.{tapped.workload.namespace}"
        link = self._link(name)
        if inbound:
            question = replace(question, direction="inbound", identity=head.src_workload)
            try:
                trace = traced(await self._questions.ask(link, question), question)
            except NoAnswer as exc:
                raise Refusal(503, Problem(str(exc))) from exc
        else:
            trace = await self._from(link, question)
        return replace(trace, steps=(replace(UNTOLD, where=name), *trace.steps), happened=tapped.happened())

    # --- who is asked

    def _link(self, name: str) -> Link:
        """The connected proxy of a workload (`name` or `name.namespace`); of several, any: the first by its name."""
        links = [link for _, link in sorted(self._push.links.items()) if name in spellings(link.workload)]
        if len({link.workload for link in links}) > 1:
            raise Refusal(409, Problem(f"{name} is in several namespaces: name it as {name}.NAMESPACE", field="from"))
        if links:
            return links[0]
        if any(name in spellings(key) for key in self._cluster.workloads()):
            raise Refusal(409, Problem(f"no proxy of {name} is connected: nobody can tell", field="from"))
        raise Refusal(404, Problem(f"there is no workload {name}", field="from"))

    def _beside(self, authority: str) -> Link:
        """A connected proxy beside the service that an authority names, for somebody outside of all namespaces."""
        host = authority.rpartition(":")[0] or authority
        home = resolve(host, DEFAULT_NAMESPACE)
        named = [home] if home is not None and self._cluster.members(home) is not None else []
        keys = named or [key for key in self._cluster.services() if key.name == host.lower()]
        if not keys:
            raise Refusal(404, Problem(f"there is no service {host[:MAX_TEXT]}", field="to"))
        if len(keys) > 1:
            raise Refusal(409, Problem(f"{host} is in several namespaces: name it as {host}.NAMESPACE", field="to"))
        for _, link in sorted(self._push.links.items()):
            if self._cluster.serves(keys[0], link.workload.namespace, link.workload.name):
                return link
        raise Refusal(409, Problem(f"no proxy beside {host} is connected: nobody can tell", field="to"))

    def _at(self, address: str) -> Link | None:
        """The connected proxy that an endpoint's address leads to: best the one that listens there, else another of
        the same workload."""
        known = self._cluster.held(Endpoint.kind)
        owners = {
            ServiceKey(held.resource.metadata.namespace, held.resource.spec.workload)
            for held in known
            if isinstance(held.resource, Endpoint) and held.resource.spec.address == address
        }
        links = [link for _, link in sorted(self._push.links.items()) if link.workload in owners]
        return next((link for link in links if address in link.hello.inbound), links[0] if links else None)

    # --- the way of a request

    async def _from(self, link: Link, question: Question) -> Trace:
        try:
            steps = await self._asked(link, question)
        except NoAnswer as exc:
            raise Refusal(503, Problem(str(exc))) from exc
        onward = next((step for step in steps if step.onward is not None), None)
        if onward is None or onward.onward is None or verdict(steps) != "allowed":
            return traced(steps, question)
        further = replace(
            onward.onward,
            direction="inbound",
            identity=question.identity or proved(link, onward.onward.identity),
            source=question.source,
        )
        there = self._at(onward.address)
        beyond = await self._beyond(there, further, onward.address)
        others = await self._others(steps, there, further, verdict(beyond))
        return traced((*steps, *others, *beyond), question)

    async def _others(self, steps: tuple[Step, ...], first: Link | None, question: Question, said: str) -> list[Step]:
        """A step for each workload that may get the request instead, and would treat it in another way: policy may be
        for one of those behind a service alone."""
        asked = {first.workload} if first is not None else set()
        told = []
        for address in [step.address for step in steps if step.address]:
            link = self._at(address)
            if link is None or link.workload in asked or len(asked) > MOST_OTHERS:
                continue
            asked.add(link.workload)
            answer = await self._beyond(link, question, address)
            if verdict(answer) != said:
                step = answer[deciding(answer)]
                detail = f"at {address} it would be {verdict(answer)}: {step.detail}"
                told.append(Step("endpoint", "differs", detail, step.by, step.where))
        return told

    async def _asked(self, link: Link, question: Question) -> tuple[Step, ...]:
        """The caller's steps. A proxy that has to be told first what a service is, is asked until it knows."""
        deadline = trio.current_time() + DEADLINE
        while True:
            left = deadline - trio.current_time()
            steps = await self._questions.ask(link, question, left)
            waits = any(step.stage == "name" and step.outcome == "asked" for step in steps)
            if not waits or trio.current_time() + AGAIN_SECONDS >= deadline:
                return steps
            await trio.sleep(AGAIN_SECONDS)

    async def _beyond(self, link: Link | None, question: Question, address: str) -> tuple[Step, ...]:
        if link is None:
            detail = f"the proxy at {address} is not connected: what it would say is not known"
            return (Step("end", "unknown", detail, verdict="unknown"),)
        try:
            return await self._questions.ask(link, question)
        except NoAnswer as exc:
            return (Step("end", "unknown", str(exc), verdict="unknown"),)


def traced(steps: tuple[Step, ...], question: Question) -> Trace:
    """What people are told: without what proxies say to us alone."""
    shown = tuple(replace(step, onward=None) if step.onward is not None else step for step in steps)
    return Trace(verdict(shown), shown, question)


def proved(link: Link, shown: str) -> str:
    """Whom a proxy proves to be where it shows a certificate: its own account, whatever it says."""
    who = identity.parse(shown)
    if who is None:
        return ""
    return str(identity.Identity(link.account, link.workload.namespace, who.trust_domain))


def spellings(key: ServiceKey) -> tuple[str, str]:
    """How a workload may be named."""
    return key.name, f"{key.name}.{key.namespace}"


def check(ask: Ask) -> None:
    """Raises Refusal where the request is none that could be made."""
    for field, problem in problems(ask):
        raise Refusal(400, Problem(problem, field=field))


def problems(ask: Ask) -> Iterator[tuple[str, str]]:
    """What is wrong with it: a field and a sentence."""
    if not ask.to or len(ask.to) > 1024 or not ask.to.isprintable() or set(ask.to) & set("/?#@ "):
        yield "to", "is no authority, such as votes, votes.demo or example.com:443"
    if ask.protocol not in PROTOCOLS:
        yield "protocol", f"is none of {', '.join(PROTOCOLS)}"
    if not TOKEN.fullmatch(ask.method):
        yield "method", "is no method"
    if not ask.path.startswith("/") and ask.path != "*":
        yield "path", "must begin with /"
    if len(ask.path) > MAX_TEXT or not sayable([ask.path]) or " " in ask.path:
        yield "path", f"must be of at most {MAX_TEXT} characters, without blanks and control characters"
    if len(ask.headers) > MAX_HEADERS or not all(TOKEN.fullmatch(name) for name, _ in ask.headers):
        yield "headers", f"must be at most {MAX_HEADERS}, each with a name"
    if not sayable(value for _, value in ask.headers):
        yield "headers", f"have values of at most {MAX_TEXT} characters, without control characters"
    if len(ask.identity) > 1024 or (ask.identity and identity.parse(ask.identity) is None):
        yield "identity", "is none, such as web.demo.serviceaccount.identity.cluster.local"
    if ask.source and not is_address(ask.source):
        yield "source", "is no IP address"
    if len(ask.caller) > 1024:
        yield "from", "is too long"


def is_address(text: str) -> bool:
    """Whether it is an IP address, without port."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def sayable(words: Iterable[str]) -> bool:
    """Whether all of them can stand in a head."""
    return all(len(word) <= MAX_TEXT and all(c == "\t" or (c >= " " and c != "\x7f") for c in word) for word in words)
