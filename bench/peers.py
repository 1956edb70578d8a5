"""The proxies that are compared: how each is configured and started, as values.

Every configuration says the same thing in its proxy's own words: one listener, one worker, one
upstream, the same protocol on both sides, no access log, otherwise the proxy's defaults. Envoy keeps
its statistics and its router, conduit its routes, metrics and tap, because a mesh has them on. Where a
scenario has policies (`policies.py`), conduit and Envoy have them, and as many upstreams as there are.
"""

import json
import shlex
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench import hops, policies
from bench.hops import Files
from bench.process import BenchError
from bench.scenarios import Protocol

NAMES = ("conduit", "envoy", "haproxy", "nghttpx")
VENV_BIN = Path(sys.executable).parent


@dataclass(frozen=True, slots=True)
class Ports:
    """Where a proxy listens, what it forwards to, and where its admin interface is; all on 127.0.0.1."""

    listen: int
    upstreams: tuple[int, ...]
    admin: int


@dataclass(frozen=True, slots=True)
class Peer:
    """One proxy ready to be started: write `config` to `path`, which `command` names, then run it."""

    name: str
    command: list[str]
    config: str
    path: Path


def executable(name: str) -> str:
    """The path of a program: beside this Python first, then on PATH. Raises BenchError when there is none."""
    if path := shutil.which(name, path=str(VENV_BIN)) or shutil.which(name):
        return path
    advice = "`make setup` installs it" if name in ("conduit", "envoy") else "install it with your system's packages"
    raise BenchError(f"{name} is not installed ({VENV_BIN / name} does not exist and PATH has none): {advice}")


def conduit_config(protocol: Protocol, ports: Ports, governed: bool) -> str:
    """proxy.yaml."""
    endpoints = [f"127.0.0.1:{port}" for port in ports.upstreams]
    services: dict[str, object] = {policies.SERVICE: {"protocol": protocol, "endpoints": endpoints}}
    document: dict[str, object] = {
        "admin": f"127.0.0.1:{ports.admin}",
        "outbound": [{"listen": f"127.0.0.1:{ports.listen}", "service": policies.SERVICE}],
        "services": services,
    }
    if governed:
        services[policies.ELSEWHERE] = {"protocol": protocol, "endpoints": []}
        document["resources"] = policies.conduit_resources()
    return yaml.safe_dump(document, sort_keys=False)


def conduit(protocol: Protocol, ports: Ports, config: Path, governed: bool = False) -> Peer:
    command = [executable("conduit"), "proxy", "--config", str(config)]
    return Peer("conduit", command, conduit_config(protocol, ports, governed), config)


def envoy(
    protocol: Protocol,
    ports: Ports,
    config: Path,
    governed: bool = False,
    secured: tuple[Files | None, Files | None] = (None, None),
) -> Peer:
    """`secured`: the files for TLS towards the upstream, and for TLS of the listener."""
    clusters = [_envoy_cluster(policies.SERVICE, protocol, ports.upstreams)]
    if governed:
        clusters[0] |= policies.envoy_cluster()
        clusters.append(_envoy_cluster(policies.ELSEWHERE, protocol, ()))
    upstream_files, listener_files = secured
    if upstream_files is not None:
        clusters[0]["transport_socket"] = hops.envoy_caller(upstream_files)
    chain: dict[str, object] = {}
    if listener_files is not None:
        chain["transport_socket"] = hops.envoy_called(listener_files)
    network_filter = _envoy_tcp() if protocol == "opaque" else _envoy_http(protocol, governed)
    text = {
        "admin": {"address": _envoy_address(ports.admin)},
        "static_resources": {
            "listeners": [
                {
                    "name": "echo",
                    "address": _envoy_address(ports.listen),
                    "filter_chains": [{"filters": [network_filter], **chain}],
                }
            ],
            "clusters": clusters,
        },
    }
    command = [executable("envoy"), "-c", str(config), "--concurrency", "1", "--log-level", "warning"]
    command.append("--disable-hot-restart")
    return Peer("envoy", command, json.dumps(text, indent=2), config)


def _envoy_address(port: int) -> dict[str, object]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _envoy_cluster(name: str, protocol: Protocol, upstreams: tuple[int, ...]) -> dict[str, object]:
    endpoints = [{"endpoint": {"address": _envoy_address(port)}} for port in upstreams]
    cluster: dict[str, object] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
    }
    if protocol != "opaque":
        options = "http2_protocol_options" if protocol == "http2" else "http_protocol_options"
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {options: {}},
            }
        }
    return cluster


def _envoy_tcp() -> dict[str, object]:
    return {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "echo",
            "cluster": policies.SERVICE,
        },
    }


