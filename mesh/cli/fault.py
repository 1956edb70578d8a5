"""conduit fault: requests made to wait or to fail on purpose, for a while, and what of that is in force.

A fault is a resource like any other, put in force and taken back over the API that `apply` and `delete` use. It always
has an end: proxies lift it by themselves when it comes, also one that has lost its control plane.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click
import msgspec
import yaml

from mesh.cli.apply import line
from mesh.cli.client import Api, control_options
from mesh.cli.delete import DEFAULT_NAMESPACE, Target, delete
from mesh.cli.faultrows import COLUMNS, FaultRow, clock, effect, matching, rows_of
from mesh.cli.output import Duration, output_option, plain, render
from mesh.model.api import ResourceStatus, ResourceView, Stat
from mesh.model.documents import decode_resource, load_documents
from mesh.model.durations import duration_text
from mesh.model.errors import ConduitError, ConfigError, ControlError
from mesh.model.resources import API_VERSION, Fault

LONGEST = 7 * 24 * 3600.0
"""Seconds; what is to stay for longer belongs into a TrafficPolicy."""
SOURCE = "(conduit fault add)"


@click.group(name="fault")
def command() -> None:
    """Make requests wait or fail on purpose, for a while.

    \b
    Examples:
      conduit fault add votes --delay 200ms --percent 50
      conduit fault add votes --abort 503 --path /vote --for 30s
      conduit fault list
      conduit fault clear --all
    """  # noqa: D301 -- click reads the \b


@command.command(name="add")
@click.argument("service")
@click.option("--name", help="What `clear` calls it.  [default: fault- and four hexadecimal digits]")
@click.option("-n", "--namespace", default=DEFAULT_NAMESPACE, show_default=True, help="Where the service is.")
@click.option("--percent", type=float, default=100.0, show_default=True, help="Of the requests that match.")
@click.option("--delay", type=Duration(), default=0.0, help="Let them wait (200ms, 2s) before they go on.")
@click.option("--abort", type=int, metavar="STATUS", help="Answer them with this status (200 to 599).")
@click.option("--abort-grpc", metavar="CODE", help="Answer gRPC calls so: UNAVAILABLE, or 14.")
@click.option("--path", help="Only paths below this one: /a is for /a/b and not for /ab.")
@click.option("--method", help="Only this method.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="Only with this field; may be repeated.")
@click.option("--for", "length", type=Duration(), default="10m", show_default=True, help="After this it lifts.")
@control_options
def add(
    service: str,
    name: str | None,
    namespace: str,
    percent: float,
    delay: float,
    abort: int | None,
    abort_grpc: str | None,
    path: str | None,
    method: str | None,
    headers: tuple[str, ...],
    length: float,
    control: str | None,
    token: str | None,
) -> int:
    """Let a share of the requests to SERVICE wait, fail, or wait and then fail.

    With --abort alone gRPC calls get UNAVAILABLE, with --abort-grpc alone other requests get 503. A name that is in use
    gets the new fault in place of the old.

    \b
    Examples:
      conduit fault add votes --delay 200ms --percent 50
      conduit fault add votes --abort-grpc RESOURCE_EXHAUSTED -n demo
      conduit fault add web --abort 500 --path /polls --method POST --header x-user=me --for 1h
    """  # noqa: D301 -- click reads the \b
    if not delay and abort is None and abort_grpc is None:
        raise click.UsageError("Say what is to happen: --delay, --abort or --abort-grpc.")
    if not 0 < length <= LONGEST:
        raise click.UsageError(f"--for must be more than 0 and at most {duration_text(LONGEST)}.")
    until = math.ceil(time.time() + length)
    spec: dict[str, object] = {
        "service": service,
        "percent": percent,
        "until": datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if delay:
        spec["delay"] = delay
    aborted = {"status": abort, "grpc": number(abort_grpc) if abort_grpc is not None else None}
    if abort is not None or abort_grpc is not None:
        spec["abort"] = {key: value for key, value in aborted.items() if value is not None}
    match = wanted(path, method, headers)
    if match:
        spec["match"] = match
    text, fault = checked(name or f"fault-{secrets.token_hex(2)}", namespace, spec)
    api = Api.find(control, token)
    find_service(api, service, namespace)
    try:
        answer = api.ask("PUT", "/api/v1/resources", body=text, headers={"content-type": "application/yaml"})
    except ConfigError as exc:
        raise ControlError(f"{exc.field}: {exc.reason}" if exc.field else exc.reason) from exc
    [status] = msgspec.json.decode(answer, type=list[ResourceStatus])
    click.echo(line(status))
    which = matching(fault.spec.match)
    told = f"{percent:g}% of the requests to {service}" + (f" with {plain(which)}" if which else "")
    click.echo(f"{told}: {effect(fault.spec)}; lifts in {duration_text(length)}, at {clock(until)}")
    return 0


@command.command(name="list")
@click.option("-n", "--namespace", help="Only in this namespace.")
@click.option("--service", help="Only of this service.")
@output_option
@control_options
def list_(namespace: str | None, service: str | None, output: str, control: str | None, token: str | None) -> int:
    """Show the faults in force: those that were added, and those that a TrafficPolicy holds.

    \b
    Examples:
      conduit fault list
      conduit fault list -o json
    """  # noqa: D301 -- click reads the \b
    rows = [row for row in in_force(Api.find(control, token), namespace) if service in (None, row.service)]
    if not rows and output in ("table", "wide"):
        click.echo("no faults", err=True)
        return 0
    click.echo(render(rows, rows, COLUMNS, output), nl=False)
    return 0


@command.command(name="clear")
@click.argument("name", required=False)
@click.option("--all", "everything", is_flag=True, help="All that were added.")
@click.option("--service", help="All that were added to this service.")
@click.option("-n", "--namespace", help="Only in this namespace.  [default: all]")
@control_options
def clear(
    name: str | None,
    everything: bool,
    service: str | None,
    namespace: str | None,
    control: str | None,
    token: str | None,
) -> int:
    """Lift faults before their time: one by its NAME, those of a service, or all.

    \b
    Examples:
      conduit fault clear fault-3f2a
      conduit fault clear --service votes
      conduit fault clear --all
    """  # noqa: D301 -- click reads the \b
    if (name is not None) + everything + (service is not None) != 1:
        raise click.UsageError("Give one of NAME, --service SERVICE and --all.")
    api = Api.find(control, token)
    rows = [
        row
        for row in in_force(api, namespace)
        if row.kind == Fault.kind and name in (None, row.name) and service in (None, row.service)
    ]
    if name is not None and len(rows) > 1:
        where = ", ".join(row.namespace for row in rows)
        raise ControlError(f"there is a fault {name} in {where}: give -n {rows[0].namespace}")
    if not rows:
        if name is not None:
            raise ControlError(f"there is no fault {name}" + (f" in {namespace}" if namespace else ""))
        click.echo("no faults", err=True)
        return 0
    errors: list[ConduitError] = []
    for row in rows:
        try:
            click.echo(line(delete(api, Target(Fault.kind, row.namespace, row.name))))
        except (ControlError, ConfigError) as exc:
            errors.append(exc)
    if errors:
        raise ExceptionGroup("not lifted", errors)
    return 0


def number(code: str) -> int | str:
    """A gRPC code as YAML has it: a number as one, a name as it is written."""
    return int(code) if code.isdecimal() else code


def wanted(path: str | None, method: str | None, headers: Sequence[str]) -> dict[str, object]:
    """The match of the options; raises click.UsageError for a header without a value."""
    match: dict[str, object] = {}
    if path is not None:
        match["path"] = {"value": path}
    if method is not None:
        match["method"] = method.upper()
    fields = []
    for header in headers:
        name, equals, value = header.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--header {header!r} is not NAME=VALUE.")
        fields.append({"name": name.lower(), "value": value})
    if fields:
        match["headers"] = fields
    return match


def checked(name: str, namespace: str, spec: dict[str, object]) -> tuple[str, Fault]:
    """The resource as YAML, held to the same rules as one in a file; raises click.UsageError."""
    envelope = {
        "apiVersion": API_VERSION,
        "kind": Fault.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }
    text: str = yaml.safe_dump(envelope, sort_keys=False)
    try:
        [document] = load_documents(text, SOURCE)
        resource = decode_resource(document)
    except ConfigError as exc:
        raise click.UsageError(f"{exc.field.removeprefix('spec.')}: {exc.reason}") from exc
    assert isinstance(resource, Fault)
    return text, resource


def find_service(api: Api, service: str, namespace: str) -> None:
    """Raises ControlError where the mesh has no such service: a fault at a name that is mistyped would do nothing."""
    answer = api.ask("GET", "/api/v1/stat", params={"kind": "service", "window": "1"})
    rows = msgspec.json.decode(answer, type=Stat).rows
    found = sorted({row.namespace for row in rows if row.name == service and row.namespace})
    if namespace in found:
        return
    if found:
        raise ControlError(
            f"there is no service {service} in {namespace}, but in {', '.join(found)}: give -n {found[0]}"
        )
    known = ", ".join(sorted({row.name for row in rows if row.namespace})) or "none"
    raise ControlError(f"there is no service {service} in {namespace}; the mesh has {known}")


def in_force(api: Api, namespace: str | None) -> list[FaultRow]:
    """All faults that are in force, sorted by namespace, service and name."""
    views: list[ResourceView] = []
    for kind in (Fault.kind, "TrafficPolicy"):
        answer = api.ask("GET", "/api/v1/resources", params={"kind": kind})
        views += msgspec.json.decode(answer, type=list[ResourceView])
    rows = [row for view in views if namespace in (None, view.metadata.namespace) for row in rows_of(view, time.time())]
    return sorted(rows, key=lambda row: (row.namespace, row.service, row.kind, row.name))
