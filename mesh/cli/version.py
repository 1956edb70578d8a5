"""conduit version: what is installed here."""

from __future__ import annotations

import json
import platform
from importlib.metadata import PackageNotFoundError, version

import click

from mesh.cli import compiled

CODECS = ("ngh2", "h2", "httptools")


@click.command(name="version")
@click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def command(output: str) -> None:
    """Print the version of conduit.

    \b
    Example:
      conduit version -o json
    """  # noqa: D301 -- click reads the \b
    if output == "text":
        click.echo(f"conduit {conduit_version()}")
        return
    codecs = {name: installed(name) for name in CODECS}
    answer = {
        "version": conduit_version(),
        "python": platform.python_version(),
        "codecs": codecs,
        "compiled": compiled.use(),
    }
    click.echo(json.dumps(answer))


def conduit_version() -> str:
    """The installed distribution's version; `unknown` when the package runs without having been installed."""
    return installed("conduit-mesh") or "unknown"


def installed(distribution: str) -> str | None:
    """Its version, or None if it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
