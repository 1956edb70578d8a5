"""From a head to an endpoint: what a service's policies do to a request before it is sent, in that order.

who may call (access.py, inquiry.py) -> route found -> rate limits -> concurrency limit -> no route? -> deadline ->
faults -> the route followed (redirect, backend, edits, mirrors) -> endpoint. Hot: the first lines run for every
request, the rest only where a service has any such policy.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mesh.model.errors import ConduitError
from mesh.proxy import edit
from mesh.proxy.access import judge_of, may, may_leave
from mesh.proxy.care import Care
from mesh.proxy.deadlines import NEVER
from mesh.proxy.exchange import DONE, Exchange
from mesh.proxy.hedge import Hedge
from mesh.proxy.inquiry import Inquiry, ask
from mesh.proxy.mirror import Mirror
from mesh.proxy.report import Tally
from mesh.proxy.rescue import Answer, Reason

if TYPE_CHECKING:
    from mesh.proxy.cluster import Cluster
    from mesh.proxy.plan import Plan
    from mesh.proxy.route import Compiled


def begin(exchange: Exchange, cluster: Cluster, now: float) -> None:
    """The request is for `cluster`: send it, have it wait, or answer it."""
    exchange.cluster = exchange.parent = cluster
    access = cluster.access
    if access is not None:
        if not may(exchange, cluster, access, now):
            return
        if access.authorization.authorizers:
            head, judge = exchange.head, judge_of(exchange.downstream, access)
            if not ask(exchange, judge.authorizers(head.method, head.path, exchange.is_grpc), cluster, now):
                return
    elif cluster.exit is not None and not may_leave(exchange, cluster, now):
        return
    authorized(exchange, cluster, now)


def authorized(exchange: Exchange, cluster: Cluster, now: float) -> None:
    """Who asks may: send it, have it wait, or answer it."""
    if cluster.governed:
        govern(exchange, cluster, now)
    else:
        if in_time(exchange, cluster.request_timeout, now):
            cluster.assign(exchange, now)
    if exchange.state is not DONE and (
        exchange.deadline != NEVER or exchange.queue is not None or exchange.care is not None
    ):
        exchange.arm(now)


def in_time(exchange: Exchange, timeout: float, now: float) -> bool:
    """Give it `timeout` seconds in all (0: no bound of ours). False if its time was up when it came: it has been
    answered."""
    if timeout:
        exchange.deadline = min(exchange.deadline, exchange.started_at + timeout)
    if exchange.deadline > now:
        return True
    exchange.fail(Reason.TIMEOUT, "the time that the caller allows was up already", now, "expired")
    return False


def move(exchange: Exchange, cluster: Cluster, now: float) -> None:
    """It waits in the queue of a cluster that is another one by now, or has new endpoints."""
    if exchange.queue is not None:
        exchange.queue.pop(exchange, None)
        exchange.queue = None
    if exchange.care is None and not isinstance(exchange, Hedge | Mirror | Inquiry):
        begin(exchange, cluster, now)
    else:
        exchange.cluster = cluster
        exchange.reassign(now)


def govern(exchange: Exchange, cluster: Cluster, now: float) -> None:
    """Policy first."""
    plan = cluster.plan
    care = exchange.care
    if care is None:
        care = exchange.care = Care(plan)
    else:  # authorisers were asked, and the plan may be another one since
        care.plan = plan
    head = exchange.head
    compiled: Compiled | None = plan.routes.find(head) if plan.routes is not None else None
    if compiled is not None:
        care.route = compiled
    if not admitted(exchange, cluster, plan, care, now):
        return
    if plan.retries:
        plan.budget.deposit(now)
    care.try_timeout = plan.try_timeout
    care.retrying = plan.retrying
    timeout = cluster.request_timeout
    if plan.routed:
        if compiled is None:
            exchange.fail(Reason.NO_ROUTE, "no route of this service matches the request", now)
            return
        care.try_timeout = compiled.route.try_timeout or plan.try_timeout
        care.retrying = plan.by_route[compiled]
        timeout = compiled.route.timeout or timeout
    if not in_time(exchange, timeout, now):
        return
    if care.retrying is not None:
        care.repeats = care.retrying.repeats(head.method, exchange.is_grpc)
    delay = injected(exchange, cluster, plan, care, now)
    if exchange.state is DONE:
        return
    if plan.routed and compiled is not None and care.abort is None and not led(exchange, cluster, compiled, care, now):
        return
    if delay:
        exchange.hold(now + delay, now)
    else:
        exchange.cluster.assign(exchange, now)


def admitted(exchange: Exchange, cluster: Cluster, plan: Plan, care: Care, now: float) -> bool:
    """Whether the limits let it through; otherwise it has been answered."""
    reports = cluster.shared.reports
    rates = plan.rates
    if rates is not None:
        downstream = exchange.downstream
        client = downstream.identity or downstream.peer.rpartition(":")[0]
        route = care.route.name if care.route is not None else ""
        wait = rates.admit(exchange.head, route, client, now)
        if wait > 0.0:
            reports.tally(Tally.LIMITED, cluster.name, "rate")
            after = (b"retry-after", b"%d" % max(1, math.ceil(wait)))
            cause = f"over the rate limit; there is room again in {wait:.3g} s"
            exchange.fail(Reason.RATE_LIMITED, cause, now, "shed", None, (after,))
            return False
    gate = plan.gate
    if gate is not None:
        if not gate.enter(now):
            reports.tally(Tally.LIMITED, cluster.name, "concurrency")
            cause = f"{gate.in_hand} requests are in hand, and the limit is {int(gate.limit)}"
            exchange.fail(Reason.OVER_CONCURRENCY, cause, now, "shed")
            return False
        care.gate = gate
    return True


def injected(exchange: Exchange, cluster: Cluster, plan: Plan, care: Care, now: float) -> float:
    """Strike with a fault, if one is due for this request: seconds of delay. An abort that has no delay has been
    answered."""
    if plan.faults is None:
        return 0.0
    fault = plan.faults.strike(exchange.head, cluster.shared.random, cluster.shared.wall())
    if fault is None:
        return 0.0
    reports = cluster.shared.reports
    if fault.delay:
        reports.tally(Tally.FAULT, cluster.name, "delay")
    if fault.abort is not None:
        reports.tally(Tally.FAULT, cluster.name, "abort")
        care.abort = Answer(fault.abort.status, fault.abort.grpc, 0)
        if not fault.delay:
            exchange.fail(Reason.FAULT, "aborted on purpose", now, answer=care.abort)
    return fault.delay


def led(exchange: Exchange, cluster: Cluster, compiled: Compiled, care: Care, now: float) -> bool:
    """Follow the route: redirect, backend, edits, mirrors. False if that has answered it."""
    head = exchange.head
    if compiled.route.redirect is not None:
        exchange.answer(edit.redirect(compiled, head), now)
        return False
    backend = compiled.pick(cluster.shared.random())
    if backend is None:
        exchange.fail(Reason.BAD_BACKEND, f"route {compiled.name} has no backend that takes requests", now)
        return False
    if backend.problem:
        exchange.fail(Reason.BAD_BACKEND, f"route {compiled.name}: {backend.problem}", now)
        return False
    directory = exchange.downstream.listener.directory
    if backend.service and backend.service != cluster.name:
        try:
            exchange.cluster = directory.named(backend.service)
        except ConduitError as exc:  # it is no name, or ourselves
            exchange.fail(Reason.BAD_BACKEND, f"route {compiled.name}: {exc}", now)
            return False
    sent = edit.request_head(compiled, head)
    if sent is not head:
        care.head = sent
    tunnel = head.upgrade or head.method == b"CONNECT"  # its bytes are a conversation, which cannot be had twice
    for name in () if tunnel else compiled.mirrors(cluster.shared.random):
        try:
            mirror = Mirror(exchange, sent, directory.named(name), now)
        except ConduitError:
            cluster.shared.reports.tally(Tally.MIRROR, name, "failed")
            continue
        if exchange.request_open:
            care.mirrors = [*(care.mirrors or ()), mirror]
        mirror.start(now)
    return True
