"""conduit delete: takes back what was applied to the running mesh."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import click
import msgspec

from mesh.cli.apply import STDIN, expand, line, read
from mesh.cli.client import Api, control_options
from mesh.cli.get import PROXIES, names
from mesh.cli.output import as_json, as_yaml
from mesh.model.api import ResourceStatus, ResourceView
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConduitError, ConfigError, ControlError

KINDS = {word: kind for word, kind in names().items() if kind not in (PROXIES, "")}
DEFAULT_NAMESPACE = "default"


class Target(NamedTuple):
    """What a resource to be deleted is addressed by."""

    kind: str
    namespace: str
    name: str


@click.command(name="delete")
@click.argument("kind", type=click.Choice(sorted(KINDS), case_sensitive=False), metavar="[KIND]", required=False)
@click.argument("name", required=False)
@click.option("-n", "--namespace", help=f"Where the resource is.  [default: {DEFAULT_NAMESPACE}]")
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
    help="Delete the resources that stand in this file or folder of YAML (- for stdin); may be repeated.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@control_options
def command(
    kind: str | None,
    name: str | None,
    namespace: str | None,
    files: tuple[Path, ...],
    output: str,
    control: str | None,
    token: str | None,
) -> int:
    """Take back what was applied: one resource by kind and name, or all that stand in a file.

    The replicas of a Workload are stopped. Where a file that the mesh follows has the same resource, that is in force
    again. What stands in such a file and was never applied is deleted by an edit of the file.

    \b
    Examples:
      conduit delete workload words -n demo
      conduit delete trafficpolicy words -n demo
      conduit delete -f words.yaml
    """  # noqa: D301 -- click reads the \b
    if bool(files) == bool(kind) or bool(kind) != bool(name):
        raise click.UsageError("Give either KIND and NAME, or -f FILE.")
    if files and namespace:
        raise click.UsageError("-n goes with KIND and NAME: resources in a file say their namespace.")
    targets = in_files(files)
    if kind and name:
        targets = [Target(KINDS[kind.lower()], namespace or DEFAULT_NAMESPACE, name)]
    api = Api.find(control, token)
    statuses: list[ResourceStatus] = []
    errors: list[ConduitError] = []
    for target in targets:
        try:
            status = delete(api, target)
        except ControlError as exc:
            errors.append(exc if files or namespace else elsewhere(api, target) or exc)
        except ConfigError as exc:
            errors.append(exc)
        else:
            statuses.append(status)
            if output == "text":
                click.echo(line(status))
    if output != "text":
        click.echo(as_json(statuses) if output == "json" else as_yaml(statuses), nl=False)
    if errors:
        raise ExceptionGroup("not deleted", errors)
    return 0


def in_files(files: Sequence[Path]) -> list[Target]:
    """What the resources in files and folders are addressed by, in order and none twice; raises ConfigError."""
    targets: list[Target] = []
    for path in expand(tuple(files)):
        name = "(stdin)" if path == STDIN else str(path)
        documents = load_documents(read(path), name)
        if not documents:
            raise ConfigError("holds no resource", file=name)
        for document in documents:
            resource = decode_resource(document)
            targets.append(Target(resource.kind, resource.metadata.namespace, resource.metadata.name))
    return list(dict.fromkeys(targets))


def delete(api: Api, target: Target) -> ResourceStatus:
    """Deletes one. Raises ConfigError, with the file, for what stands in one, and ControlError where there is none."""
    path = "/".join(quote(part, safe="") for part in target)
    return msgspec.json.decode(api.ask("DELETE", f"/api/v1/resources/{path}"), type=ResourceStatus)


def elsewhere(api: Api, target: Target) -> ControlError | None:
    """A better error for one that is not in the default namespace but in others; None where it is nowhere."""
    answer = api.ask("GET", "/api/v1/resources", params={"kind": target.kind})
    views = msgspec.json.decode(answer, type=list[ResourceView])
    found = sorted({view.metadata.namespace for view in views if view.metadata.name == target.name})
    if not found or target.namespace in found:
        return None
    return ControlError(
        f"there is no {target.kind} {target.namespace}/{target.name}, but in {', '.join(found)}: give -n {found[0]}"
    )
