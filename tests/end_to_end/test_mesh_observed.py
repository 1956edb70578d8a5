"""What stat, tap and /metrics show is what was sent, to the request; and what is refused changes nothing."""

import json
import re
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.curl import curl
from tests.end_to_end.mesh_machine import Mesh, client, machine_in, policy, workload

MESH_CLIENT = Path(__file__).parent / "mesh_client.py"
COUNTED = [
    workload("counted-v1", service="counted", version="v1", replicas=2),
    workload("counted-v2", service="counted"),
]
COUNTED_REPLICAS = "counted-v1-1", "counted-v1-2", "counted-v2-1"
OTHER = workload("other")
DOCUMENTS = [client(), *COUNTED, OTHER]
PLAN = [["GET", "/things/1", 17], ["GET", "/things/2", 9], ["POST", "/things", 6], ["GET", "/fail/all", 5]]
SENT = Counter({(method, path): count for method, path, count in PLAN})
FAILED = 5
EVERYTHING = 10_000
"""More exchanges a second than there will be."""


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A client's sidecar, a service in two versions and three replicas, and a service of one."""
    with machine_in(tmp_path_factory.mktemp("mesh")) as machine:
        mesh = Mesh(machine, DOCUMENTS)
        mesh.until_serving(*COUNTED_REPLICAS, "other-1")
        mesh.until(lambda: len(mesh.connected()) == 4, "all proxies are connected")
        yield mesh


def send(mesh: Mesh, service: str, path: str) -> int:
    """One request through the sidecar of the workload `client`."""
    return curl(f"http://{service}{path}", "-x", mesh.sidecar("client-1").proxy_url).status


def probe(mesh: Mesh, replica: str, service: str, path: str, *options: str) -> None:
    """One request to a replica's own inbound listener: a balancer may send a series of requests all to one."""
    listener = mesh.config(replica)["inbound"][0]["listen"]
    assert curl(f"http://{listener}{path}", "-H", f"Host: {service}", *options).status == 200


class Tap:
    """A `conduit tap` that is known to reach the proxies of some replicas and, without `target`, that of the client.

    It tells that it has begun in no other way than by showing something, and so it is probed; `probes` says how often.
    """

    def __init__(
        self,
        mesh: Mesh,
        service: str,
        replicas: Sequence[str],
        *words: object,
        path: str = "/probe",
        post: bool = False,
    ) -> None:
        self.handle = mesh.machine.start("tap", *words)
        self.probes = 0
        options = ("-d", "words") if post else ()

        def reaches_all() -> bool:
            for replica in replicas:
                probe(mesh, replica, service, path, *options)
            assert curl(f"http://{service}{path}", "-x", mesh.sidecar("client-1").proxy_url, *options).status == 200
            self.probes += 1 + len(replicas)
            text = self.handle.stdout.read_text()
            if "json" not in words:
                return bool(text)
            seen = {(event["proxy"], event["dst"]) for event in self.events()}
            return [proxy for proxy, _ in seen].count("in") == len(replicas) and "out" in {proxy for proxy, _ in seen}

        mesh.until(reaches_all, "every proxy is tapped")

    def events(self, **wanted: object) -> list[dict[str, Any]]:
        """What -o json has printed, one object a line; those whose fields are as wanted."""
        lines = self.handle.stdout.read_text().splitlines(keepends=True)
        found = [json.loads(line) for line in lines if line.endswith("\n")]
        return [event for event in found if wanted.items() <= event.items()]

    def asked(self, event: str, *, by: str) -> list[dict[str, Any]]:
        """Events of the requests that were no probes, as the outbound proxy of a workload saw them; `in`: as the
        inbound proxies did."""
        where = {"proxy": "in"} if by == "in" else {"proxy": "out", "workload": by}
        return [one for one in self.events(event=event, **where) if not one["path"].endswith("/probe")]

    def left_out(self) -> int:
        """How many exchanges it told on stderr that it did not show."""
        return sum(int(n) for n in re.findall(r"(\d+) requests were left out", self.handle.stderr.read_text()))

    def stop(self) -> None:
        """^C."""
        self.handle.send_signal(signal.SIGINT)
        assert self.handle.wait() == 130


