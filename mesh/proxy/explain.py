"""What would become of a request? The steps that `downstream`, `access`, `begin` and `cluster` would take with it now.

Rules:
- It asks the objects that decide, in the order in which they are asked about a request that came: routes, judges,
  limits, balancers. It decides nothing itself.
- Nothing is sent, counted, drawn or taken: no token, no turn, no fault. A name that nobody here has called yet is asked
  of the control plane, as the first request would; until the answer has come, the step says `asked`.
- What is left to chance (a share of requests, a draw by load) is told as such, and the likeliest is followed.
"""

from __future__ import annotations

import math

from msgspec.structs import replace

from mesh.model.authorization import Strictness
from mesh.model.errors import ConduitError
from mesh.model.explain import Question, Step
from mesh.model.traffic import Injection, LimitBy, RateLimit
from mesh.proxy import edit
from mesh.proxy.authorize import Compiled as Access
from mesh.proxy.authorize import Decision, ambiguous
from mesh.proxy.cluster import Cluster
from mesh.proxy.directory import Directory, Loop, NotAnAuthority
from mesh.proxy.explain_endpoints import choice, endpoint_steps, onward, tls_step
from mesh.proxy.outgoing import GRPC_TIMEOUT, TIMEOUT
from mesh.proxy.retry import Retrying, grpc_timeout, timeout_ms
from mesh.proxy.route import Compiled
from mesh.wire.head import Head

SOURCE = "127.0.0.1"
"""Where requests of the application beside a proxy come from."""


