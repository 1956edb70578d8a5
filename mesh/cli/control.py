"""conduit control: the control plane, in the foreground."""

from __future__ import annotations

import os
import secrets
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import click
import trio

from mesh.cli.output import Duration
from mesh.control import run
from mesh.control.access import is_loopback
from mesh.control.authority import LIFETIME, trust_files
from mesh.local.signals import until_signalled
from mesh.model.durations import duration_text
from mesh.model.errors import ConfigError
from mesh.model.identity import TRUST_DOMAIN, Identity, parse

PEM = click.Path(dir_okay=False, path_type=Path)
MIN_LIFETIME = 1.0
MAX_LIFETIME = 10 * 366 * 86_400.0


def check_domain(context: click.Context, option: click.Parameter, value: str) -> str:
    """A trust domain as certificates can carry it."""
    if parse(Identity("a", "a", value).uri) is None or parse(str(Identity("a" * 63, "a" * 63, value))) is None:
        raise click.BadParameter(f"{value!r} is no DNS name in lower case, or too long for an identity.")
    return value


def check_lifetime(context: click.Context, option: click.Parameter, value: float) -> float:
    """Something that certificates can be renewed in."""
    if not MIN_LIFETIME <= value <= MAX_LIFETIME:
        raise click.BadParameter("must be 1s to ten years.")
    return value


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
@click.option(
    "--host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Further name or address under which it is asked, besides loopback's and that of --listen; may be repeated.",
)
@click.option("--trust-anchors", type=PEM, metavar="FILE", help="PEM: all roots that are trusted now.")
@click.option("--issuer-cert", type=PEM, metavar="FILE", help="PEM: what signs, and what leads from it to a root.")
@click.option("--issuer-key", type=PEM, metavar="FILE", help="PEM: its key, without a password.")
@click.option("--trust-domain", default=TRUST_DOMAIN, show_default=True, metavar="NAME", callback=check_domain)
@click.option(
    "--certificate-lifetime",
    type=Duration(),
    default=LIFETIME,
    metavar="DURATION",
    callback=check_lifetime,
    help=f"How long a workload's certificate holds.  [default: {duration_text(LIFETIME)}]",
)
def command(
    sources: tuple[str, ...],
    listen: str,
    state: Path | None,
    hosts: tuple[str, ...],
    trust_anchors: Path | None,
    issuer_cert: Path | None,
    issuer_key: Path | None,
    trust_domain: str,
    certificate_lifetime: float,
) -> int:
    """Run the control plane in the foreground.

    The token that opens its API is read from CONDUIT_TOKEN; without it, one is made and printed to stderr.

    With --trust-anchors, --issuer-cert and --issuer-key, workloads get certificates and its port speaks TLS; plain HTTP
    stays for this machine. The files are watched: replace them to rotate the issuer or the roots.

    \b
    Examples:
      conduit control --source mesh.yaml
      conduit control --source mesh.yaml --trust-anchors ca.crt --issuer-cert tls.crt --issuer-key tls.key
      CONDUIT_TOKEN=... conduit control --source policies/ --listen 127.0.0.1:4190 --state /var/lib/conduit
    """  # noqa: D301 -- click reads the \b
    if "kubernetes" in sources:
        raise click.UsageError("--source kubernetes is not in this version: give a folder or a file of YAML.")
    for source in sources:
        if not Path(source).exists():
            raise click.UsageError(f"--source {source}: there is no such folder or file.")

    try:
        trust = trust_files(trust_anchors, issuer_cert, issuer_key)
    except ConfigError as error:
        raise click.UsageError(f"{error}.") from error

    token = os.environ.get("CONDUIT_TOKEN", "")
    made = not token
    token = token or secrets.token_urlsafe(32)
    folder = state or Path("conduit-state")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    async def work() -> int:
        async with trio.open_nursery() as nursery:
            paths = [Path(source) for source in sources]
            serve = partial(
                run.serve,
                sources=paths,
                state=folder,
                listen=listen,
                token=token,
                hosts=hosts,
                trust=trust,
                trust_domain=trust_domain,
                lifetime=certificate_lifetime,
            )
            url = await nursery.start(serve)
            if made:
                page = url.replace("https:", "http:", 1) if is_loopback(urlsplit(url).hostname or "") else url
                click.echo(f"conduit control: {page}/?token={token}", err=True)  # no browser knows our roots
        return 0

    return trio.run(until_signalled, work)
