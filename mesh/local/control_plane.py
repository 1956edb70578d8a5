"""The control plane of a local mesh, a child process: started, awaited, and started again on its port if it dies.

Its one port speaks TLS to proxies and commands (`url`), and plain HTTP to people of this machine (`page`).
Proxies live through its absence with what they know, so its death is told and mended, and nothing else is stopped.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

import trio

from mesh.control.issuer import TrustFiles
from mesh.local import children, probe
from mesh.local.backoff import Backoff
from mesh.local.children import Child, ChildError, first_exit, until_ready
from mesh.local.guard import Guard
from mesh.local.log import Log
from mesh.local.ports import LOOPBACK, free_port
from mesh.local.sidecar import CONDUIT
from mesh.local.trust import options

CONTROL_COMMAND = (*CONDUIT, "control")
GRACE = 3.0
FIRST_TRIES = 3  # a port may be taken from under us; a control plane that fails three times is broken
READY_PATH = "/api/v1/version"


class ControlPlane:
    """`url` and `token` are valid once `start` has returned; both stay the same from then on."""

    def __init__(
        self,
        sources: Sequence[Path],
        state: Path,
        log: Log,
        guard: Guard,
        trust: TrustFiles,
        command: Sequence[str] = CONTROL_COMMAND,
        further: Sequence[str] = (),
    ) -> None:
        """`further` are other options of `conduit control`."""
        self.sources, self.state, self.log, self.guard, self.trust = sources, state, log, guard, trust
        self.command, self.further = command, further
        self.token = secrets.token_urlsafe(32)
        self.port = free_port()
        self.pid = 0
        self.scope = trio.CancelScope()
        """From `start` on, cancelling it, and nothing else, stops the control plane: its owner decides when the last
        proxy is gone."""
        self._answered_since = math.inf

    @property
    def url(self) -> str:
        return f"https://{LOOPBACK}:{self.port}"

    @property
    def page(self) -> str:
        """The same for a browser or curl on this machine, which do not know our roots."""
        return f"http://{LOOPBACK}:{self.port}"

    async def start(self, nursery: trio.Nursery) -> None:
        """Returns when it answers; raises ChildError if it cannot be brought to. It then runs in the nursery."""
        await nursery.start(self._run)
        self.scope.shield = True  # not before: a start that is cancelled has nobody yet who would cancel the scope

    async def _run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        backoff = Backoff()
        started = False
        deaths = 0
        with self.scope:
            while True:
                self._answered_since = math.inf
                try:
                    await self._live(trio.TASK_STATUS_IGNORED if started else task_status)
                except ChildError as exc:
                    started = started or self._answered_since < math.inf
                    deaths += 1
                    if not started:
                        if deaths >= FIRST_TRIES:
                            raise
                        self.port = free_port()
                    pause = backoff.after(max(0.0, trio.current_time() - self._answered_since))
                    self.log.say(f"{exc}; starting it again in {pause:g} s (traffic goes on)")
                await trio.sleep(pause)

    async def _live(self, task_status: trio.TaskStatus[None]) -> None:
        outcome: ChildError
        async with trio.open_nursery() as listeners:
            try:
                async with self._child(listeners) as child:
                    self.pid = child.pid
                    ready = partial(probe.until_ok, self.port, READY_PATH, self.token)
                    await until_ready((child,), ready, f"answer {READY_PATH}")
                    self._answered_since = trio.current_time()
                    task_status.started()
                    await first_exit(child)
                    outcome = ChildError(f"the control plane {child.ending()}")
            except ChildError as exc:
                outcome = exc  # carried out of the nursery by hand, since it would wrap it into a group
            finally:
                self.pid = 0
        raise outcome

    def _child(self, listeners: trio.Nursery) -> AbstractAsyncContextManager[Child]:
        return children.running(
            listeners,
            self._argv(),
            name="control",
            grace=GRACE,
            environment={**os.environ, "CONDUIT_TOKEN": self.token},
            directory=Path.cwd(),
            log=self.log,
            guard=self.guard,
        )

    def _argv(self) -> list[str]:
        sources = [word for source in self.sources for word in ("--source", str(source))]
        place = ["--state", str(self.state), "--listen", f"{LOOPBACK}:{self.port}"]
        return [*self.command, *sources, *place, *options(self.trust), *self.further]
