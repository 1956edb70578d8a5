"""conduit policy: writes policies from the traffic that was seen, and says what new ones would change.

What is suggested stands in suggestion.py, what would change in replay.py; here is what people see of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import yaml

from mesh.cli.apply import STDIN, expand, read
from mesh.cli.client import Api, control_options
from mesh.cli.output import Column, Duration, as_json, as_yaml, attribute, output_option, plain, printable, table
from mesh.cli.replay import Change, Replay, replay
from mesh.cli.suggestion import Suggestion, suggest
from mesh.model.api import EndpointInfo, ResourceView, SeenRow
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ControlError
from mesh.model.resources import (
    AuthorizationPolicy,
    DefaultPolicy,
    Endpoint,
    PolicyPlugin,
    Resource,
    TrafficPolicy,
)

COLUMNS = (
    Column("CHANGE", lambda row: changed(row)),
    Column("SERVICE", lambda row: plain(f"{getattr(row, 'service', '')}.{getattr(row, 'namespace', '')}")),
    Column("WORKLOAD", attribute("workload"), wide=True),
    Column("CALLER", attribute("caller")),
    Column("REQUEST", lambda row: plain(f"{getattr(row, 'method', '')} {getattr(row, 'path', '')}".strip())),
    Column("REQUESTS", attribute("requests", str), right=True),
    Column("NOW", attribute("before")),
    Column("THEN", attribute("after")),
    Column("WHY", attribute("why"), wide=True),
)
COUNT: dict[str, type[Resource]] = {
    kind.kind: kind for kind in (AuthorizationPolicy, DefaultPolicy, Endpoint, PolicyPlugin, TrafficPolicy)
}
SINCE = click.option(
    "--since", type=Duration(), default="1h", show_default=True, help="Only traffic that was seen since; 0: all of it."
)


@click.group(name="policy", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Write policies from the traffic that was seen, and see what they would change before they are applied.

    \b
    Examples:
      conduit policy suggest > policies.yaml
      conduit policy test -f policies.yaml
      conduit apply -f policies.yaml
    """  # noqa: D301 -- click reads the \b


@command.command(name="suggest")
@click.option("--service", help="Only for this service: NAME or NAME.NAMESPACE.")
@click.option("-n", "--namespace", help="Only for services in this namespace.")
@SINCE
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", show_default=True)
@control_options
def suggest_command(
    service: str | None, namespace: str | None, since: float, output: str, control: str | None, token: str | None
) -> int:
    """Print the least-privilege policies for the traffic that was seen.

    Callers are named by identity, requests by method and path, or gRPC method; what was not seen is denied. The
    comments say what each policy comes from, and what it leaves out. Nothing is applied.

    \b
    Examples:
      conduit policy suggest
      conduit policy suggest --service votes --since 10m
      conduit policy suggest -n demo | conduit policy test -f -
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    rows = recorded(api, since, service or "", namespace or "")
    if not rows:
        raise ControlError("no traffic was seen: there is nothing to write policies from")
    endpoints = msgspec.json.decode(api.ask("GET", "/api/v1/endpoints"), type=list[EndpointInfo])
    existing = {f"{each.namespace}/{each.service}" for each in endpoints}
    found = suggest(rows, policies=resources(api), close=service is None, existing=existing)
    click.echo(as_documents(found) if output == "yaml" else as_json(as_values(found)), nl=False)
    return 0


@command.command(name="test")
@click.option(
    "-f",
    "--file",
    "files",
    required=True,
    multiple=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
    help="File or folder of YAML, or - for stdin; may be repeated.",
)
@SINCE
@output_option
@control_options
def test_command(files: tuple[Path, ...], since: float, output: str, control: str | None, token: str | None) -> int:
    """Say what would change for the recorded traffic if these resources were applied.

    Each kind of request that was seen is judged by the policies in force, and again with those in FILE beside them, or
    in place of those of the same name. Nothing is applied. Exit code 1 where anything that is allowed now would be
    denied.

    \b
    Examples:
      conduit policy test -f policies.yaml
      conduit policy test -f policies.yaml -o wide --since 24h
      conduit policy test -f new.yaml && conduit apply -f new.yaml
    """  # noqa: D301 -- click reads the \b
    proposed: list[Resource] = []
    for path in expand(files):
        name = "(stdin)" if path == STDIN else str(path)
        proposed += [decode_resource(document) for document in load_documents(read(path), name)]
    api = Api.find(control, token)
    rows = recorded(api, since)
    found = replay(rows, resources(api), proposed)
    show(found, output)
    return 1 if any(change.change == "denied" for change in found.changes) else 0


# --- asking ----------------------------------------------------------------------------------------------------------


def recorded(api: Api, since: float, service: str = "", namespace: str = "") -> list[SeenRow]:
    """The traffic that was seen."""
    params: dict[str, str | float] = {"since": since}
    params |= {name: value for name, value in (("service", service), ("namespace", namespace)) if value}
    return msgspec.json.decode(api.ask("GET", "/api/v1/seen", params=params), type=list[SeenRow])


def resources(api: Api) -> list[Resource]:
    """What is in force and counts when requests are judged."""
    answer = api.ask("GET", "/api/v1/resources")
    found: list[Resource] = []
    for view in msgspec.json.decode(answer, type=list[ResourceView]):
        if view.spec and view.kind in COUNT:  # an empty one is of a file that was refused
            metadata = msgspec.to_builtins(view.metadata)
            found.append(msgspec.convert({"metadata": metadata, "spec": view.spec}, COUNT[view.kind]))
    return found


# --- showing ---------------------------------------------------------------------------------------------------------


def as_documents(found: Suggestion) -> str:
    """YAML: a document for each policy, under comments. What proxies reported is quoted: it cannot end a comment."""
    parts = [comment(found.notes)] if found.notes else []
    for policy, notes in found.policies:
        parts.append(comment(notes) + yaml.safe_dump(enveloped(policy), sort_keys=False, allow_unicode=True))
    return "---\n".join(parts)


def as_values(found: Suggestion) -> dict[str, Any]:
    """For programs."""
    return {
        "policies": [enveloped(policy) for policy, _ in found.policies],
        "notes": [*found.notes, *(note for _, notes in found.policies for note in notes)],
    }


def enveloped(resource: Resource) -> dict[str, Any]:
    """As it stands in a file."""
    return {"apiVersion": resource.api_version, "kind": resource.kind, **msgspec.to_builtins(resource)}


def comment(notes: Sequence[str]) -> str:
    """One line for each note."""
    return "".join(f"# {printable(note)}\n" for note in notes)


def changed(row: object) -> str:
    """The change in a word or two."""
    assert isinstance(row, Change)
    return f"{row.change} (partly)" if row.partly else row.change


def show(found: Replay, output: str) -> None:
    """The changes, on stdout; for people, what there is to say about them on stderr."""
    if output in ("json", "yaml"):
        value = {"changes": found.changes, "requests": found.requests, "notes": found.notes}
        click.echo(as_json(value) if output == "json" else as_yaml(value), nl=False)
        return
    if found.changes:
        click.echo(table(found.changes, COLUMNS, wide=output == "wide"), nl=False)
    many = len(found.changes)
    told = f"{many} change{'' if many == 1 else 's'}" if many else "nothing would change"
    click.echo(f"{told} for {found.requests} recorded requests", err=True)
    for note in found.notes:
        click.echo(printable(note), err=True)
