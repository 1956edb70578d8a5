"""conduit get: the resources in force (and those refused), and the proxies that are connected."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import Column, attribute, output_option, plain, render
from mesh.model.api import ProxyInfo, ResourceView
from mesh.model.errors import ControlError
from mesh.model.resources import KINDS

PROXIES = "proxies"
SHORT = {"Workload": ("wl",), "Endpoint": ("ep",), "TrafficPolicy": ("tp",)}


def names() -> dict[str, str]:
    """Every way to write a kind, in lower case, and the kind it means."""
    known = {"proxy": PROXIES, "proxies": PROXIES, "all": ""}
    for kind in KINDS:
        lower = kind.lower()
        plural = f"{lower[:-1]}ies" if lower.endswith("y") else f"{lower}s"
        known |= dict.fromkeys((lower, plural, *SHORT.get(kind, ())), kind)
    return known


def spec(field: str) -> Callable[[object], str]:
    """A cell that shows one field of the resource's spec, also where it is the default and was left out."""

    def cell(row: object) -> str:
        assert isinstance(row, ResourceView)
        known = KINDS.get(row.kind)
        if known is None or not row.spec:
            return plain(row.spec.get(field))
        resource = msgspec.convert({"metadata": row.metadata, "spec": row.spec}, known)
        default = row.metadata.name if field == "service" else None
        return plain(getattr(resource.spec, field) or default)

    return cell


def metadata(field: str) -> Callable[[object], str]:
    """A cell that shows the resource's name or namespace."""
    return lambda row: plain(getattr(row.metadata, field)) if isinstance(row, ResourceView) else ""


def state(row: object) -> str:
    """Whether it is in force, and why not."""
    assert isinstance(row, ResourceView)
    return "Accepted" if row.status.accepted else plain(f"Refused: {row.status.reason}")


def file(row: object) -> str:
    """The file it is from."""
    assert isinstance(row, ResourceView)
    return plain(row.status.file)


SPECIFIC = {
    "Workload": ("service", "version", "port", "protocol", "replicas"),
    "Endpoint": ("service", "workload", "address", "version", "protocol"),
    "TrafficPolicy": ("service", "protocol"),
}
PROXY_COLUMNS = (
    Column("NAMESPACE", attribute("namespace")),
    Column("WORKLOAD", attribute("workload")),
    Column("PROXY", attribute("proxy")),
    Column("ADMIN", attribute("admin")),
    Column("SUBSCRIPTIONS", lambda row: plain(",".join(getattr(row, "subscriptions", ())))),
    Column("NACKS", lambda row: str(len(getattr(row, "nacks", {}))), right=True),
    Column("VERSION", attribute("version"), wide=True),
    Column("ACKNOWLEDGED", attribute("acknowledged", str), wide=True, right=True),
)


def columns(kind: str) -> list[Column]:
    """Those of one kind; of all kinds together where it is empty."""
    head = [] if kind else [Column("KIND", attribute("kind"))]
    own = [Column(field.upper(), spec(field)) for field in SPECIFIC.get(kind, ())]
    named = [Column("NAMESPACE", metadata("namespace")), Column("NAME", metadata("name"))]
    return [*head, *named, *own, Column("STATUS", state), Column("FILE", file, wide=True)]


@click.command(name="get")
@click.argument("kind", type=click.Choice(sorted(names()), case_sensitive=False), metavar="KIND")
@click.argument("name", required=False)
@click.option("-n", "--namespace", help="Only in this namespace.")
@output_option
@control_options
def command(
    kind: str, name: str | None, namespace: str | None, output: str, control: str | None, token: str | None
) -> int:
    """Show resources: workloads, endpoints, trafficpolicies, all, or the connected proxies.

    \b
    Examples:
      conduit get workloads
      conduit get endpoints -n demo -o wide
      conduit get trafficpolicy words -o yaml
      conduit get proxies
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    wanted = names()[kind.lower()]
    rows: Sequence[object]
    if wanted == PROXIES:
        proxies = msgspec.json.decode(api.ask("GET", "/api/v1/proxies"), type=list[ProxyInfo])
        rows = [row for row in proxies if name in (None, row.workload) and namespace in (None, row.namespace)]
    else:
        answer = api.ask("GET", "/api/v1/resources", params={"kind": wanted} if wanted else None)
        views = msgspec.json.decode(answer, type=list[ResourceView])
        rows = [
            row for row in views if name in (None, row.metadata.name) and namespace in (None, row.metadata.namespace)
        ]
    if name is not None and not rows:
        raise ControlError(f"there is no {wanted or 'resource'} {name}" + (f" in {namespace}" if namespace else ""))
    if not rows and output in ("table", "wide"):
        click.echo("nothing found", err=True)
        return 0
    click.echo(render(rows, rows, PROXY_COLUMNS if wanted == PROXIES else columns(wanted), output), nl=False)
    return 0
