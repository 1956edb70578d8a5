"""What `conduit get` shows of each kind of resource: the columns, and how a cell is made of a view.   (pure)"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from mesh.cli import faultrows
from mesh.cli.output import NONE, Column, attribute, plain
from mesh.model.api import ResourceView
from mesh.model.gateway import BackendRef, GRPCRouteRule, HTTPRouteRule, ParentRef
from mesh.model.resources import (
    KINDS,
    AuthorizationPolicy,
    EgressPolicy,
    GRPCRoute,
    HTTPRoute,
    PolicyPlugin,
    Resource,
)

Cell = Callable[[object], str]


def resource_of(row: ResourceView) -> Resource | None:
    """The resource that a view shows, with what was left to its defaults; None for one that was refused."""
    known = KINDS.get(row.kind)
    if known is None or not row.spec:
        return None
    return msgspec.convert({"metadata": row.metadata, "spec": row.spec}, known)


# --- cells of every kind


def spec(field: str) -> Cell:
    """A cell that shows one field of the resource's spec, also where it is the default and was left out."""

    def cell(row: object) -> str:
        assert isinstance(row, ResourceView)
        resource = resource_of(row)
        value = getattr(resource.spec, field) if resource else row.spec.get(field)
        if not value and field == "service":
            value = row.metadata.name
        return plain(value)

    return cell


def metadata(field: str) -> Cell:
    """A cell that shows the resource's name or namespace."""
    return lambda row: plain(getattr(row.metadata, field)) if isinstance(row, ResourceView) else ""


def state(row: object) -> str:
    """Whether it is in force and all that it refers to is there, and why not."""
    assert isinstance(row, ResourceView)
    if not row.status.accepted:
        return plain(f"Refused: {row.status.reason}")
    words = []
    for condition in row.status.conditions:
        why = f": {condition.message or condition.reason}" if not condition.status else ""
        words.append(f"{'' if condition.status else 'not '}{condition.type}{why}")
    return plain(", ".join(dict.fromkeys(words)) or "Accepted")


def file(row: object) -> str:
    """The file it is from."""
    assert isinstance(row, ResourceView)
    return plain(row.status.file)


# --- cells of some


def sets(row: object) -> str:
    """What a policy says anything about."""
    assert isinstance(row, ResourceView)
    return plain(",".join(name for name in row.spec if name not in ("service", "protocol")))


def parents(row: object) -> str:
    """The services that a route is for."""
    assert isinstance(row, ResourceView)
    match resource_of(row):
        case HTTPRoute(spec=spec) | GRPCRoute(spec=spec):
            return plain(",".join(reference(ref, row.metadata.namespace) for ref in spec.parent_refs))
    return NONE


def backends(row: object) -> str:
    """Where each rule of a route sends requests, with weights; rules are set apart by semicolons."""
    assert isinstance(row, ResourceView)
    match resource_of(row):
        case HTTPRoute(spec=spec) | GRPCRoute(spec=spec):
            return plain("; ".join(targets(rule, row.metadata.namespace) for rule in spec.rules))
    return NONE


def targets(rule: HTTPRouteRule | GRPCRouteRule, home: str) -> str:
    """Where one rule sends requests: `votes-v1:90,votes-v2:10`, the weight left out where there is but one backend."""
    refs = rule.backend_refs
    if len(refs) == 1:
        return reference(refs[0], home)
    if refs:
        return ",".join(f"{reference(ref, home)}:{ref.weight}" for ref in refs)
    redirects = isinstance(rule, HTTPRouteRule) and any(each.request_redirect for each in rule.filters)
    return "redirect" if redirects else "(nowhere)"


def reference(ref: ParentRef | BackendRef, home: str) -> str:
    """A service as one would call it from the route's namespace; another kind with its name."""
    name = ref.name if ref.namespace in ("", home) else f"{ref.name}.{ref.namespace}"
    return name if ref.kind == "Service" else f"{ref.kind}/{name}"


