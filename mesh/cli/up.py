"""conduit up: a local mesh from YAML, until ^C."""

from __future__ import annotations

from pathlib import Path

import click
import trio

from mesh.cli.control import check_lifetime
from mesh.cli.output import Duration
from mesh.control.authority import LIFETIME
from mesh.local.log import Log, StreamLog, Troubles
from mesh.local.signals import until_signalled
from mesh.local.supervise import Mesh
from mesh.local.trust import given
from mesh.model.durations import duration_text
from mesh.model.identity import TRUST_DOMAIN

PEM = click.Path(exists=True, dir_okay=False, path_type=Path)


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
@click.option("--trust-anchors", type=PEM, metavar="FILE", help="PEM: the roots that certificates must lead to.")
@click.option("--issuer-cert", type=PEM, metavar="FILE", help="PEM: the CA certificate that signs, and its chain.")
@click.option("--issuer-key", type=PEM, metavar="FILE", help="PEM: its private key.")
@click.option("--trust-domain", default=TRUST_DOMAIN, show_default=True, help="The end of every identity.")
@click.option(
    "--certificate-lifetime",
    type=Duration(),
    default=LIFETIME,
    metavar="DURATION",
    callback=check_lifetime,
    help=f"How long a workload's certificate holds.  [default: {duration_text(LIFETIME)}]",
)
def command(
    files: tuple[Path, ...],
    verbose: bool,
    trust_anchors: Path | None,
    issuer_cert: Path | None,
    issuer_key: Path | None,
    trust_domain: str,
    certificate_lifetime: float,
) -> int:
    """Run a mesh on this machine, until ^C.

    Starts a control plane, and every Workload with a sidecar beside each replica. The files are watched: what is
    added, changed or removed in them is started, rolled or stopped. What the applications print goes to stderr,
    and what goes wrong in the mesh; -v shows all that the mesh logs.

    All that goes between workloads is mTLS. The mesh makes a root and an issuer for its certificates, for as long as
    it runs, unless files are given for both.

    \b
    Examples:
      conduit up -f mesh.yaml
      conduit stat                  (from another terminal: finds the mesh by itself)
      conduit up -f mesh.yaml --trust-anchors roots.pem --issuer-cert issuer.pem --issuer-key issuer.key
    """  # noqa: D301 -- click reads the \b
    log: Log = StreamLog() if verbose else Troubles(StreamLog())
    trust = given(trust_anchors, issuer_cert, issuer_key)
    mesh = Mesh(files, log, trust=trust, trust_domain=trust_domain, lifetime=certificate_lifetime)

    async def work() -> int:
        async with trio.open_nursery() as nursery:
            await nursery.start(mesh.run)
            log.say(f"the control plane answers at {mesh.plane.page}; `conduit stat` and `conduit tap` find it")
        return 0

    return trio.run(until_signalled, work)
