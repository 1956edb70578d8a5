"""One more process in the mesh that runs on this machine already (`conduit run`).

It has a guard of its own and leaves when the mesh does. A program that serves is started again when it dies; a client
runs once, on our own stdin and stdout, and its exit status is ours.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import trio

from mesh.local import rendezvous
from mesh.local.guard import Guard
from mesh.local.log import Log, OwnLinesOnly
from mesh.local.replica import PROXY_COMMAND, Place, Replica
from mesh.model.api import RuntimeFile
from mesh.model.errors import ControlError
from mesh.model.resources import Workload

LOOK_SECONDS = 0.5


async def join(workload: Workload, directory: Path, log: Log, *, proxy_command: Sequence[str] = PROXY_COMMAND) -> int:
    """Runs it until cancelled, or, for a client, until it ends; returns its exit status.

    Raises ControlError where no mesh runs, or no longer.
    """
    here = rendezvous.joined()
    status: int | None = None
    with Guard() as guard:
        client = workload.spec.port is None
        heard = OwnLinesOnly(log) if client else log
        place = Place(here, heard, guard, tuple(proxy_command))
        name = f"{workload.metadata.name}-{os.getpid()}"  # another `conduit run` of that name may be running
        replica = Replica(name, workload, directory, place, once=client)
        async with trio.open_nursery() as nursery:

            async def leave_with_the_mesh() -> None:
                await mesh_gone(here)
                nursery.cancel_scope.cancel()

            nursery.start_soon(leave_with_the_mesh)
            status = await replica.run()
            nursery.cancel_scope.cancel()
    if status is None:
        raise ControlError("the mesh is gone (the process that ran it has ended)")
    return status if status >= 0 else 128 - status


async def mesh_gone(here: RuntimeFile) -> None:
    """Returns when the mesh has ended; another that was started since is not the one we joined."""
    folder = rendezvous.runtime_folder()
    while rendezvous.read(folder) == here:  # noqa: ASYNC110 -- a file tells no Event
        await trio.sleep(LOOK_SECONDS)
