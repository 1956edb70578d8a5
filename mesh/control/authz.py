"""Which policies hold for each service, and what they did: rows for `conduit authz`.

What holds is what the proxies are told (plan.py), what was decided is what they have seen (seen.py), and how the
requests fared is in the windows (aggregate.py). Workloads behind one service may differ in what holds for them: a row
says for which it does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import trio

from mesh.control import stat
from mesh.control.aggregate import HORIZON_SECONDS, Aggregate
from mesh.control.cluster import Cluster, Members, ServiceKey
from mesh.control.plan import authorization
from mesh.control.routes import Answer, Query, Refusal, Request, Route, answer, number, text
from mesh.control.seen import SeenTraffic
from mesh.model.api import AuthzRow, Problem
from mesh.model.authorization import Action, Authorization
from mesh.model.identity import TRUST_DOMAIN

PROBE = "probe"
"""What a health check is allowed by: no resource of its own."""
DEFAULT, EXTERNAL, GONE = "Default", "External", "gone"
ORDER = (Action.DENY.value, Action.ALLOW.value, DEFAULT, Action.AUDIT.value, EXTERNAL)
MIXED = "mixed"
"""Where the workloads behind a service differ."""
TARGET = Query("target", "Only of this service, or of this workload's: `name` or `name.namespace`.")
WINDOW = Query(
    "window",
    "Seconds back from now, for rate and success; 0: since the start.",
    kind=float,
    default=60.0,
    most=float(HORIZON_SECONDS),
)


class Counts:
    """What one policy did to requests to one service."""

    __slots__ = ("allowed", "audited", "denied")

    def __init__(self) -> None:
        self.allowed: Counter[str] = Counter()
        self.denied: Counter[str] = Counter()
        self.audited: Counter[str] = Counter()

    def names(self) -> set[str]:
        """All policies that did something."""
        return {*self.allowed, *self.denied, *self.audited}


class AuthzApi:
    """The handler; it answers from memory."""

    def __init__(self, cluster: Cluster, aggregate: Aggregate, seen: SeenTraffic) -> None:
        self._cluster, self._aggregate, self._seen = cluster, aggregate, seen

    def routes(self) -> list[Route]:
        """Its row of the table."""
        about = "Which policies hold for each service, what they decided, and how its requests fared."
        query = (TARGET, WINDOW)
        return [Route("GET", "/api/v1/authz", about, list[AuthzRow], handler=self.get, query=query, problems=(404,))]

    async def get(self, request: Request) -> Answer:
        window = self._aggregate.window(trio.current_time(), number(request, WINDOW))
        groups = stat.grouped(window.cells, "inbound", lambda series: ServiceKey(series.namespace, series.service))
        rows: list[AuthzRow] = []
        wanted = self._wanted(text(request, TARGET))
        counts = counted(self._seen)
        for key, workloads in wanted.items():
            members = self._cluster.members(key)
            if members is None:
                continue
            holding = {name: authorization(self._cluster, members, name, TRUST_DOMAIN) for name in workloads}
            group = groups.get(key) or stat.Group()
            rate = group.cell.requests / window.seconds
            rows += rows_of(key, holding, counts.get(key) or Counts(), rate, group.success_rate())
        return answer(rows)

    def _wanted(self, target: str) -> dict[ServiceKey, list[str]]:
        """The services, with the workloads behind them, that are asked for; raises Refusal where there are none."""
        found: dict[ServiceKey, list[str]] = {}
        for key in self._cluster.services():
            members = self._cluster.members(key)
            behind = workloads_of(members) if members is not None else []
            if target not in ("", key.name, f"{key.name}.{key.namespace}"):
                behind = [name for name in behind if target in (name, f"{name}.{key.namespace}")]
            if behind:
                found[key] = behind
        if target and not found:
            raise Refusal(404, Problem(f"there is no service or workload {target[:300]} that takes requests"))
        return found


def workloads_of(members: Members) -> list[str]:
    """The workloads behind a service, sorted."""
    declared = {workload.metadata.name for workload in members.workloads}
    return sorted(declared | {endpoint.spec.workload for endpoint in members.endpoints})


def counted(seen: SeenTraffic) -> dict[ServiceKey, Counts]:
    """What was decided about requests to each service since it was first seen."""
    found: dict[ServiceKey, Counts] = {}
    for row in seen.rows():
        counts = found.setdefault(ServiceKey(row.namespace, row.service), Counts())
        counts.allowed.update(row.allowed)
        counts.denied.update(row.denied)
        counts.audited.update(row.audited)
    return found


def rows_of(
    key: ServiceKey, holding: Mapping[str, Authorization], counts: Counts, rps: float, success_rate: float | None
) -> list[AuthzRow]:
    """A row for each policy that holds for one service, in the order in which they decide: Deny, Allow or the default,
    Audit, external; then one for each that has decided something and does not hold any more."""
    modes = {told.strictness.value for told in holding.values()}
    mode = next(iter(modes)) if len(modes) == 1 else MIXED
    defaults = {(told.default.value, told.default_from) for told in holding.values()}
    default = next(iter(defaults))[0] if len(defaults) == 1 else MIXED
    holders: dict[tuple[str, str], list[str]] = {}
    for workload, told in holding.items():
        for policy in policies(told):
            holders.setdefault(policy, []).append(workload)
    ordered = sorted(holders, key=lambda policy: (ORDER.index(policy[0]), policy[1]))
    known = {name for _, name in ordered}
    ordered += [(PROBE if name == PROBE else GONE, name) for name in sorted(counts.names() - known)]
    return [
        AuthzRow(
            namespace=key.namespace,
            service=key.name,
            workloads=tuple(holders.get((action, name), holding)),
            mode=mode,
            default=default,
            policy=name,
            action=action,
            allowed=counts.allowed[name],
            denied=counts.denied[name],
            audited=counts.audited[name],
            rps=rps,
            success_rate=success_rate,
        )
        for action, name in ordered
    ]


def policies(told: Authorization) -> list[tuple[str, str]]:
    """Action and name of all that decides for one workload; the default only where no Allow takes its place."""
    found = [(rule.action.value, rule.name) for rule in told.rules]
    if not any(rule.action is Action.ALLOW for rule in told.rules):
        found.append((DEFAULT, told.default_from or f"default:{told.default.value}"))
    return [*found, *((EXTERNAL, one.name) for one in told.authorizers)]
