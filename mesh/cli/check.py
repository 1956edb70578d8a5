"""conduit check: is all well with the mesh, and what to do where it is not."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import click
import httpx
import msgspec
from msgspec.structs import replace

from mesh.cli.client import Api, control_options
from mesh.cli.output import Duration, as_json, printable
from mesh.cli.version import conduit_version
from mesh.local.certificates import look
from mesh.local.checks import Check, Facts, Status, checks, ready, unreachable
from mesh.local.rendezvous import read, runtime_folder
from mesh.model.api import Edge, EndpointInfo, IdentityInfo, ProxyInfo, ResourceView, Stat, VersionInfo
from mesh.model.checks import parse_address
from mesh.model.errors import ConfigError, ControlError
from mesh.model.proxy_yaml import load_proxy_config

CONNECT_SECONDS = 2.0
HERE = ("localhost", "127.0.0.1", "::1")
WINDOW_SECONDS = 300
COLOURS = {Status.OK: "green", Status.WARNING: "yellow", Status.FAILED: "red"}
WORDS = {Status.OK: "ok", Status.WARNING: "warn", Status.FAILED: "FAIL"}


@click.command(name="check")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
@click.option(
    "--expiry-warning",
    "margin",
    type=Duration(),
    default="48h",
    show_default=True,
    help="Warn of roots and issuers that end sooner.",
)
@control_options
def command(output: str, margin: float, control: str | None, token: str | None) -> int:
    """Look whether all is well with the mesh, and say what to do where it is not.

    Looked at are the control plane, its trust, the proxies and their certificates, endpoints, resources, and whether
    traffic of the last five minutes was secured. The exit code is 1 where a check failed; warnings are let pass.

    \b
    Examples:
      conduit check
      conduit check --expiry-warning 720h
      conduit check -o json | jq '.[] | select(.status != "ok")'
    """  # noqa: D301 -- click reads the \b
    try:
        api = Api.find(control, token)
        found = checks(collect(api, margin))
    except ControlError as exc:
        found = [unreachable(str(exc)), *([ready(unready(here))] if (here := on_this_machine(control)) else [])]
    click.echo(as_json(found) if output == "json" else table(found, coloured=coloured()), nl=False)
    return int(any(check.status is Status.FAILED for check in found))


def collect(api: Api, margin: float) -> Facts:
    """What the control plane knows, and which endpoints accept; raises ControlError where it does not answer."""
    window: dict[str, str | int | float] = {"window": WINDOW_SECONDS}
    version = msgspec.json.decode(api.ask("GET", "/api/v1/version"), type=VersionInfo)
    now = time.time()
    identity = msgspec.json.decode(api.ask("GET", "/api/v1/identity"), type=IdentityInfo)
    proxies = msgspec.json.decode(api.ask("GET", "/api/v1/proxies"), type=list[ProxyInfo])
    endpoints = msgspec.json.decode(api.ask("GET", "/api/v1/endpoints"), type=list[EndpointInfo])
    return Facts(
        url=api.url,
        ours=conduit_version(),
        now=now,
        version=version,
        identity=completed(identity, proxies),
        proxies=proxies,
        resources=msgspec.json.decode(api.ask("GET", "/api/v1/resources"), type=list[ResourceView]),
        services=msgspec.json.decode(api.ask("GET", "/api/v1/stat", params=window), type=Stat).rows,
        edges=msgspec.json.decode(api.ask("GET", "/api/v1/edges", params=window), type=list[Edge]),
        unready=unready({proxy.proxy: proxy.admin for proxy in proxies}) if urlsplit(api.url).hostname in HERE else {},
        unreachable={
            f"{endpoint.workload} at {endpoint.address}": why
            for endpoint in endpoints
            if (why := connect(endpoint.address))
        },
        expiry_warning=margin,
    )


def completed(identity: IdentityInfo, proxies: Sequence[ProxyInfo]) -> IdentityInfo:
    """With what proxies show themselves, where this control plane has not signed for them: one before it may have."""
    listening = {proxy.proxy: proxy.inbound[0] for proxy in proxies if proxy.inbound}
    found = []
    for one in identity.proxies:
        chain = (
            look(listening[one.proxy], one.identity, "").chain if one.proxy in listening and not one.not_after else ()
        )
        if chain:
            above = chain[1].fingerprint if len(chain) > 1 else ""
            one = replace(one, not_after=chain[0].not_after, issuer=above)
        found.append(one)
    return replace(identity, proxies=tuple(found))


def on_this_machine(control: str | None) -> dict[str, str]:
    """Admin address of each replica's proxy of the local mesh, as its files tell; none, if another mesh is meant."""
    runtime = None if control or os.environ.get("CONDUIT_CONTROL") else read(runtime_folder())
    found = {}
    for path in sorted(Path(runtime.state).glob("replicas/*/proxy.yaml")) if runtime is not None else ():
        try:
            found[path.parent.name] = load_proxy_config(path.read_text(), str(path)).admin
        except (OSError, ConfigError):
            continue  # it is going, or has just come
    return found


def unready(admins: Mapping[str, str]) -> dict[str, str]:
    """Proxies that say so, and why, by name; nothing of those without an admin address."""
    found = {}
    for proxy, admin in admins.items():
        if not admin:
            continue
        try:
            answer = httpx.get(f"http://{admin}/ready", timeout=CONNECT_SECONDS, trust_env=False)
        except httpx.TransportError as exc:
            found[proxy] = f"its admin port does not answer: {exc}"
        else:
            if not answer.is_success:
                found[proxy] = answer.text.strip().removeprefix("not ready: ")
    return found


def connect(address: str) -> str:
    """Why `host:port` does not accept a connection; empty where it does."""
    try:
        socket.create_connection(parse_address(address), CONNECT_SECONDS).close()
    except OSError as exc:
        return exc.strerror or str(exc) or type(exc).__name__
    return ""


def table(found: Sequence[Check], *, coloured: bool) -> str:
    """A block for each category, and a sentence at the end."""
    lines: list[str] = []
    category = ""
    for check in found:
        if check.category != category:
            category = check.category
            lines += ["", category] if lines else [category]
        mark = f"{WORDS[check.status]:<4}"
        mark = click.style(mark, fg=COLOURS[check.status]) if coloured else mark
        lines.append(f"  {mark}  {check.name}" + (f": {printable(check.detail)}" if check.detail else ""))
        if check.hint and check.status is not Status.OK:
            lines.append(f"        {printable(check.hint)}")
    return "\n".join([*lines, "", summary(found), ""])


def summary(found: Sequence[Check]) -> str:
    """How it is, in a sentence."""
    failed = sum(check.status is Status.FAILED for check in found)
    warned = sum(check.status is Status.WARNING for check in found)
    if not failed and not warned:
        return f"all {len(found)} checks are ok"
    return f"{len(found)} checks: {failed} failed, {warned} with a warning"


def coloured() -> bool:
    """Whether stdout is a terminal whose user wants colours."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