def _envoy_http(protocol: Protocol, governed: bool) -> dict[str, object]:
    router = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
    manager = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
    everything: list[dict[str, object]] = [{"match": {"prefix": "/"}, "route": {"cluster": policies.SERVICE}}]
    routes = policies.envoy_routes() if governed else everything
    before = [policies.envoy_rate_limit()] if governed else []
    return {
        "name": "envoy.filters.network.http_connection_manager",
        "typed_config": {
            "@type": f"type.googleapis.com/{manager}",
            "stat_prefix": "echo",
            "codec_type": "HTTP2" if protocol == "http2" else "HTTP1",
            "route_config": {"virtual_hosts": [{"name": "echo", "domains": ["*"], "routes": routes}]},
            "http_filters": [*before, {"name": "envoy.filters.http.router", "typed_config": {"@type": router}}],
        },
    }


def haproxy(protocol: Protocol, ports: Ports, config: Path) -> Peer:
    version = " proto h2" if protocol == "http2" else ""
    http = "\n    http-reuse always" if protocol != "opaque" else ""
    text = f"""\
global
    nbthread 1
    maxconn 4096
defaults
    mode {"tcp" if protocol == "opaque" else "http"}{http}
    timeout connect 1s
    timeout client 1h
    timeout server 1h
listen echo
    bind 127.0.0.1:{ports.listen}{version}
    server nginx 127.0.0.1:{ports.upstreams[0]}{version}
"""
    return Peer("haproxy", [executable("haproxy"), "-db", "-f", str(config)], text, config)


def nghttpx(protocol: Protocol, ports: Ports, config: Path) -> Peer:
    version = "h2" if protocol == "http2" else "http/1.1"
    text = f"""\
frontend=127.0.0.1,{ports.listen};no-tls
backend=127.0.0.1,{ports.upstreams[0]};;proto={version}
workers=1
"""
    return Peer("nghttpx", [executable("nghttpx"), f"--conf={config}"], text, config)


def pair(name: str, listen: int, between: int, upstream: int, admins: tuple[int, int], folder: Path) -> list[Peer]:
    """Two proxies of one kind in a row, the called one first; their files go to `folder`. Raises BenchError."""
    caller, called = hops.certificates(folder)
    first, second = folder / f"{name}-caller.conf", folder / f"{name}-called.conf"
    if name == "conduit":
        service = {"protocol": "http2", "endpoints": [{"address": f"127.0.0.1:{between}", "identity": hops.CALLED}]}
        documents = (
            {
                "admin": f"127.0.0.1:{admins[0]}",
                "outbound": [{"listen": f"127.0.0.1:{listen}", "service": policies.SERVICE}],
                "services": {policies.SERVICE: {**service, "tls": caller.document()}},
            },
            {
                "admin": f"127.0.0.1:{admins[1]}",
                "inbound": [
                    {
                        "listen": f"127.0.0.1:{between}",
                        "forward": f"127.0.0.1:{upstream}",
                        "protocol": "http2",
                        "service": policies.SERVICE,
                        "tls": {**called.document(), "mode": "strict"},
                    }
                ],
            },
        )
        command = [executable("conduit"), "proxy", "--config"]
        return [
            Peer(name, [*command, str(second)], yaml.safe_dump(documents[1], sort_keys=False), second),
            Peer(name, [*command, str(first)], yaml.safe_dump(documents[0], sort_keys=False), first),
        ]
    ahead = envoy("http2", Ports(listen, (between,), admins[0]), first, secured=(caller, None))
    behind = envoy("http2", Ports(between, (upstream,), admins[1]), second, secured=(None, called))
    return [behind, ahead]


def supports(name: str, protocol: Protocol, governed: bool = False) -> bool:
    """Whether a proxy can carry this at all: nghttpx speaks HTTP only, and policies (and two hops) are conduit's and
    Envoy's."""
    if governed:
        return name in ("conduit", "envoy")
    return not (name == "nghttpx" and protocol == "opaque")


def build(
    name: str,
    protocol: Protocol,
    ports: Ports,
    config: Path,
    conduit_command: str | None = None,
    *,
    governed: bool = False,
) -> Peer:
    """The named proxy as a Peer, `governed` by the policies or not. `conduit_command` replaces conduit's command line
    for its developers ({listen}, {upstream} and {config} are filled in). Raises BenchError when the program is missing.
    """
    match name:
        case "conduit" if conduit_command:
            words = shlex.split(conduit_command)
            filled = [word.format(listen=ports.listen, upstream=ports.upstreams[0], config=config) for word in words]
            return Peer("conduit", filled, conduit_config(protocol, ports, governed), config)
        case "conduit":
            return conduit(protocol, ports, config, governed)
        case "envoy":
            return envoy(protocol, ports, config, governed)
        case "haproxy":
            return haproxy(protocol, ports, config)
        case _:
            return nghttpx(protocol, ports, config)