def since_ever(mesh: Mesh, kind: str) -> dict[str, dict[str, Any]]:
    """Rows of `conduit stat`, by name."""
    return {row["name"]: row for row in mesh.machine.ask("stat", kind, "-t", "0")}


def run_plan(mesh: Mesh, name: str, service: str, plan: object) -> Counter[tuple[str, str, int]]:
    """The answers that a client under `conduit run` had: how often which status to which method and path."""
    done = mesh.machine.conduit("run", name, "--", "python", MESH_CLIENT, service, json.dumps(plan))
    assert done.code == 0, done.err
    return Counter((method, path, status) for method, path, status in json.loads(done.out))


def test_stat_tap_and_metrics_agree_with_what_was_sent(mesh: Mesh) -> None:
    """Of a client that `conduit run` started: each request once, with its method, path and status, everywhere."""
    to_counted = ("--to", "counted", "--max-rps", EVERYTHING)
    tap = Tap(mesh, "counted", COUNTED_REPLICAS, *to_counted, "-o", "json")
    posts = Tap(mesh, "counted", COUNTED_REPLICAS, *to_counted, "-o", "json", "--method", "post", post=True)
    things = Tap(
        mesh, "counted", COUNTED_REPLICAS, *to_counted, "-o", "json", "--path", "/things/", path="/things/probe"
    )
    lines = Tap(mesh, "counted", ["counted-v2-1"], "counted-v2", "--max-rps", EVERYTHING)
    taps = (tap, posts, things, lines)

    answers = run_plan(mesh, "shopper", "counted", PLAN)
    assert answers == {(m, p, 500 if p.startswith("/fail") else 200): n for (m, p), n in SENT.items()}
    assert send(mesh, "other", "/elsewhere") == 200

    in_all = SENT.total() + sum(one.probes for one in taps)
    mesh.until(lambda: since_ever(mesh, "service")["counted"]["requests"] >= in_all, "all are reported")
    row = since_ever(mesh, "service")["counted"]
    assert (row["requests"], row["protocol"], row["endpoints"]) == (in_all, "http1", 3)
    assert row["success_rate"] == pytest.approx((in_all - FAILED) / in_all, abs=1e-9)
    assert 0 < row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"]
    recent = next(row for row in mesh.machine.ask("stat", "-t", "5m") if row["name"] == "counted")
    assert recent["requests"] == in_all

    sidecars = {name: mesh.sidecar(name) for name in COUNTED_REPLICAS}
    by_replica = {name: one.total("request_total", direction="inbound") for name, one in sidecars.items()}
    workloads = since_ever(mesh, "workload")
    assert workloads["counted-v1"]["requests"] == by_replica["counted-v1-1"] + by_replica["counted-v1-2"]
    assert workloads["counted-v2"]["requests"] == by_replica["counted-v2-1"]
    assert sum(by_replica.values()) == in_all
    for status, classification, count in (("500", "failure", FAILED), ("200", "success", in_all - FAILED)):
        labels = {"direction": "inbound", "authority": "counted", "status_code": status}
        for metric in ("request_total", "response_total", "response_latency_ms_count"):
            assert count == sum(one.total(metric, classification=classification, **labels) for one in sidecars.values())

    for proxy in ("in", "shopper"):
        mesh.until(lambda proxy=proxy: len(tap.asked("end", by=proxy)) >= SENT.total(), f"{proxy}: all are tapped")
        assert Counter((one["method"], one["path"]) for one in tap.asked("req", by=proxy)) == SENT
        for event in ("rsp", "end"):
            seen = Counter((one["method"], one["path"], one["status"]) for one in tap.asked(event, by=proxy))
            assert seen == answers, (proxy, event)
    assert len({(one["workload"], one["src"], one["id"]) for one in tap.asked("req", by="in")}) == SENT.total()
    assert Counter((one["method"], one["path"]) for one in posts.asked("end", by="in")) == {("POST", "/things"): 6}
    assert Counter(one["path"] for one in things.asked("end", by="in")) == {"/things/1": 17, "/things/2": 9}
    printed = lines.handle.stdout.read_text().splitlines()
    of_v2 = len(
        [one for one in tap.events(proxy="in", workload="counted-v2", event="end") if "probe" not in one["path"]]
    )
    assert all(" proxy=in " in line for line in printed)
    assert sum(":path=/" in line and "probe" not in line for line in printed) == of_v2
    assert [sum(line.startswith(word) for line in printed) * 3 for word in ("req", "rsp", "end")] == [len(printed)] * 3
    for one in taps:
        one.stop()
        assert one.left_out() == 0


