"""A whole mesh on this machine, from YAML: the control plane, and every workload's replicas with their sidecars.

    mesh                      what it trusts is made before anything is started: trust.py
    ├─ control plane          a child process; outlives the replicas, so that what they say last is heard
    └─ watch                  the YAML and what was applied, for workloads that came, went or changed
       └─ group web           one per workload
          └─ web-1            one per replica: application and sidecar

What was applied over the control plane's API goes before the same workload in the YAML, here as there; when it is
deleted, the YAML has its word again.

However this ends, no process is left: each owner stops its children, and the guard those of a supervisor that was
killed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from mesh.control.authority import LIFETIME
from mesh.control.files import Seen, look
from mesh.control.issuer import TrustFiles
from mesh.local import rendezvous
from mesh.local import trust as trusts
from mesh.local.control_plane import CONTROL_COMMAND, ControlPlane
from mesh.local.guard import Guard
from mesh.local.log import Log
from mesh.local.replica import PROXY_COMMAND, Place, Replica
from mesh.local.workloads import Group, Wanted, WorkloadKey, read_applied, read_workloads
from mesh.model.api import RuntimeFile
from mesh.model.durations import duration_text
from mesh.model.errors import ConduitError, ConfigError
from mesh.model.identity import TRUST_DOMAIN

WATCH_SECONDS = 0.3
STATE_PREFIX = "state-"
APPLIED = "applied"
"""The folder in the state folder that the control plane keeps there."""


class Mesh:
    """One per user and machine. `plane` and `state` are there once `run` has called started()."""

    plane: ControlPlane
    state: Path

    def __init__(
        self,
        sources: Sequence[Path],
        log: Log,
        *,
        control_command: Sequence[str] = CONTROL_COMMAND,
        proxy_command: Sequence[str] = PROXY_COMMAND,
        environment: Mapping[str, Mapping[str, str]] = {},
        trust: TrustFiles | None = None,
        trust_domain: str = TRUST_DOMAIN,
        lifetime: float = LIFETIME,
    ) -> None:
        """`environment`: variables by workload's name, over what the YAML says. Without `trust`, it is made. `lifetime`
        of certificates is in seconds."""
        self.sources = [source.resolve() for source in sources]
        self.log = log
        self.control_command, self.proxy_command = control_command, proxy_command
        self.environment = environment
        self.trust, self.trust_domain, self.lifetime = trust, trust_domain, lifetime
        self.groups: dict[WorkloadKey, Group] = {}
        self._written: dict[WorkloadKey, Wanted] = {}
        self._applied: dict[WorkloadKey, Wanted] = {}

    def replicas(self) -> list[Replica]:
        """Those that run now, in no particular order."""
        return [member.replica for group in self.groups.values() for member in group.members]

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Runs until cancelled. started() is called when the control plane answers and replicas are being started.

        Raises ConfigError where the YAML is wrong at the start, ConduitError where a mesh runs already.
        """
        read_workloads(self.sources)  # before anything is started, so that a mistake is all that is told
        folder = rendezvous.runtime_folder()
        with rendezvous.lock(folder):
            remove_stale(folder)
            self.state = Path(tempfile.mkdtemp(prefix=STATE_PREFIX, dir=folder))
            try:
                with Guard() as guard:
                    await self._run(folder, guard, task_status)
            finally:
                shutil.rmtree(self.state, ignore_errors=True)

    async def _run(self, folder: Path, guard: Guard, task_status: trio.TaskStatus[None]) -> None:
        (self.state / "endpoints").mkdir(mode=0o700)
        failure: ConduitError | None = None
        files = self.trust or trusts.make(self.state)
        further = ("--trust-domain", self.trust_domain, "--certificate-lifetime", duration_text(self.lifetime))
        self.plane = ControlPlane(self.sources, self.state, self.log, guard, files, self.control_command, further)
        async with trio.open_nursery() as planes:
            try:
                await self.plane.start(planes)
                here = RuntimeFile(
                    control=self.plane.url,
                    token=self.plane.token,
                    state=str(self.state),
                    pid=os.getpid(),
                    anchors=str(self.plane.trust.anchors),
                    trust_domain=self.trust_domain,
                )
                with rendezvous.announce(folder, here):
                    await self._watch(Place(here, self.log, guard, tuple(self.proxy_command)), task_status)
            except ConduitError as exc:
                failure = exc  # carried out of the nursery by hand, since it would wrap it into a group
            finally:
                self.plane.scope.cancel()
        if failure is not None:
            raise failure

    async def _watch(self, place: Place, task_status: trio.TaskStatus[None]) -> None:
        """Starts what is wanted and follows its changes; a bad file is told, and what runs goes on."""
        watched = [*self.sources, self.state / APPLIED]
        before: dict[Path, Seen] = {}
        async with trio.open_nursery() as nursery:
            started = False
            while True:
                found = {path: seen for source in watched for path, seen in look(source).items()}
                if found != before:
                    before = found
                    self._converge(nursery, place)
                if not started:
                    task_status.started()
                    started = True
                await trio.sleep(WATCH_SECONDS)

    def _converge(self, nursery: trio.Nursery, place: Place) -> None:
        # Each by itself: a mistake in the YAML does not keep what is applied from running, nor the other way round.
        try:
            self._written = read_workloads(self.sources, self.environment)
        except ConfigError as exc:
            self.log.say(f"{exc} (what runs goes on as it was)")
        try:
            self._applied = read_applied(self.state / APPLIED, self.environment)
        except ConfigError as exc:
            self.log.say(f"{exc} (what runs goes on as it was)")
        wanted = self._written | self._applied
        for key in wanted.keys() | self.groups.keys():
            group = self.groups.get(key)
            if group is not None:
                group.want(wanted.get(key))
            else:
                group = self.groups[key] = Group(wanted[key], place)
                nursery.start_soon(self._run_group, key, group, name=f"group {key.name}")

    async def _run_group(self, key: WorkloadKey, group: Group) -> None:
        while group.wanted is not None:  # wanted again while its last replica was going
            await group.run()
        del self.groups[key]


def remove_stale(folder: Path) -> None:
    """Removes what killed meshes left; the caller holds the lock, so none of it is in use."""
    (folder / rendezvous.FILE_NAME).unlink(missing_ok=True)
    for left in folder.glob(f"{STATE_PREFIX}*"):
        shutil.rmtree(left, ignore_errors=True)
