"""conduit demo: the polls site of examples/ in a mesh, its traffic watched until the time is up.

What is shown comes from the control plane's API, as it would for anyone: `stat` over the last seconds while it runs,
and since the beginning at the end.
"""

from __future__ import annotations

import ast
import importlib.util
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import httpx
import msgspec
import trio

import mesh
from mesh.local.log import FolderLog, Log
from mesh.local.rendezvous import client_context, make_folder, runtime_folder
from mesh.local.supervise import Mesh
from mesh.local.workloads import read_workloads
from mesh.model.api import Stat, StatRow
from mesh.model.errors import ConduitError

NAMESPACE = "demo"
ENTRY = "web"
"""The service that visitors ask; its latencies are what they wait."""
LOAD = "load"
READY_SECONDS = 120.0
DEATHS = 3  # of one replica before it was ever ready: it will not be
WINDOW_SECONDS = 10
DYNAMIC = {"protos_and_services": "grpc_tools"}
"""What a program needs without importing it, by the call that needs it."""
TAIL_BYTES = 2000


class ServiceSummary(msgspec.Struct, frozen=True):
    """One service since the demo began."""

    name: str
    requests: int
    success_rate: float | None
    p50_ms: float | None
    p99_ms: float | None
    protocol: str


class Summary(msgspec.Struct, frozen=True):
    """The whole demo: requests of all services together, latencies as the visitors of `entry` had them."""

    requests: int
    success_rate: float | None
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    duration_s: float
    entry: str
    services: list[ServiceSummary]


Show = Callable[[Sequence[StatRow], float], None]
"""Called about once a second with the rows of the last seconds and the seconds since the traffic began."""
Screen = Callable[[], AbstractContextManager[Show]]
"""Opened when the traffic flows, so that what is told before stays above it."""


def find_example() -> Path:
    """The site's mesh.yaml: beside this module in an installed package, at the top of a checkout."""
    places = [Path(__file__).parent / "examples", Path(mesh.__path__[0]).parent / "examples"]
    for place in places:
        if (found := place / "polls" / "mesh.yaml").is_file():
            return found
    raise ConduitError(f"the demo's examples are not installed (looked in {', '.join(map(str, places))})")


def missing_modules(folder: Path) -> list[str]:
    """Top-level modules that the programs in the folder import and that are not installed, sorted."""
    wanted: set[str] = set()
    ours = {path.stem for path in folder.glob("*.py")}
    for path in folder.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                wanted |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                wanted.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Attribute) and node.attr in DYNAMIC:
                wanted.add(DYNAMIC[node.attr])
    return sorted(name for name in wanted - ours - sys.stdlib_module_names if importlib.util.find_spec(name) is None)


