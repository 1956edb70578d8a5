"""`conduit demo` with JSON: what scripts read of it, and that nothing is left of it."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.mesh_machine import descendants, gone, machine_in
from tests.end_to_end.scale import FULL
from tests.end_to_end.sidecar import wait_until

SECONDS, LEAST_REQUESTS = (20, 1_000) if FULL else (3, 30)
PROTOCOLS = {"catalog": "http2", "votes": "grpc", "web": "http1", "words": "http1"}
READY_SECONDS = 90.0


@pytest.mark.timeout(180)
def test_demo_sums_up_and_leaves_nothing(tmp_path: Path) -> None:
    """Exit 0; one JSON object, with every service in it, is all of stdout; the rest is on stderr; no process stays."""
    with machine_in(tmp_path) as machine:
        demo = machine.start("demo", "--duration", SECONDS, "--headless", "-o", "json")
        wait_until(lambda: "ready. Try" in demo.output() or demo.returncode is not None, "it is ready", READY_SECONDS)
        pids = descendants(demo.pid)
        assert len(pids) > 2 * len(PROTOCOLS), demo.output()
        assert demo.wait(SECONDS + 60) == 0, demo.output()
        wait_until(lambda: not machine.processes() and all(map(gone, pids)), "no process is left")

        summary = json.loads(demo.stdout.read_text())
        assert {service["name"]: service["protocol"] for service in summary["services"]} == PROTOCOLS
        assert summary["requests"] > LEAST_REQUESTS
        assert summary["requests"] == sum(service["requests"] for service in summary["services"])
        assert summary["rps"] > LEAST_REQUESTS / SECONDS
        for one in (summary, *summary["services"]):
            assert one["requests"] > 0
            assert 0.5 < one["success_rate"] <= 1.0
            assert 0 < one["p50_ms"] <= one["p99_ms"]
        assert summary["success_rate"] < 1.0, "one route of the demo fails on purpose"
        assert "Traceback" not in demo.stderr.read_text()
