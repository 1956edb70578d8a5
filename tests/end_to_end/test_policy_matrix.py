"""Every row of the table of decisions over real sockets, at real proxies: what the client sees is what the table says,
and what `explain` says of the same request.

The policies of one service are switched under connections that stay open. It is played in two namespaces at once, since
there are two ways to prove who one is: `shop`, whose proxy has its certificate from the control plane, as do those of
its callers; and `away`, whose proxy has files of its own, and so believes callers of another trust domain as well.
"""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import grpc
import pytest

from mesh.model.identity import Identity, parse
from mesh.proxy.authorize import PROBE
from tests.end_to_end import scale
from tests.end_to_end.conftest import CONDUIT, processes_in
from tests.end_to_end.deciding import Any1, Application, Deciding, Line, Way, application
from tests.end_to_end.sidecar import Sidecar, Starter, wait_until
from tests.proxy.access_table import ASKINGS, CALLERS, MATRIX, NAMESPACE, PARTICULAR, SERVICE, WORKLOAD, Case, Row

AWAY = "away"
PLAYED = {name: AWAY if name == "stranger" or name.startswith("far") else NAMESPACE for name in CALLERS}
"""In which namespace a caller calls."""
PROXIED = ("web", "ops", "neighbour")
"""Callers that have a proxy beside them."""
ASKED_AT_ONCE = 12
KINDS = ("conduit_allowed_total", "conduit_denied_total", "conduit_audited_total")

pytestmark = pytest.mark.timeout(240)


class Table:
    """All that is played with; `caller` and `channel` are open all the time."""

    def __init__(self, deciding: Deciding, app: Application, calls: Any1, ways: dict[str, Way], stack: ExitStack):
        self.deciding, self.app, self.calls, self.ways = deciding, app, calls, ways
        self.channels = {name: stack.enter_context(way.channel()) for name, way in ways.items()}
        self.lines: dict[str, Line] = {}
        self.explaining = [deciding.line() for _ in range(ASKED_AT_ONCE)]
        self.sidecars: dict[str, Sidecar] = {}

    def switch(self, case: Case) -> None:
        """The case's policies, and no others, hold in both namespaces."""
        texts = (case.yaml, case.yaml.replace("namespace: shop}", f"namespace: {AWAY}}}"))
        self.deciding.only(*(text for text in texts if text))

    # --- what clients see

    def seen(self, case: Case) -> list[tuple[bool, str]]:
        """For each row: whether it got through, and the words of the refusal."""
        found: list[tuple[bool, str] | None] = [None] * len(case.rows)
        calls = []
        asked: dict[str, list[int]] = {}
        for index, row in enumerate(case.rows):
            asking = ASKINGS[row.asking]
            if asking.protocol == "grpc":
                way = self.channels[row.caller].unary_unary(asking.path)
                calls.append((index, way.future(b"words", timeout=30)))
            elif asking.protocol == "http":
                asked.setdefault(row.caller, []).append(index)
                self.line(row.caller).ask(asking.method, asking.path, self.ways[row.caller].through or SERVICE)
        for caller, indices in asked.items():
            for index in indices:
                said = self.lines[caller].answer()
                assert said.status in (200, 403), (case.name, case.rows[index], said)
                found[index] = said.status == 200, said.body.decode()
        for index, call in calls:
            error: Any = call.exception()
            if error is None:
                assert call.result() == b"words"
            else:
                assert error.code() is grpc.StatusCode.PERMISSION_DENIED, (case.name, case.rows[index], error)
            found[index] = error is None, error.details() if error is not None else ""
        for index, row in enumerate(case.rows):
            if ASKINGS[row.asking].protocol == "tcp":
                found[index] = self.ways[row.caller].echoed(), ""
        return [each for each in found if each is not None]

    def line(self, caller: str) -> Line:
        """The caller's connection."""
        if caller not in self.lines:
            self.lines[caller] = Line(self.ways[caller].dial())
        return self.lines[caller]

    # --- what explain says

    def explained(self, case: Case, into: list[dict[str, Any]]) -> None:
        """A trace for each row, in order."""
        rows, lines = case.rows, self.explaining
        for start in range(0, len(rows), len(lines)):
            some = rows[start : start + len(lines)]
            for line, row in zip(lines, some, strict=False):
                self.deciding.send(line, "POST", "/api/v1/explain", json.dumps(question(row)).encode())
            into += [self.deciding.heard(line) for line, _ in zip(lines, some, strict=False)]