def target(row: object) -> str:
    """What a policy is for: `mesh`, `namespace`, `service words`."""
    assert isinstance(row, ResourceView)
    told = row.spec.get("target")
    if not isinstance(told, dict):
        return NONE
    return plain(f"{told.get('kind', '')} {told.get('name', '')}".strip().lower())


def count(field: str, none: str) -> Cell:
    """A cell that shows how many of something there are, or what it means that there are none."""

    def cell(row: object) -> str:
        assert isinstance(row, ResourceView)
        if not row.spec:
            return NONE
        found = row.spec.get(field)
        return str(len(found)) if isinstance(found, list | tuple) and found else none

    return cell


def action(row: object) -> str:
    """What a policy does, also where that is the default and was left out."""
    assert isinstance(row, ResourceView)
    match resource_of(row):
        case AuthorizationPolicy(spec=spec) | EgressPolicy(spec=spec):
            return plain(spec.action.value)
    return NONE


def defaults(row: object) -> str:
    """What a DefaultPolicy says: `inbound deny,tls strict`."""
    assert isinstance(row, ResourceView)
    told = ((name, value) for name, value in row.spec.items() if name != "target")
    return plain(",".join(f"{name} {value if isinstance(value, str) else len(value)}" for name, value in told))


def plugin(row: object) -> str:
    """Who decides: `authorizer HOST:PORT` or `python MODULE:FUNCTION`."""
    assert isinstance(row, ResourceView)
    match resource_of(row):
        case PolicyPlugin(spec=spec) if spec.authorizer is not None:
            return plain(f"authorizer {spec.authorizer.service}")
        case PolicyPlugin(spec=spec) if spec.python is not None:
            return plain(f"python {spec.python.function}")
    return NONE


def of_fault(cell: Cell) -> Cell:
    """A cell of `conduit fault list`, for the view of a Fault."""

    def shown(row: object) -> str:
        assert isinstance(row, ResourceView)
        found = next(faultrows.rows_of(row, time.time()), None)
        return cell(found) if found is not None else NONE

    return shown


SERVICE = Column("SERVICE", spec("service"))
PROTOCOL = Column("PROTOCOL", spec("protocol"))
VERSION = Column("VERSION", spec("version"))
ROUTE = (Column("PARENTS", parents), Column("BACKENDS", backends))
TARGET, ACTION = Column("TARGET", target), Column("ACTION", action)
SPECIFIC: dict[str, tuple[Column, ...]] = {
    "Workload": (
        *(SERVICE, VERSION, Column("PORT", spec("port")), PROTOCOL, Column("REPLICAS", spec("replicas"))),
        Column("ZONE", spec("zone"), wide=True),
    ),
    "Endpoint": (
        *(SERVICE, Column("WORKLOAD", spec("workload")), Column("ADDRESS", spec("address")), VERSION, PROTOCOL),
        *(Column("ZONE", spec("zone"), wide=True), Column("WEIGHT", spec("weight"), wide=True)),
    ),
    "TrafficPolicy": (SERVICE, PROTOCOL, Column("SETS", sets)),
    "Fault": (
        SERVICE,
        *(Column(each.title, of_fault(each.cell), right=each.right) for each in faultrows.COLUMNS[3:]),
    ),
    "HTTPRoute": ROUTE,
    "GRPCRoute": ROUTE,
    "AuthorizationPolicy": (
        *(TARGET, ACTION, Column("FROM", count("from", "anybody"))),
        Column("TO", count("to", "anything")),
    ),
    "DefaultPolicy": (TARGET, Column("SAYS", defaults)),
    "EgressPolicy": (TARGET, ACTION, Column("TO", count("to", "anywhere"))),
    "PolicyPlugin": (TARGET, Column("ASKS", plugin)),
}
"""Between a resource's name and its status."""


def columns(kind: str) -> list[Column]:
    """Those of one kind; of all kinds together where it is empty."""
    head = [] if kind else [Column("KIND", attribute("kind"))]
    named = [Column("NAMESPACE", metadata("namespace")), Column("NAME", metadata("name"))]
    return [*head, *named, *SPECIFIC.get(kind, ()), Column("STATUS", state), Column("FILE", file, wide=True)]
