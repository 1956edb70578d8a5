"""Faults as rows."""

import msgspec
import pytest

from mesh.cli.faultrows import COLUMNS, effect, matching, rows_of
from mesh.cli.output import table
from mesh.model.api import ResourceStatus, ResourceView
from mesh.model.resources import API_VERSION, FaultSpec, Metadata, TrafficPolicySpec
from mesh.model.traffic import Abort, FieldMatch, Injection, Match, PathKind, PathMatch


def view(kind: str, spec: msgspec.Struct, *, accepted: bool = True) -> ResourceView:
    status = ResourceStatus(kind, "demo", "x", accepted=accepted)
    return ResourceView(API_VERSION, kind, Metadata("x", "demo"), msgspec.to_builtins(spec), status)


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (Match(), ""),
        (Match(path=PathMatch("/a")), "/a*"),
        (Match(path=PathMatch("/a", PathKind.EXACT), method="GET"), "GET /a"),
        (Match(path=PathMatch("/a.*", PathKind.REGEX)), "~/a.*"),
        (Match(headers=(FieldMatch("x", "1"), FieldMatch("y", ".", regex=True))), "x=1 y=~."),
        (Match(query=(FieldMatch("q", "1"),)), "?q=1"),
    ],
)
def test_matching(match: Match, text: str) -> None:
    """Every part that is asked for is shown."""
    assert matching(match) == text


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Injection(delay=0.2), "wait 200ms"),
        (Injection(abort=Abort(503, 14)), "503 (gRPC UNAVAILABLE)"),
        (Injection(delay=90, abort=Abort(429, 8)), "wait 1m30s, then 429 (gRPC RESOURCE_EXHAUSTED)"),
        (Injection(), "nothing"),
    ],
)
def test_effect(fault: Injection, text: str) -> None:
    """What happens, in its order."""
    assert effect(fault) == text


def test_rows() -> None:
    """A fault is a row, a policy has one for each that it holds, and what was refused has none."""
    fault = FaultSpec("votes", delay=1, until=160.0)
    [row] = rows_of(view("Fault", fault), 100.0)
    assert (row.kind, row.service, row.until, row.lifts_in) == ("Fault", "votes", 160.0, 60.0)
    policy = TrafficPolicySpec("votes", faults=(Injection(delay=1), Injection(abort=Abort())))
    assert [(row.lifts_in, row.abort_status, row.abort_grpc) for row in rows_of(view("TrafficPolicy", policy), 0)] == [
        (None, None, None),
        (None, 503, "UNAVAILABLE"),
    ]
    assert list(rows_of(view("Fault", fault, accepted=False), 0)) == []
    assert list(rows_of(view("Pod", fault), 0)) == []


def test_table() -> None:
    """The time that is left is rounded up, so that what lifts in a moment does not look lifted."""
    specs = [FaultSpec("votes", percent=0.5, delay=1, until=until) for until in (0.0, 90.0, 100.2, 190.0)]
    rows = [row for spec in specs for row in rows_of(view("Fault", spec), 100.0)]
    lines = table(rows, COLUMNS).splitlines()
    assert lines[1].split() == ["demo", "x", "votes", "wait", "1s", "0.5%", "-", "-"]
    assert [line.split()[-1] for line in lines[2:]] == ["lifted", "1s", "1m30s"]
