"""Policy in force: who may call the application beside us, and what applications may call outside of the mesh. Hot.

`authorize.py` and `egress.py` decide; here a decision is asked for, counted, told and acted upon: when a request or a
connection comes, and again for what is open when the policy has changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from mesh.proxy.authority import join_address, service_name, split_address
from mesh.proxy.authorize import Decision, ambiguous
from mesh.proxy.exchange import DONE, Exchange
from mesh.proxy.hedge import Hedge
from mesh.proxy.inquiry import Inquiry
from mesh.proxy.mirror import Mirror
from mesh.proxy.report import Tally
from mesh.proxy.rescue import Reason

if TYPE_CHECKING:
    from mesh.proxy.authorize import Compiled, Judge
    from mesh.proxy.cluster import Cluster
    from mesh.proxy.directory import Directory
    from mesh.proxy.downstream import Downstream


class Tunnel(Protocol):
    """A connection that is not HTTP, which may be open for long."""

    def reconsider(self) -> None:
        """Policy has changed: end it, if it would not be let through now."""


def judge_of(downstream: Downstream, access: Compiled) -> Judge:
    """What `access` says to this connection's peer; found out once for each version of the policy."""
    judge = downstream.judge
    if judge is None or downstream.judged is not access:
        judge = downstream.judge = access.judge(downstream.identity, downstream.address)
        downstream.judged = access
    return judge


def decide(exchange: Exchange, access: Compiled) -> Decision:
    """May it go on? A path that rules could be tricked with is judged by the caller first."""
    judge = judge_of(exchange.downstream, access)
    fixed = judge.fixed
    if fixed is not None:
        return fixed
    head = exchange.head
    return judge.decide(head.method, head.path, exchange.is_grpc)


def may(exchange: Exchange, cluster: Cluster, access: Compiled, now: float) -> bool:
    """Whether the application's policy lets the request through; otherwise it has been answered."""
    downstream = exchange.downstream
    head = exchange.head
    if access.by_path:
        why = ambiguous(head.path)
        if why:
            downstream.reports.tally(Tally.DENIED, cluster.name, Reason.AMBIGUOUS_PATH.value)
            exchange.fail(Reason.AMBIGUOUS_PATH, f"the path has more than one reading: {why}", now, "denied")
            return False
    decision = exchange.decision = decide(exchange, access)
    if downstream.witness is not None:
        protocol = "grpc" if exchange.is_grpc else "http"
        source = "" if downstream.identity else downstream.address
        downstream.witness.note(cluster.name, downstream.identity, source, protocol, head.method, head.path, decision)
    count(cluster, decision)
    if not decision.allowed:
        refuse(exchange, decision, now)
    return decision.allowed


def refuse(exchange: Exchange, decision: Decision, now: float) -> None:
    """Answer what policy does not allow. Only those who are in the mesh are told which policy it was."""
    downstream, access = exchange.downstream, exchange.parent.access
    if not downstream.inbound or (access is not None and judge_of(downstream, access).known):
        exchange.fail(Reason.DENIED, f"denied by {decision.by}: {decision.why}", now, "denied")
    else:
        exchange.fail(Reason.DENIED, "denied", now, "denied")


def may_leave(exchange: Exchange, cluster: Cluster, now: float) -> bool:
    """Whether the request may leave the mesh for where `cluster` leads; otherwise it has been answered."""
    downstream = exchange.downstream
    try:
        host = service_name(exchange.head.authority.decode("latin-1"))
    except ValueError:
        host = ""
    decision = exchange.decision = exit_decision(cluster, downstream.listener.directory, host)
    if decision is None:
        return True
    count(cluster, decision)
    if not decision.allowed:
        refuse(exchange, decision, now)
    return decision.allowed


def connection_decision(access: Compiled, identity: str, peer: str) -> Decision:
    """What policy says to a connection that is not HTTP."""
    return access.judge(identity, split_address(peer)[0]).connection()


def exit_decision(cluster: Cluster, directory: Directory, host: str) -> Decision | None:
    """Whether what is for `host` (empty: it says none) may leave the mesh for where `cluster` leads. Both must be
    allowed: a connection to an allowed address may carry requests for any host. None where there is no policy."""
    decision = cluster.exit
    if decision is None or not decision.allowed or not host:
        return decision
    there, port = split_address(cluster.name)
    if host == there.lower():
        return decision
    inside = directory.exit_to(join_address(host, port))
    return decision if inside is None or inside.allowed else inside


def count(cluster: Cluster, decision: Decision) -> None:
    """A request or connection has been judged."""
    reports = cluster.shared.reports
    if decision.audited:
        reports.tally(Tally.AUDITED, cluster.name, decision.audited)
    reports.tally(Tally.ALLOWED if decision.allowed else Tally.DENIED, cluster.name, decision.by)


def reconsider(cluster: Cluster, now: float) -> None:
    """The policy has changed: end what is open and would not be let in, or out, now."""
    access, leaving = cluster.access, cluster.exit
    found = [*cluster.waiting]
    for endpoint in cluster.endpoints:
        found += endpoint.queue
        for upstream in endpoint.connections:
            found += upstream.exchanges.values()
    for exchange in found:
        if exchange.state is DONE or isinstance(exchange, Hedge | Mirror | Inquiry):
            continue
        decision = leaving if access is None else decide(exchange, access)
        if decision is not None and not decision.allowed:
            cluster.shared.reports.tally(Tally.DENIED, cluster.name, decision.by)
            refuse(exchange, decision, now)
    for tunnel in list(cluster.tunnels):
        tunnel.reconsider()
