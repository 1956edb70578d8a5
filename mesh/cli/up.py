"""conduit up: a local mesh from YAML, until ^C."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from mesh.local.log import Log, StreamLog, Troubles
from mesh.local.signals import until_signalled
from mesh.local.supervise import Mesh


@click.command(name="up")
@click.option(
    "-f",
    "--file",
    "files",
    required=True,
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="File or folder of YAML with Workloads; may be repeated.",
)
@click.option("-v", "--verbose", is_flag=True, help="Also what the control plane and the sidecars log, as JSON.")
def command(files: tuple[Path, ...], verbose: bool) -> int:
    """Run a mesh on this machine, until ^C.

    Starts a control plane, and every Workload with a sidecar beside each replica. The files are watched: what is
    added, changed or removed in them is started, rolled or stopped. What the applications print goes to stderr,
    and what goes wrong in the mesh; -v shows all that the mesh logs.

    \b
    Examples:
      conduit up -f mesh.yaml
      conduit stat                  (from another terminal: finds the mesh by itself)
    """  # noqa: D301 -- click reads the \b
    log: Log = StreamLog() if verbose else Troubles(StreamLog())
    mesh = Mesh(files, log)

    async def work() -> int:
        async with trio.open_nursery() as nursery:
            await nursery.start(mesh.run)
            log.say(f"the control plane answers at {mesh.plane.url}; `conduit stat` and `conduit tap` find it")
        return 0

    return trio.run(until_signalled, work)
