"""conduit run: one process with a sidecar, joined to the mesh that runs on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click
import trio

from mesh.local.join import join
from mesh.local.log import StreamLog
from mesh.local.signals import until_signalled
from mesh.model.config import Protocol
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import API_VERSION, Workload


@click.command(name="run")
@click.argument("name")
@click.option("--port", help="Where the program listens on 127.0.0.1: a number, or `auto` for a free one in $PORT.")
@click.option("--service", default="", help="The service it answers for.  [default: NAME]")
@click.option("--protocol", type=click.Choice([one.value for one in Protocol]), default="detect", show_default=True)
@click.option("--version", "version", default="", help="A label for telling versions of a service apart.")
@click.option("--account", default="", help="Whom its identity names.  [default: NAME]")
@click.option("-n", "--namespace", default="default", show_default=True)
@click.argument("words", metavar="-- CMD...", nargs=-1, required=True, type=click.UNPROCESSED)
def command(
    name: str,
    port: str | None,
    service: str,
    protocol: str,
    version: str,
    account: str,
    namespace: str,
    words: tuple[str, ...],
) -> int:
    """Run one program with a sidecar, joined to the running mesh.

    The program reaches services by name through the proxy variables that it is given: http://votes/. With --port it is
    itself an endpoint of a service, and is started again if it dies. Without, it is a client: it runs once, on this
    terminal, and its exit status is conduit's. To others it is who --account says, in its namespace.

    \b
    Examples:
      conduit run words --port 8082 --version v3 -- python words.py
      conduit run api --port auto -- node server.js        (listens on $PORT)
      conduit run me -n demo -- curl http://web/
      conduit run me -n demo --account web -- curl http://votes/     (may what web may)
    """  # noqa: D301 -- click reads the \b
    number = int(port) if port is not None and port.isdecimal() else port
    spec = {"command": list(words), "service": service, "version": version, "port": number, "protocol": str(protocol)}
    spec["account"] = account
    workload = checked(name, namespace, spec)
    return trio.run(until_signalled, partial(join, workload, Path.cwd(), StreamLog()))


def checked(name: str, namespace: str, spec: Mapping[str, object]) -> Workload:
    """The workload, held to the same rules as one in a file; raises click.UsageError."""
    metadata = {"name": name, "namespace": namespace}
    text = json.dumps({"apiVersion": API_VERSION, "kind": "Workload", "metadata": metadata, "spec": spec})
    try:
        [document] = load_documents(text, "")
        resource = decode_resource(document)
        assert isinstance(resource, Workload)
    except ConfigError as exc:
        raise click.UsageError(f"{exc.field.rpartition('.')[2]}: {exc.reason}") from exc
    return resource
