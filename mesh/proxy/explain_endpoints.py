"""Which endpoint would get a request, and how it would be spoken to: the last steps of `explain`. See there.

Where a key or a single candidate decides, the endpoint is named; a draw is not made, but its candidates are shown.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.model.explain import Question, Step
from mesh.model.traffic import BalancingKind
from mesh.proxy.balance_hash import hash_key
from mesh.proxy.cluster import Cluster
from mesh.proxy.endpoint import Endpoint
from mesh.wire.head import Head

MOST_SHOWN = 20
"""Endpoints that are told one by one."""
DRAWN = {
    BalancingKind.EWMA: "the less loaded of two drawn by weight (requests in hand times latency)",
    BalancingKind.LEAST_REQUEST: "of two drawn by weight, the one with fewer requests in hand",
    BalancingKind.ROUND_ROBIN: "each in turn",
    BalancingKind.HASH: "the less loaded of two drawn by weight: the request has nothing that the policy hashes",
}


class Choice(NamedTuple):
    """`endpoint` is the one that gets it, or likeliest does; `certain` if nothing is left to chance."""

    endpoint: Endpoint | None
    candidates: list[Endpoint]
    certain: bool
    how: str


def choice(cluster: Cluster, head: Head | None, source: str, now: float) -> Choice:
    """As `Cluster.assign` would choose now; no head: for a connection that is not HTTP. The balancer is renewed where
    that is due, as by any request; nothing else changes."""
    if head is None or now >= cluster.next_up:
        cluster.refresh(now)
    if cluster.probes:
        return Choice(cluster.probes[-1], [cluster.probes[-1]], True, "its probation is over: one request tries it")
    balancer, balancing = cluster.balancer, cluster.spec.traffic.balancing
    candidates = list(balancer.endpoints)
    if not candidates:
        return Choice(None, [], True, "")
    if len(candidates) == 1:
        return Choice(candidates[0], candidates, True, "there is no other to choose")
    if head is not None and balancing.hash is not None and balancing.kind is BalancingKind.HASH:
        key = hash_key(head, balancing.hash, source)
        if key >= 0:
            return Choice(balancer.choose((), now, key), candidates, True, "the request's key belongs to it")
    likeliest = min(candidates, key=lambda one: (one.load.ewma * (one.load.pending + 1) / one.load.weight, one.address))
    return Choice(likeliest, candidates, False, DRAWN[balancing.kind])


def endpoint_steps(cluster: Cluster, chosen: Choice, now: float) -> list[Step]:
    """A step for each endpoint, what gets requests first; the verdict is in it where there is none to choose."""
    if chosen.endpoint is None:
        pending = cluster.shared.limits.pending_timeout
        what = cluster.conditions(now) if cluster.endpoints else "it has none"
        detail = f"no endpoint of {cluster.name} takes requests ({what}): it waits for one, {pending:.3g} s at most"
        return [Step("endpoint", "no_endpoints", detail, verdict="refused")]
    rest = [one for one in cluster.endpoints if one is not chosen.endpoint]
    rest.sort(key=lambda one: one not in chosen.candidates)
    steps = []
    for endpoint in [chosen.endpoint, *rest][:MOST_SHOWN]:
        if endpoint is chosen.endpoint and chosen.certain:
            steps.append(Step("endpoint", "chosen", f"{told(endpoint, now)}: {chosen.how}", address=endpoint.address))
        elif endpoint in chosen.candidates:
            steps.append(Step("endpoint", "candidate", told(endpoint, now), address=endpoint.address))
        else:
            steps.append(Step("endpoint", "passed_over", told(endpoint, now)))
    if len(rest) >= MOST_SHOWN:
        steps.append(Step("endpoint", "more", f"and {len(rest) + 1 - MOST_SHOWN} more endpoints"))
    if not chosen.certain:
        count = len(chosen.candidates)
        steps.append(Step("endpoint", "drawn", f"one of {count} is drawn for each request: {chosen.how}"))
    return steps


def told(endpoint: Endpoint, now: float) -> str:
    """One endpoint in words: who it is, how it fares, its weight and its load."""
    load, spec = endpoint.load, endpoint.spec
    who = f"{endpoint.address} ({spec.workload})" if spec.workload else endpoint.address
    facts = [endpoint.condition(now)]
    if load.weight != 1:
        facts.append(f"weight {load.weight}" if load.weight else "weight 0, takes nothing new")
    if endpoint.zone:
        facts.append(f"zone {endpoint.zone}")
    facts.append(f"{load.pending} in hand, {load.ewma * 1000:.3g} ms")
    if endpoint.queue:
        facts.append(f"{len(endpoint.queue)} wait for a connection")
    return f"{who} {', '.join(facts)}"


def tls_step(endpoint: Endpoint) -> Step:
    """How a connection to it is secured, as `dial.secure` decides it."""
    cluster, identity = endpoint.cluster, endpoint.spec.identity
    credentials = cluster.shared.credentials
    if cluster.tls is not None:
        proof = f": it must prove to be {identity}" if identity else ""
        return Step("tls", "tls", f"TLS to {endpoint.address}, by the service's own files{proof}")
    if credentials is None or not identity:
        why = "it has no identity" if credentials is not None else "this proxy has no identity"
        return Step("tls", "plain", f"plain text to {endpoint.address}: {why}")
    problem = credentials.problem_with(identity)
    if problem:
        return Step("tls", "tls_failed", f"no connection to {endpoint.address} is made: {problem}", verdict="refused")
    waits = ", as soon as we have our first certificate" if endpoint.uncertified else ""
    detail = f"mutual TLS to {endpoint.address}{waits}: it must prove to be {identity}, we are {credentials.name}"
    return Step("tls", "mutual", detail)


def onward(question: Question, sent: Head, identity: str) -> Question:
    """What the proxy beside the endpoint is asked: the request as it would be sent."""
    return Question(
        "inbound",
        sent.authority.decode("latin-1"),
        sent.method.decode("latin-1"),
        sent.path.decode("latin-1"),
        tuple((k.decode("latin-1"), v.decode("latin-1")) for k, v in sent.block if k[:1] != b":"),
        question.protocol,
        identity,
        question.source,
    )