class Explainer:
    """Answers questions about one proxy."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def explain(self, question: Question) -> tuple[Step, ...]:
        """The steps, in order; the last one that has a verdict ends it."""
        walk = _Walk(self._directory, question)
        if question.direction == "inbound":
            walk.inbound()
        else:
            walk.outbound()
        return tuple(walk.steps)


class _Walk:
    """One question on its way. Methods that return a bool say whether it goes on."""

    def __init__(self, directory: Directory, question: Question) -> None:
        self.steps: list[Step] = []
        self._directory = directory
        self._question = question
        self._now = directory.shared.reactor.clock()
        self._grpc = question.protocol == "grpc"
        self._head = None if question.protocol == "tcp" or question.method == "CONNECT" else head_of(question)
        self._source = question.source or SOURCE

    def _say(self, stage: str, outcome: str, detail: str, *, by: str = "", verdict: str = "") -> bool:
        self.steps.append(Step(stage, outcome, detail, by, verdict=verdict))
        return not verdict

    # --- at the caller's -----------------------------------------------------------------------------------------

    def outbound(self) -> None:
        """From the application to an endpoint."""
        cluster = self._named()
        if cluster is None:
            return
        if self._head is None:
            self._arrive(cluster, None)
            return
        sent = self._governed(cluster, self._head)
        if sent is not None:
            self._arrive(*sent)

    def _named(self) -> Cluster | None:
        """What the authority names; None where that ends it."""
        authority = self._question.authority
        try:
            found = self._directory.find(authority, 80)
        except NotAnAuthority as exc:
            self._say("name", "unknown_authority", str(exc), verdict="refused")
            return None
        except Loop as exc:
            self._say("name", "loop", str(exc), verdict="refused")
            return None
        cluster = found.cluster
        if cluster is None and (found.told is not None or found.asks):
            cluster = self._directory.resolve(authority.encode("latin-1", "replace"), b"http")
        if cluster is not None:
            return cluster if self._said(cluster) else None
        self._say("name", "outside", f"{found.name} is no service of the mesh: {found.address} is called as it is")
        decision = self._directory.exit_to(found.address)
        if decision is not None and not self._decided("egress", decision):
            return None
        outside = self._directory.outside.get(found.address)
        if outside is None:
            detail = f"{found.address}, which nobody here has called yet, in plain text as the application speaks"
            self.steps.append(Step("endpoint", "chosen", detail, address=found.address))
            self._say("end", "sent", f"it goes to {found.address}, outside of the mesh")
        return outside

    def _said(self, cluster: Cluster) -> bool:
        """Whether it is known what the service is."""
        if not cluster.configured:
            detail = f"the control plane has been asked what {cluster.name} is and has not said yet"
            return self._say("name", "asked", detail, verdict="refused")
        spec = cluster.spec
        home = f", in {spec.namespace}" if spec.namespace else ""
        return self._say("name", "found", f"{spec.name} is a service of the mesh{home}")

    def _arrive(self, cluster: Cluster, sent: Head | None) -> None:
        """Endpoint and TLS; `sent` is the head as the route has edited it, None for what is not HTTP."""
        chosen = choice(cluster, sent, self._source, self._now)
        steps = endpoint_steps(cluster, chosen, self._now)
        endpoint = chosen.endpoint
        if endpoint is None:
            self.steps += steps
            return
        tls, credentials = tls_step(endpoint), cluster.shared.credentials
        if endpoint.meshed:
            head = sent if sent is not None else head_of(self._question)
            proved = credentials.name if credentials is not None and tls.outcome == "mutual" else ""
            steps[0] = replace(steps[0], onward=onward(self._question, head, proved))
        self.steps += [*steps, tls]
        if tls.verdict:
            return
        where = "the proxy beside it" if endpoint.meshed else "the application itself, which has no proxy"
        self._say("end", "sent", f"it goes to {endpoint.address}: {where}")

    # --- what a service's policies do, in the order of begin.py --------------------------------------------------

    def _governed(self, cluster: Cluster, head: Head) -> tuple[Cluster, Head] | None:
        """Where it goes, and the head that is sent; None where it ends here."""
        plan = cluster.plan
        compiled = plan.routes.find(head) if plan.routes is not None else None
        if compiled is not None and cluster.outbound:
            self._say("route", "matched", f"{cluster.name} has routes, and the first that matches is {compiled.name}")
        if not self._admitted(cluster, compiled, head):
            return None
        timeout, retrying, per_try = cluster.request_timeout, plan.retrying, plan.try_timeout
        if plan.routed:
            if compiled is None:
                self._say("route", "no_route", f"no route of {cluster.name} matches: 404", verdict="refused")
                return None
            timeout = compiled.route.timeout or timeout
            retrying = plan.by_route[compiled]
            per_try = compiled.route.try_timeout or per_try
        if not self._in_time(head, timeout, per_try):
            return None
        if retrying is not None:
            self._retried(retrying, head)
        if plan.faults is not None:
            for injection in plan.faults.meaning(head, cluster.shared.wall()):
                if not self._struck(injection):
                    return None
        if plan.routed and compiled is not None:
            return self._led(cluster, compiled, head)
        return cluster, head

    def _admitted(self, cluster: Cluster, compiled: Compiled | None, head: Head) -> bool:
        plan = cluster.plan
        if plan.rates is not None:
            client = self._question.identity or self._source
            route = compiled.name if compiled is not None else ""
            for limit, wait in plan.rates.waits(head, route, client, self._now):
                rate = limit_in_words(limit)
                if wait > 0.0:
                    detail = f"over {rate}: there is room again in {wait:.3g} s; 429"
                    return self._say("limit", "rate_limited", detail, verdict="refused")
                self._say("limit", "within", f"within {rate}")
        gate = plan.gate
        if gate is not None:
            detail = f"{gate.in_hand} requests are in hand, and the limit is {int(gate.limit)}"
            if gate.in_hand >= gate.limit:
                return self._say("limit", "over_concurrency", f"{detail}; 503", verdict="refused")
            self._say("limit", "within", detail)
        return True

    def _in_time(self, head: Head, timeout: float, per_try: float) -> bool:
        told = [timeout_ms(head.get(TIMEOUT))]
        if self._grpc:
            told.append(grpc_timeout(head.get(GRPC_TIMEOUT)))
        asked = min((seconds for seconds in told if seconds is not None), default=math.inf)
        if asked <= 0.0:
            return self._say("timeout", "timeout", "the time that the caller allows is up already", verdict="refused")
        least = min(asked, timeout or math.inf)
        parts = []
        if least != math.inf:
            parts.append(f"{least:.3g} s in all" + (", as the caller asks" if asked < (timeout or math.inf) else ""))
        if per_try:
            parts.append(f"{per_try:.3g} s for each try")
        return self._say("timeout", "bounded", ", ".join(parts)) if parts else True

    def _retried(self, retrying: Retrying, head: Head) -> None:
        if retrying.repeats(head.method, self._grpc):
            times = f"up to {retrying.attempts} more" if retrying.attempts else "no more"
            hedged = ", one of them early (a hedge)" if retrying.hedge is not None else ""
            self._say("retry", "repeatable", f"{times} tries{hedged}, within the service's budget")
        else:
            method = head.method.decode("latin-1")
            self._say("retry", "once", f"the policy does not repeat {'this call' if self._grpc else method}")

    def _struck(self, injection: Injection) -> bool:
        abort, delay = injection.abort, injection.delay
        what = [f"held for {delay:.3g} s"] if delay else []
        if abort is not None:
            what.append(f"answered {abort.status}" if not self._grpc else f"answered with gRPC status {abort.grpc}")
        name = injection.name or "a fault"
        detail = f"{name}: {injection.percent:g} % of such requests are {' and '.join(what) or 'left as they are'}"
        certain = injection.percent >= 100 and abort is not None
        outcome = "fault" if certain else "may_strike" if injection.percent < 100 else "delayed"
        return self._say("fault", outcome, detail, by=injection.name, verdict="refused" if certain else "")

    def _led(self, cluster: Cluster, compiled: Compiled, head: Head) -> tuple[Cluster, Head] | None:
        route = compiled.route
        if route.redirect is not None:
            answer = edit.redirect(compiled, head)
            place = (answer.get(b"location") or b"").decode("latin-1")
            self._say("end", "redirected", f"{compiled.name} answers {answer.status}, to {place}", by=compiled.name)
            return None
        total = sum(backend.weight for backend in route.backends)
        if not total:
            detail = f"route {compiled.name} has no backend that takes requests: 500"
            self._say("backend", "bad_backend", detail, by=compiled.name, verdict="refused")
            return None
        shares = sorted(route.backends, key=lambda backend: -backend.weight)
        for backend in shares[1:] if len(shares) > 1 else ():
            name = backend.service or cluster.name
            if backend.weight:
                share = f"{name} gets {100 * backend.weight / total:.3g} % of the requests"
                self._say("backend", "other", f"{share}, {backend.problem}: 500" if backend.problem else share)
        first = shares[0]
        name = first.service or cluster.name
        share = f"{name} gets {100 * first.weight / total:.3g} % of the requests of {compiled.name}"
        if first.problem:
            self._say("backend", "bad_backend", f"{share}: {first.problem}: 500", by=compiled.name, verdict="refused")
            return None
        target = cluster
        if first.service and first.service != cluster.name:
            try:
                target = self._directory.named(first.service)
            except ConduitError as exc:
                self._say("backend", "bad_backend", f"{share}: {exc}: 500", by=compiled.name, verdict="refused")
                return None
        self._say("backend", "chosen" if first.weight == total else "likeliest", share, by=compiled.name)
        for mirror in route.mirrors:
            self._say("backend", "mirrored", f"{mirror.service} gets a copy of {mirror.percent:g} % of the requests")
        if target is not cluster and not self._said(target):
            return None
        sent = edit.request_head(compiled, head)
        if (sent.authority, sent.path) != (head.authority, head.path):
            became = (sent.authority + sent.path).decode("latin-1")
            self._say("route", "rewritten", f"{compiled.name} makes it {became}", by=compiled.name)
        return target, sent

    # --- beside the application ----------------------------------------------------------------------------------

    def inbound(self) -> None:
        """From another proxy, or whoever calls without one, to the application."""
        cluster = self._listening()
        if cluster is None:
            self._say("name", "not_served", "this proxy has no inbound listener", verdict="refused")
            return
        if not self._accepted(cluster) or not self._judged(cluster):
            return
        if self._head is not None and self._governed(cluster, self._head) is None:
            return
        chosen = choice(cluster, self._head, self._source, self._now)
        if chosen.endpoint is None:
            self.steps += endpoint_steps(cluster, chosen, self._now)
            return
        self._say("end", "served", f"the application at {chosen.endpoint.address} gets it")

    def _listening(self) -> Cluster | None:
        """The inbound listener that is meant: the one whose service the authority names, else the first."""
        found = [cluster for clusters in self._directory.inbound.values() for cluster in clusters]
        name = self._question.authority.partition(":")[0].partition(".")[0].lower()
        return next((cluster for cluster in found if cluster.name == name), found[0] if found else None)

    def _accepted(self, cluster: Cluster) -> bool:
        """Whether the connection is taken, as `connection.py` does it for a listener without TLS files of its own."""
        identity, credentials = self._question.identity, cluster.shared.credentials
        if identity:
            stranger = credentials.is_peer((identity,)) if credentials is not None else ""
            if stranger:
                return self._say("tls", stranger, f"{identity} is not of this mesh: no connection", verdict="denied")
            return self._say("tls", "mutual", f"the connection is mutual TLS, and its client proves to be {identity}")
        authorization = cluster.spec.authorization
        if authorization is not None and authorization.strictness is Strictness.STRICT:
            return self._say("tls", "plain_text", "it is plain text, and this listener is strict", verdict="denied")
        return self._say("tls", "plain", "it is plain text, which this listener takes: the caller proves nothing")

    def _judged(self, cluster: Cluster) -> bool:
        access = cluster.access
        if access is None:
            return self._say(
                "policy", "allowed", "no policy holds here: everybody may", by="default:all-unauthenticated"
            )
        head, question = self._head, self._question
        if head is not None and access.by_path and (why := ambiguous(head.path)):
            detail = f"the path has more than one reading: {why}; 400"
            return self._say("policy", "ambiguous_path", detail, verdict="refused")
        if not self._decided("policy", decide(access, question, head)):
            return False
        if head is not None:
            judge = access.judge(question.identity, self._source)
            for one in judge.authorizers(head.method, head.path, self._grpc):
                failing = "it goes through" if one.fail_open else "it is refused"
                detail = f"{one.service} is asked and decides; without an answer in {one.timeout:.3g} s {failing}"
                self._say("authorizer", "asked", detail, by=one.name)
        return True

    def _decided(self, stage: str, decision: Decision) -> bool:
        if decision.audited:
            detail = f"{decision.audited} only audits: this is noted, and decides nothing"
            self._say(stage, "audited", detail, by=decision.audited)
        if decision.allowed:
            return self._say(stage, "allowed", decision.why, by=decision.by)
        return self._say(stage, "denied", decision.why, by=decision.by, verdict="denied")


def decide(access: Access, question: Question, head: Head | None) -> Decision:
    """As `access.py` asks, about a request, or without a head about a connection."""
    judge = access.judge(question.identity, question.source or SOURCE)
    if head is None:
        return judge.connection()
    return judge.fixed or judge.decide(head.method, head.path, question.protocol == "grpc")


def head_of(question: Question) -> Head:
    """The head that the application would send."""
    fields = [(name.lower().encode("latin-1", "replace"), value.encode()) for name, value in question.headers]
    method = question.method
    if question.protocol == "grpc":
        method = "POST"
        if not any(name == b"content-type" for name, _ in fields):
            fields.append((b"content-type", b"application/grpc"))
    return Head.request(
        method.encode("latin-1", "replace"),
        question.path.encode("latin-1", "replace"),
        authority=question.authority.encode("latin-1", "replace"),
        fields=fields,
    )


def limit_in_words(limit: RateLimit) -> str:
    """A rate limit for people."""
    whose = {LimitBy.SERVICE: "", LimitBy.ROUTE: " for each route", LimitBy.CLIENT: " for each client"}[limit.by]
    return f"the limit of {limit.per_second:g} requests a second{whose}"