def test_tap_holds_its_rate_and_tells_what_it_left_out(mesh: Mesh) -> None:
    """--max-rps bounds what is shown; shown and left out are together what was sent, at both ends of each request."""
    tap = Tap(mesh, "other", ["other-1"], "--to", "other", "-o", "json", "--max-rps", 3)
    assert run_plan(mesh, "buyer", "other", [["GET", "/burst", 60]]) == {("GET", "/burst", 200): 60}

    def told() -> int:
        return len(tap.events(event="end")) + tap.left_out()

    mesh.until(lambda: told() >= 120, "all are told")
    tap.stop()
    began = [event["at"] for event in tap.events(event="req")]
    assert len(began) <= 3 * (max(began) - min(began)) + 3
    assert len(tap.asked("req", by="in")) + len(tap.asked("req", by="buyer")) < 60 < tap.left_out()
    assert 120 <= told() <= 120 + 3 * tap.probes


def test_bad_file_is_not_applied(mesh: Mesh) -> None:
    """Exit 1; stderr has file, line, field and reason; the good document before the bad one is not applied either."""
    file = mesh.machine.folder / "bad.yaml"
    file.write_text(
        policy("other", timeouts={"request": 5}) + "---\n" + policy("counted", timeouts={"request": "soon"})
    )
    line = file.read_text().splitlines().index("    request: soon") + 1
    done = mesh.machine.conduit("apply", "-f", file)
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"conduit: {file}:{line}: spec.timeouts.request: "), done.err
    assert "soon" in done.err or "float" in done.err or "number" in done.err
    assert mesh.machine.ask("get", "trafficpolicies") == []
    assert send(mesh, "counted", "/probe") == 200


def test_bad_edit_keeps_the_last_good_state(mesh: Mesh) -> None:
    """A mistake in the YAML of a running mesh is told by `up` and by `get`; what runs goes on; mended, it is gone."""
    pids = [mesh.application_pid(name) for name in (*COUNTED_REPLICAS, "other-1")]
    good = mesh.file.read_text()
    mesh.write([*COUNTED, {**OTHER, "spec": {**OTHER["spec"], "replicas": "many"}}, workload("never")])
    line = next(n for n, text in enumerate(mesh.file.read_text().splitlines(), 1) if "replicas: many" in text)
    place = f"{mesh.file}:{line}: spec.replicas: "

    def refused() -> list[dict[str, Any]]:
        return [row["status"] for row in mesh.machine.ask("get", "all") if not row["status"]["accepted"]]

    mesh.until(refused, "get shows the refusal")
    mesh.until(lambda: place in mesh.log, "up tells it")
    [status] = refused()
    assert (status["kind"], status["name"], status["file"]) == ("Workload", "other", str(mesh.file))
    assert f"{line}: spec.replicas: " in status["reason"]
    assert "never" not in {row["metadata"]["name"] for row in mesh.machine.ask("get", "workloads")}
    assert [mesh.application_pid(name) for name in (*COUNTED_REPLICAS, "other-1")] == pids
    assert send(mesh, "other", "/probe") == send(mesh, "counted", "/probe") == 200
    mesh.file.write_text(good)
    mesh.until(lambda: not refused(), "it is mended")
    assert [mesh.application_pid(name) for name in (*COUNTED_REPLICAS, "other-1")] == pids


def test_second_mesh_is_refused(mesh: Mesh) -> None:
    """Told at once whose process the first is, and the first goes on."""
    second = mesh.machine.conduit("up", "-f", mesh.file)
    assert second.code == 1
    assert f"a mesh is running already (process {mesh.up.pid})" in second.err
    assert send(mesh, "other", "/probe") == 200
