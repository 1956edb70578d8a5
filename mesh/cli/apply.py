"""conduit apply: puts resources from YAML in force in the running mesh."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from urllib.parse import quote

import click
import msgspec

from mesh.cli.client import Api, control_options
from mesh.cli.output import as_json, as_yaml, printable
from mesh.model.api import ResourceStatus
from mesh.model.errors import ConfigError

STDIN = Path("-")
SUFFIXES = (".yaml", ".yml")


@click.command(name="apply")
@click.option(
    "-f",
    "--file",
    "files",
    required=True,
    multiple=True,
    type=click.Path(exists=True, allow_dash=True, path_type=Path),
    help="File or folder of YAML, or - for stdin; may be repeated.",
)
@click.option("-o", "--output", type=click.Choice(["text", "json", "yaml"]), default="text", show_default=True)
@control_options
def command(files: tuple[Path, ...], output: str, control: str | None, token: str | None) -> int:
    """Put resources in force. Of a file, either all are accepted or none.

    A mistake is told with file, line and field, and leaves in force what was before. What is applied goes before the
    same resource in the files that the mesh follows, until `conduit delete`. Under `conduit up` and `demo`, a Workload
    is started, or rolled if it runs already; its directory is relative to the file (of stdin: to where you are).

    \b
    Examples:
      conduit apply -f policy.yaml
      conduit apply -f words.yaml && conduit get workloads
      cat policy.yaml | conduit apply -f -
    """  # noqa: D301 -- click reads the \b
    api = Api.find(control, token)
    statuses: list[ResourceStatus] = []
    for path in expand(files):
        name = "(stdin)" if path == STDIN else str(path)
        headers = {"x-conduit-file": quote(os.fsencode(absolute(path))), "content-type": "application/yaml"}
        try:
            answer = api.ask("PUT", "/api/v1/resources", body=read(path), headers=headers)
        except ConfigError as exc:
            raise ConfigError(exc.reason, file=name, line=exc.line, field=exc.field) from exc
        applied = msgspec.json.decode(answer, type=list[ResourceStatus])
        statuses += applied
        if output == "text":
            for status in applied:
                click.echo(line(status))
    if output != "text":
        click.echo(as_json(statuses) if output == "json" else as_yaml(statuses), nl=False)
    return 0 if all(status.accepted for status in statuses) else 1


def line(status: ResourceStatus) -> str:
    """What became of one resource."""
    name = printable(f"{status.kind} {status.namespace}/{status.name}")
    if not status.accepted:
        return f"{name} refused: {printable(status.reason)}"
    told = [status.reason, *(f"{each.reason}: {each.message}" for each in status.conditions if not each.status)]
    reasons = "; ".join(printable(each) for each in told if each)
    return f"{name} {status.result}" + (f" ({reasons})" if reasons else "")


def expand(files: tuple[Path, ...]) -> list[Path]:
    """Folders replaced by the YAML files in them, by name; raises ConfigError for one without any."""
    paths: list[Path] = []
    for path in files:
        if path != STDIN and path.is_dir():
            found = sorted(inner for inner in path.iterdir() if inner.suffix in SUFFIXES and inner.is_file())
            if not found:
                raise ConfigError("holds no .yaml file", file=str(path))
            paths += found
        else:
            paths.append(path)
    return paths


def absolute(path: Path) -> Path:
    """What the control plane keeps as the place that a resource is from; stdin counts as a file in our folder."""
    return Path.cwd() / "(stdin)" if path == STDIN else path.resolve()


def read(path: Path) -> str:
    """The file's text, or stdin's."""
    try:
        return sys.stdin.read() if path == STDIN else path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"cannot be read: {exc}", file=str(path)) from exc
