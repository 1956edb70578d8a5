"""conduit identity: the certificates of workloads, as their proxies show them now."""

from __future__ import annotations

import datetime
import time
from collections.abc import Sequence

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import NONE, Column, attribute, output_option, plain, printable, render
from mesh.local.certificates import Look, Shown, look
from mesh.local.checks import lasts
from mesh.model.api import CertificateInfo, IdentityInfo, ProxyIdentityInfo, ProxyInfo
from mesh.model.errors import ControlError


def ending(value: object) -> str:
    """When a certificate ends, from now."""
    assert isinstance(value, float | int)
    return lasts(value - time.time()) if value else NONE


def moment(seconds: float) -> str:
    """A point of time in UTC."""
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def verified(row: object) -> str:
    """Whether its certificate is what it should be."""
    assert isinstance(row, Shown)
    if row.verified is None:
        return plain(row.problem)
    return "yes" if row.verified else f"no: {printable(row.problem)}"


def issuer(row: object) -> str:
    """Who signed it."""
    assert isinstance(row, Shown)
    return plain(row.chain[0].issuer if row.chain else "")


COLUMNS = (
    Column("WORKLOAD", attribute("workload")),
    Column("NAMESPACE", attribute("namespace")),
    Column("IDENTITY", attribute("identity")),
    Column("CERTIFICATE", attribute("not_after", ending)),
    Column("VERIFIED", verified),
    Column("ADDRESS", attribute("address"), wide=True),
    Column("ISSUER", issuer, wide=True),
    Column("TLS", attribute("tls"), wide=True),
    Column("PROXY", attribute("proxy"), wide=True),
)


@click.command(name="identity")
@click.argument("workload", required=False)
@click.option("-n", "--namespace", help="Only in this namespace.")
@output_option
@control_options
def command(workload: str | None, namespace: str | None, output: str, control: str | None, token: str | None) -> int:
    """Show the certificates of workloads, as their proxies show them now.

    Each proxy is called as others call it, and its certificate held against the roots of the mesh. With WORKLOAD (a
    name, or name.namespace) the whole chain is shown: names, issuers, validity, fingerprints. A client, which nobody
    can call, is shown with what was signed for it last.

    \b
    Examples:
      conduit identity
      conduit identity web -n demo
      conduit identity web.demo -o json | jq '.[0].chain[0].names'
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    name, home = apart(workload or "", namespace or "")
    mesh = msgspec.json.decode(api.ask("GET", "/api/v1/identity"), type=IdentityInfo)
    if not mesh.anchors:
        raise ControlError("this mesh has no identities: its control plane was given no issuer")
    proxies = msgspec.json.decode(api.ask("GET", "/api/v1/proxies"), type=list[ProxyInfo])
    listening = {proxy.proxy: proxy.inbound[0] for proxy in proxies if proxy.inbound}
    rows = [
        shown(proxy, listening.get(proxy.proxy, ""), api.ca)
        for proxy in mesh.proxies
        if name in ("", proxy.workload) and home in ("", proxy.namespace)
    ]
    if workload and not rows:
        where = f" in {namespace}" if namespace else ""
        raise ControlError(f"no proxy of a workload {workload} is connected{where}")
    if not rows and output in ("table", "wide"):
        click.echo("no proxy is connected", err=True)
        return 0
    if output == "table" and workload:
        click.echo("\n".join(line for row in rows for line in described(row)))
        return 0
    click.echo(render(rows, rows, COLUMNS, output), nl=False)
    return 0


def shown(proxy: ProxyIdentityInfo, address: str, anchors: str) -> Shown:
    """What one proxy shows at its inbound listener; where it has none, what was signed for it."""
    seen = look(address, proxy.identity, anchors) if address else Look(problem="it serves nobody")
    return Shown(
        workload=proxy.workload,
        namespace=proxy.namespace,
        proxy=proxy.proxy,
        identity=proxy.identity,
        address=address,
        verified=seen.verified,
        problem=seen.problem,
        tls=seen.tls,
        not_after=seen.chain[0].not_after if seen.chain else proxy.not_after,
        chain=seen.chain,
    )


def apart(workload: str, namespace: str) -> tuple[str, str]:
    """Name and namespace of `name` or `name.namespace`; what is empty is any."""
    name, _, home = workload.partition(".")
    return name, namespace or home


def described(row: Shown) -> Sequence[str]:
    """All of one proxy's chain, a line for each thing that is known."""
    lines = [f"{row.workload}.{row.namespace}   {plain(row.proxy)}", f"  identity      {row.identity}"]
    if row.address:
        lines.append(f"  address       {row.address}" + (f"   {row.tls}" if row.tls else ""))
    lines.append(f"  verified      {verified(row)}")
    if not row.chain and row.not_after:
        lines.append(f"  certificate   {ending(row.not_after)}, as it was signed")
    for number, certificate in enumerate(row.chain):
        lines += certificate_lines("certificate" if not number else "signed by", certificate)
    return [*lines, ""]


def certificate_lines(what: str, certificate: CertificateInfo) -> Sequence[str]:
    """One certificate of a chain."""
    return [
        f"  {what:<13} {plain(certificate.subject)}",
        *(f"    name        {plain(name)}" for name in certificate.names),
        f"    validity    {moment(certificate.not_before)} to {moment(certificate.not_after)}"
        f" ({ending(certificate.not_after)})",
        f"    issuer      {plain(certificate.issuer)}",
        f"    sha-256     {certificate.fingerprint}",
    ]
