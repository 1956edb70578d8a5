"""One `conduit proxy` process as the tests see it: its ports, its admin port, its memory."""

import http.client
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Handle

SECONDS = 30.0
POLL_SECONDS = 0.02
QUIET_SECONDS = 0.4
"""A proxy that has used no CPU for so long has nothing to do (a tick of its clock is 0.01 s)."""

PATIENT = {"connect_timeout": 10.0, "pending_timeout": 20.0}
"""Limits of every proxy that is not told otherwise: where the kernel drops a SYN, the next one comes after a second."""

Config = dict[str, Any]


class StillWaiting(AssertionError):
    """What was waited for did not come in time; the message says what was seen last."""


def wait_until(condition: Callable[[], object], what: str, seconds: float = SECONDS) -> None:
    """Return as soon as the condition holds; StillWaiting, with `what` and the last value, after the deadline."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise StillWaiting(f"{what}: not within {seconds:g} s (last: {value!r})")
        time.sleep(POLL_SECONDS)


@dataclass
class Sidecar:
    """A running proxy. `ports` are its outbound listeners by service, `forward` the one without a service."""

    handle: Handle
    admin: int
    forward: int
    ports: dict[str, int]
    inbound: list[int] = field(default_factory=list)

    def url(self, service: str, path: str = "/") -> str:
        return f"http://127.0.0.1:{self.ports[service]}{path}"

    @property
    def proxy_url(self) -> str:
        """For -x and HTTP_PROXY."""
        return f"http://127.0.0.1:{self.forward}"

    def ask(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body of an answer from the admin port."""
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=SECONDS)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def tasks(self) -> list[str]:
        """The lines of the supervision tree, but for those of the admin port, where asking is itself a task."""
        lines = self.ask("/tasks")[1].splitlines()
        kept: list[str] = []
        hidden: int | None = None
        for line in lines:
            depth = len(line) - len(line.lstrip())
            if hidden is not None and depth > hidden:
                continue
            hidden = depth if line.strip() == "admin" else None
            kept.append(line)
        return kept

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of a metric whose labels are as given; 0 where there are none."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.ask("/metrics")[1])
            for sample in family.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        )

    def memory(self, kind: str = "VmRSS") -> int:
        """Resident bytes now, or (`VmHWM`) at most since `forget_peak`."""
        for line in Path(f"/proc/{self.handle.pid}/status").read_text().splitlines():
            if line.startswith(kind + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"no {kind} of {self.handle!r}")

    def forget_peak(self) -> None:
        """Have VmHWM begin again at what is resident now (proc(5), clear_refs)."""
        Path(f"/proc/{self.handle.pid}/clear_refs").write_text("5")

    def cpu(self) -> int:
        """Clock ticks of CPU time used so far, user and system."""
        fields = Path(f"/proc/{self.handle.pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def wait_until_quiet(self) -> None:
        """Return when the proxy moves nothing any more."""
        last, since = self.cpu(), time.monotonic()

        def quiet() -> bool:
            nonlocal last, since
            now = self.cpu()
            if now != last:
                last, since = now, time.monotonic()
            return time.monotonic() - since >= QUIET_SECONDS

        wait_until(quiet, "the proxy is quiet")


@dataclass
class Starter:
    """Call it to start proxies: `run` starts a process, `free_port` and `folder` give it what it needs."""

    run: Callable[..., Handle]
    free_port: Callable[[], int]
    folder: Path
    conduit: Path
    started: int = 0

    def __call__(
        self,
        services: Mapping[str, Config] | None = None,
        *,
        inbound: Sequence[Config] = (),
        resources: Sequence[Config] = (),
        limits: Config | None = None,
        codec: str = "ngh2",
        **more: object,
    ) -> Sidecar:
        """A proxy that is ready, with a listener for each service and one without. `inbound` entries lack `listen`."""
        services = services or {}
        ports = {name: self.free_port() for name in services}
        admin, forward = self.free_port(), self.free_port()
        inside = [self.free_port() for _ in inbound]
        config = {
            "admin": f"127.0.0.1:{admin}",
            "outbound": [
                *({"listen": f"127.0.0.1:{port}", "service": name} for name, port in ports.items()),
                {"listen": f"127.0.0.1:{forward}"},
            ],
            "inbound": [{"listen": f"127.0.0.1:{port}", **entry} for port, entry in zip(inside, inbound, strict=True)],
            "services": dict(services),
            "resources": list(resources),
            "limits": {**PATIENT, **(limits or {})},
            "http2_codec": codec,
            **more,
        }
        self.started += 1
        path = self.folder / f"proxy-{self.started}-{os.getpid()}.yaml"
        path.write_text(yaml.safe_dump(config))
        handle = self.run([self.conduit, "proxy", "--config", path], ready_port=admin)
        return Sidecar(handle, admin, forward, ports, inside)


def service(*ports: int, protocol: str = "detect", **more: object) -> Config:
    """An entry of `services:` for back ends on these loopback ports."""
    return {"protocol": protocol, "endpoints": [f"127.0.0.1:{port}" for port in ports], **more}


def traffic_policy(name: str, **spec: object) -> Config:
    """A TrafficPolicy for the service `name`."""
    return {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": name},
        "spec": {"service": name, **spec},
    }