class Demo:
    """One run of the demo. `conduit` is how the user calls us, for the commands to try."""

    def __init__(self, log: Log, screen: Screen, *, conduit: str = "conduit", rps: float | None = None) -> None:
        self.log, self.screen, self.conduit = log, screen, conduit
        self.example = find_example()
        if missing := missing_modules(self.example.parent):
            raise ConduitError(
                f"the demo's programs need {', '.join(missing)}: pip install 'conduit-mesh[demo]'"
                f" (for {sys.executable})"
            )
        environment: dict[str, Mapping[str, str]] = {} if rps is None else {LOAD: {"RPS": f"{rps:g}"}}
        workloads = [wanted.workload for wanted in read_workloads([self.example]).values()]
        self.services = sorted({w.spec.service or w.metadata.name for w in workloads if w.spec.port is not None})
        self.replicas = sum(workload.spec.replicas for workload in workloads)
        make_folder(runtime_folder())
        self.words = FolderLog(runtime_folder() / "demo-logs", log)
        self.mesh = Mesh([self.example], self.words, environment=environment)

    async def run(self, duration: float | None) -> Summary | None:
        """Runs for `duration` seconds of traffic, or until cancelled; returns the summary of the former.

        Raises ConduitError where the demo does not become ready, or a service saw no request.
        """
        summary: Summary | None = None
        failure: ConduitError | None = None
        async with trio.open_nursery() as nursery:
            try:
                self.log.say(f"starting {self.replicas} programs, each with a sidecar; logs: {self.words.folder}")
                await nursery.start(self.mesh.run)
                with trio.move_on_after(READY_SECONDS) as patience:
                    before = await self._until_flowing()
                if patience.cancelled_caught:
                    raise ConduitError(f"the demo was not ready within {READY_SECONDS:g} s: {self._unready()}")
                began = trio.current_time()
                self._tell_what_to_try()
                with self.screen() as show, trio.move_on_after(math.inf if duration is None else duration):
                    while True:
                        await trio.sleep(1)
                        show(await self._rows(WINDOW_SECONDS), trio.current_time() - began)
                summary = self._sum_up(before, await self._rows(0), trio.current_time() - began)
            except ConduitError as exc:
                failure = exc  # carried out of the nursery by hand, since it would wrap it into a group
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return summary

    async def _until_flowing(self) -> list[StatRow]:
        """Waits until every replica serves and every service has been asked; returns the rows since the beginning."""
        while True:
            replicas = self.mesh.replicas()
            for replica in replicas:
                if replica.deaths >= DEATHS and not replica.ready.is_set():
                    raise ConduitError(f"{replica.last_death}\n{self._last_words(replica.name)}".rstrip())
            if len(replicas) >= self.replicas and all(replica.ready.is_set() for replica in replicas):
                rows = await self._rows(0)
                asked = {row.name for row in rows if row.requests}
                if asked >= set(self.services):
                    return rows
            await trio.sleep(0.1)

    def _last_words(self, name: str) -> str:
        try:
            return (self.words.folder / f"{name}.log").read_text()[-TAIL_BYTES:]
        except FileNotFoundError:
            return ""

    def _unready(self) -> str:
        waiting = [repr(replica) for replica in self.mesh.replicas() if not replica.ready.is_set()]
        return ", ".join(waiting) or "all programs run, but no requests flow"

    async def _rows(self, window: float) -> list[StatRow]:
        """The demo's services; none while the control plane is away."""
        plane = self.mesh.plane
        try:
            # A client for each question: what vouches for the control plane may have been replaced since the last.
            context = client_context(str(plane.trust.anchors))
            async with httpx.AsyncClient(verify=context, trust_env=False, timeout=5.0) as client:
                answer = await client.get(
                    f"{plane.url}/api/v1/stat",
                    params={"kind": "service", "window": f"{window:g}"},
                    headers={"Authorization": f"Bearer {plane.token}"},
                )
            answer.raise_for_status()
        except httpx.TransportError:
            return []
        except httpx.HTTPStatusError as exc:
            raise ConduitError(f"the control plane answered {exc.response.status_code} to {exc.request.url}") from exc
        rows = msgspec.json.decode(answer.content, type=Stat).rows
        return [row for row in rows if row.namespace == NAMESPACE and row.name in self.services]

    def _tell_what_to_try(self) -> None:
        self.log.say("ready. Try, in another terminal:")
        self.log.say(f"  {self.conduit} stat --watch")
        self.log.say(f"  {self.conduit} tap --to words --path /receipt")
        self.log.say(f"  {self.conduit} edges -n {NAMESPACE}")
        self.log.say(f"  {self.conduit} apply -f {self.example.parent / 'try' / 'retries.yaml'}")
        self.log.say(f"  {self.conduit} fault add votes -n {NAMESPACE} --delay 200ms --percent 50 --for 1m")
        self.log.say(f"  {self.conduit} run me -n {NAMESPACE} -- curl -s http://{ENTRY}/")

    def _sum_up(self, before: Sequence[StatRow], rows: Sequence[StatRow], seconds: float) -> Summary:
        if unseen := set(self.services) - {row.name for row in rows if row.requests}:
            raise ConduitError(f"no request to {', '.join(sorted(unseen))} was seen")
        return summary_of(before, rows, seconds)


def digits(milliseconds: float | None) -> float | None:
    """To a microsecond; the buckets that it comes from are coarser."""
    return None if milliseconds is None else round(milliseconds, 3)


def summary_of(before: Sequence[StatRow], rows: Sequence[StatRow], seconds: float) -> Summary:
    """Adds up rows since the beginning; `before` are those of `seconds` ago, for the rate.   (pure)"""
    requests = sum(row.requests for row in rows)
    good = sum(row.requests * (row.success_rate or 0.0) for row in rows)
    entry = next((row for row in rows if row.name == ENTRY), None)
    return Summary(
        requests=requests,
        success_rate=round(good / requests, 5) if requests else None,
        rps=round((requests - sum(row.requests for row in before)) / seconds, 2) if seconds > 0 else 0.0,
        p50_ms=digits(entry.p50_ms) if entry else None,
        p99_ms=digits(entry.p99_ms) if entry else None,
        duration_s=round(seconds, 3),
        entry=ENTRY,
        services=[
            ServiceSummary(
                row.name, row.requests, row.success_rate, digits(row.p50_ms), digits(row.p99_ms), row.protocol
            )
            for row in sorted(rows, key=lambda row: row.name)
        ],
    )
