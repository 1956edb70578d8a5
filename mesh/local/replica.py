"""One replica: an application and its sidecar, which live and die together.

    state       what is there                            what leads on
    starting    sidecar until it is ready, application   the application's port accepts -> serving
    serving     both, and the endpoint file              either one dies -> resting
    resting     nothing                                  the backoff is over -> starting
    stopped     nothing                                  cancelled, or a client that runs once has ended

A sidecar is ready when it has a certificate: until then it could neither be called nor call. The endpoint appears last
and goes first, so that nobody is sent here who could not be served. Then the sidecar drains,
and only then is an application that serves told to go: what it has in hand it finishes. Ports are chosen anew for
each life: a port that somebody took in the meantime costs one life, and the next one has another.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import msgspec
import trio

from mesh.local import children, probe, sidecar
from mesh.local.atomic import write_private
from mesh.local.backoff import Backoff
from mesh.local.children import Child, ChildError, first_exit, until_ready
from mesh.local.guard import Guard
from mesh.local.log import Log
from mesh.local.ports import free_port, is_free
from mesh.local.sidecar import Ports
from mesh.model.api import RuntimeFile
from mesh.model.resources import Workload

APPLICATION_GRACE = 5.0
SIDECAR_GRACE = sidecar.DRAIN_SECONDS + 2.0
PROXY_COMMAND = (*sidecar.CONDUIT, "proxy", "--config")


class Place(msgspec.Struct, frozen=True):
    """The mesh that replicas join, and how."""

    here: RuntimeFile
    """Its control plane, and a state folder with `endpoints/` and `replicas/`."""
    log: Log
    guard: Guard
    proxy_command: Sequence[str] = PROXY_COMMAND
    """argv of a sidecar but for the path of its proxy.yaml."""

    @property
    def state(self) -> Path:
        return Path(self.here.state)


class Replica:
    """Runs until it is cancelled. `ready` is set when its application first answered (a client: was started)."""

    def __init__(self, name: str, workload: Workload, directory: Path, place: Place, *, once: bool = False) -> None:
        self.name, self.workload, self.directory, self.place = name, workload, directory, place
        self.once = once
        self.state = "stopped"
        self.ready = trio.Event()
        self.deaths = 0
        self.last_death = ""
        self.ports = Ports(0, 0)
        self.pids: tuple[int, ...] = ()
        self._served_since = math.inf
        self._endpoint = place.state / "endpoints" / f"{workload.metadata.namespace}.{name}.yaml"

    def __repr__(self) -> str:
        return f"<Replica {self.name} {self.state} deaths={self.deaths}>"

    async def run(self) -> int:
        """Lives again and again; returns only where it runs `once`: the exit status of the application."""
        backoff = Backoff()
        try:
            while True:
                self._served_since = math.inf
                try:
                    return await self._live()
                except ChildError as exc:
                    self.deaths += 1
                    self.last_death = str(exc)
                pause = backoff.after(max(0.0, trio.current_time() - self._served_since))
                self.state = "resting"
                self.place.log.say(f"{self.last_death}; starting {self.name} again in {pause:g} s")
                await trio.sleep(pause)
        finally:
            self.state = "stopped"

    async def _live(self) -> int:
        """One life. Raises ChildError for whatever ended it, when both processes are gone."""
        self.state = "starting"
        self.ports = self._choose_ports()
        outcome: ChildError | int
        async with trio.open_nursery() as listeners:
            try:
                async with self._sidecar(listeners) as proxy:
                    ready = partial(probe.until_ok, self.ports.admin, "/ready")
                    await until_ready((proxy,), ready, "answer /ready with 200")
                    async with self._application(listeners) as application:
                        outcome = await self._serve(application, proxy)
            except ChildError as exc:
                outcome = exc  # carried out of the nursery by hand, since it would wrap it into a group
            except OSError as exc:
                outcome = ChildError(f"{self.name}: {exc.filename}: {exc.strerror}")
        if isinstance(outcome, ChildError):
            raise outcome
        return outcome

    async def _serve(self, application: Child, proxy: Child) -> int:
        """From the application's start to the end of either; the endpoint is gone when this returns or raises."""
        ports = self.ports
        self.pids = (proxy.pid, application.pid)
        try:
            if ports.application:
                ready = partial(probe.until_accepts, ports.application)
                await until_ready((application, proxy), ready, f"listen on port {ports.application}")
                told = sidecar.endpoint_yaml(self.workload, self.name, ports, self.place.here, os.getpid())
                write_private(self._endpoint, told)
            self.state = "serving"
            self._served_since = trio.current_time()
            if ports.application and not self.ready.is_set():
                service = sidecar.service_of(self.workload)
                self.place.log.say(f"{self.name} serves {service} on 127.0.0.1:{ports.inbound}")
            self.ready.set()
            died = await first_exit(application, proxy)
            if self.once and died is application and application.process.returncode is not None:
                return application.process.returncode
            raise ChildError(f"{died.name} {died.ending()}")
        finally:
            self.state = "stopping"
            self._endpoint.unlink(missing_ok=True)
            self.pids = ()
            if ports.application and application.process.returncode is None:
                await proxy.stop(SIDECAR_GRACE)  # cannot be cancelled

    def _application(self, listeners: trio.Nursery) -> AbstractAsyncContextManager[Child]:
        return children.running(
            listeners,
            sidecar.command(self.workload, self.ports),
            name=self.name,
            grace=APPLICATION_GRACE,
            environment=sidecar.environment(self.workload, self.ports, os.environ),
            directory=self.directory / self.workload.spec.directory,
            log=self.place.log,
            guard=self.place.guard,
            capture=not self.once,
        )

    def _sidecar(self, listeners: trio.Nursery) -> AbstractAsyncContextManager[Child]:
        folder = self.place.state / "replicas" / self.name
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        config = folder / "proxy.yaml"
        write_private(config, sidecar.proxy_yaml(self.workload, self.ports, self.place.here))
        return children.running(
            listeners,
            [*self.place.proxy_command, str(config)],
            name=f"{self.name}/proxy",
            grace=SIDECAR_GRACE,
            environment={key: value for key, value in os.environ.items() if key not in sidecar.PRIVATE},
            directory=folder,
            log=self.place.log,
            guard=self.place.guard,
        )

    def _choose_ports(self) -> Ports:
        wanted = self.workload.spec.port
        if wanted is None:
            return Ports(free_port(), free_port())
        if isinstance(wanted, int) and not is_free(wanted):
            raise ChildError(f"{self.name}: port {wanted} is in use by another program")
        application = wanted if isinstance(wanted, int) else free_port()
        return Ports(free_port(), free_port(), free_port(), application)
