"""Faults as people read them: one row each, from Faults and from the policies that hold some.   (pure)"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import datetime

import msgspec

from mesh.cli.output import NONE, Column, attribute, plain
from mesh.model.api import ResourceView
from mesh.model.decoding import GRPC_CODES
from mesh.model.durations import duration_text
from mesh.model.resources import KINDS, Fault, FaultSpec, TrafficPolicy
from mesh.model.traffic import Injection, Match, PathKind


class FaultRow(msgspec.Struct, frozen=True):
    """One fault. `kind` is Fault or TrafficPolicy, `name` that of the resource; `delay` and `lifts_in` are seconds,
    `until` seconds since the epoch. Both are None for one that stays."""

    namespace: str
    name: str
    kind: str
    service: str
    what: str
    """In words."""
    percent: float
    delay: float
    abort_status: int | None
    abort_grpc: str | None
    """The code's name."""
    match: Match
    until: float | None
    lifts_in: float | None


def rows_of(view: ResourceView, now: float) -> Iterator[FaultRow]:
    """The faults of one resource, `now` being seconds since the epoch; none of one that was refused."""
    known = KINDS.get(view.kind)
    if known is None or not view.spec or not view.status.accepted:
        return
    match msgspec.convert({"metadata": view.metadata, "spec": view.spec}, known):
        case Fault(spec=spec):
            yield row(view, spec.service, spec, now)
        case TrafficPolicy(spec=spec):
            for fault in spec.faults:
                yield row(view, spec.service, fault, now)


def row(view: ResourceView, service: str, fault: FaultSpec | Injection, now: float) -> FaultRow:
    """One row."""
    return FaultRow(
        namespace=view.metadata.namespace,
        name=view.metadata.name,
        kind=view.kind,
        service=service,
        what=effect(fault),
        percent=fault.percent,
        delay=fault.delay,
        abort_status=fault.abort.status if fault.abort else None,
        abort_grpc=GRPC_CODES[fault.abort.grpc] if fault.abort else None,
        match=fault.match,
        until=fault.until or None,
        lifts_in=max(fault.until - now, 0.0) if fault.until else None,
    )


def effect(fault: FaultSpec | Injection) -> str:
    """What it does: `wait 200ms, then 503 (gRPC UNAVAILABLE)`."""
    parts = [f"wait {duration_text(fault.delay)}"] if fault.delay else []
    if fault.abort is not None:
        parts.append(f"{fault.abort.status} (gRPC {GRPC_CODES[fault.abort.grpc]})")
    return ", then ".join(parts) or "nothing"


def matching(match: Match) -> str:
    """What a request must be like: `POST /polls* x-user=me`; empty where every one is meant."""
    path = match.path
    shown = {PathKind.PREFIX: "{}*", PathKind.EXACT: "{}", PathKind.REGEX: "~{}"}
    words = [match.method] if match.method else []
    if path is not None:
        words.append(shown[path.kind].format(path.value))
    words += [f"{field.name}{'=~' if field.regex else '='}{field.value}" for field in match.headers]
    words += [f"?{field.name}{'=~' if field.regex else '='}{field.value}" for field in match.query]
    return " ".join(words)


def clock(at: float) -> str:
    """Seconds since the epoch as a local time of day, with the day where it is another."""
    when, today = datetime.fromtimestamp(at), datetime.now()
    return when.strftime("%H:%M:%S" if when.date() == today.date() else "%Y-%m-%d %H:%M:%S")


def name(row: object) -> str:
    """What it is called; that of a policy with its kind, since it cannot be cleared."""
    assert isinstance(row, FaultRow)
    return plain(row.name if row.kind == Fault.kind else f"{row.kind}/{row.name}")


def share(row: object) -> str:
    """Of the requests."""
    assert isinstance(row, FaultRow)
    return f"{row.percent:g}%"


def which(row: object) -> str:
    """What it matches."""
    assert isinstance(row, FaultRow)
    return plain(matching(row.match))


def lifts(row: object) -> str:
    """When it lifts."""
    assert isinstance(row, FaultRow)
    if row.lifts_in is None:
        return NONE
    return duration_text(math.ceil(row.lifts_in)) if row.lifts_in > 0 else "lifted"


COLUMNS = (
    Column("NAMESPACE", attribute("namespace")),
    Column("NAME", name),
    Column("SERVICE", attribute("service")),
    Column("WHAT", attribute("what")),
    Column("PERCENT", share, right=True),
    Column("MATCH", which),
    Column("LIFTS IN", lifts, right=True),
)
