"""conduit control: the control plane, in the foreground."""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path

import click
import trio

from mesh.control import run
from mesh.local.signals import until_signalled


@click.command(name="control")
@click.option(
    "--source",
    "sources",
    required=True,
    multiple=True,
    metavar="DIR|FILE",
    help="Folder or file of YAML to watch; may be repeated.",
)
@click.option("--listen", default="127.0.0.1:4190", show_default=True, metavar="HOST:PORT")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for what it keeps: applied resources and endpoints.  [default: ./conduit-state]",
)
def command(sources: tuple[str, ...], listen: str, state: Path | None) -> int:
    """Run the control plane in the foreground.

    The token that opens its API is read from CONDUIT_TOKEN; without it, one is made and printed to stderr.

    \b
    Examples:
      conduit control --source mesh.yaml
      CONDUIT_TOKEN=... conduit control --source policies/ --listen 127.0.0.1:4190 --state /var/lib/conduit
    """  # noqa: D301 -- click reads the \b
    if "kubernetes" in sources:
        raise click.UsageError("--source kubernetes is not in this version: give a folder or a file of YAML.")
    for source in sources:
        if not Path(source).exists():
            raise click.UsageError(f"--source {source}: there is no such folder or file.")

    token = os.environ.get("CONDUIT_TOKEN", "")
    made = not token
    token = token or secrets.token_urlsafe(32)
    folder = state or Path("conduit-state")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def work() -> int:
        async with trio.open_nursery() as nursery:
            paths = [Path(source) for source in sources]
            url = await nursery.start(partial(run.serve, sources=paths, state=folder, listen=listen, token=token))
            if made:
                click.echo(f"conduit control: {url}/?token={token}", err=True)
        return 0

    return trio.run(until_signalled, work)