def question(row: Row) -> dict[str, Any]:
    """The row, as explain is asked."""
    caller, asking = CALLERS[row.caller], ASKINGS[row.asking]
    told: dict[str, Any] = {"to": f"{SERVICE}.{PLAYED[row.caller]}", "protocol": asking.protocol}
    if asking.protocol != "tcp":
        told |= {"method": asking.method, "path": asking.path}
    who = parse(caller.identity)
    if row.caller in PROXIED and who is not None:
        return told | {"from": f"{who.account}.{who.namespace}", "source": caller.address}
    return told | {"identity": caller.identity, "source": caller.address}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Table]:
    """A control plane, the service in both namespaces, and those who call it."""
    folder = tmp_path_factory.mktemp("matrix")
    with application() as (app, calls), processes_in(folder) as run, ExitStack() as stack:
        deciding = Deciding(run, Starter(run, free_port, folder, CONDUIT), folder, free_port())
        trusting = deciding.trusting
        listener = {"forward": f"127.0.0.1:{app.port}", "service": SERVICE}
        certificate = trusting.sign(Identity(WORKLOAD, AWAY))
        files = {"cert": str(certificate.cert), "key": str(certificate.key), "ca": str(trusting.files.anchors)}
        here = deciding.proxy(WORKLOAD, NAMESPACE, inbound=[listener])
        away = deciding.proxy(
            WORKLOAD, AWAY, certified=False, inbound=[{**listener, "tls": {**files, "mode": "permissive"}}]
        )
        deciding.serve(here, SERVICE, WORKLOAD, NAMESPACE)
        deciding.serve(away, SERVICE, WORKLOAD, AWAY)
        ways = {}
        for name, caller in CALLERS.items():
            who = parse(caller.identity)
            if name in PROXIED and who is not None:
                beside = deciding.proxy(who.account, who.namespace)
                ways[name] = Way(beside.forward, through=f"{SERVICE}.{NAMESPACE}")
                continue
            port = away.inbound[0] if PLAYED[name] == AWAY else here.inbound[0]
            shown = trusting.sign(who) if who is not None else None
            ways[name] = Way(port, source=caller.address, files=shown, name=str(Identity(WORKLOAD, AWAY)))
        made = Table(deciding, app, calls, ways, stack)
        made.sidecars = {NAMESPACE: here, AWAY: away}
        yield made


def play(table: Table, cases: tuple[Case, ...]) -> None:
    """Each row of each case; and in the end, what was counted is what was seen."""
    wanted: Counter[tuple[str, str, str]] = Counter()
    before, checks = counted(table), table.app.checks
    reached = table.app.requests + sum(table.calls.calls.values()) + table.app.connections
    allowed = 0
    for case in cases:
        table.switch(case)
        traces: list[dict[str, Any]] = []
        thread = threading.Thread(target=table.explained, args=(case, traces))
        thread.start()
        try:
            seen = table.seen(case)
        finally:
            thread.join()
        assert len(seen) == len(traces) == len(case.rows)
        for row, (through, words), trace in zip(case.rows, seen, traces, strict=True):
            told = (case.name, row, words, trace)
            namespace = PLAYED[row.caller]
            by = row.by.replace("shop/", f"{namespace}/")
            audited = row.audited.replace("shop/", f"{namespace}/")
            assert through == row.allowed, told
            steps = {step["outcome"]: step for step in trace["steps"] if step["stage"] == "policy"}
            assert trace["verdict"] == ("allowed" if row.allowed else "denied"), told
            assert steps["allowed" if row.allowed else "denied"]["by"] == by, told
            assert steps.get("audited", {}).get("by", "") == audited, told
            if words and not row.allowed:
                in_the_mesh = CALLERS[row.caller].identity.endswith("cluster.local")
                assert (by in words) == in_the_mesh, told
            wanted[KINDS[0 if row.allowed else 1], namespace, by] += 1
            if audited:
                wanted[KINDS[2], namespace, audited] += 1
            allowed += row.allowed

    def since() -> Counter[tuple[str, str, str]]:
        """What was counted meanwhile, without the health checks that proxies have made of their own accord."""
        found = counted(table)
        found.subtract(before)
        found[KINDS[0], NAMESPACE, PROBE] -= table.app.checks - checks
        return +found

    wait_until(lambda: since() == wanted, f"{wanted} are counted", 10.0)
    total = table.app.requests + sum(table.calls.calls.values()) + table.app.connections
    assert total - reached == allowed


def counted(table: Table) -> Counter[tuple[str, str, str]]:
    """What policies did, at both proxies: kind, namespace, policy."""
    from prometheus_client.parser import text_string_to_metric_families

    found: Counter[tuple[str, str, str]] = Counter()
    for namespace, sidecar in table.sidecars.items():
        for family in text_string_to_metric_families(sidecar.ask("/metrics")[1]):
            for sample in family.samples:
                if sample.name in KINDS:
                    found[sample.name, namespace, sample.labels["policy"]] += int(sample.value)
    return found


def test_what_was_written_by_hand(table: Table) -> None:
    """Cases of which each has a point."""
    play(table, PARTICULAR)


@pytest.mark.parametrize("action", ["Allow", "Deny", "Audit"])
def test_the_matrix(table: Table, action: str) -> None:
    """Each source, each operation, each default; every caller, every request. Every fifth case unless at full scale:
    the pure function and `explain` see all of them each time (tests/proxy)."""
    cases = tuple(case for case in MATRIX if case.name.startswith(f"{action} "))
    assert len(cases) == len(MATRIX) // 3
    play(table, cases if scale.FULL else cases[::5])
