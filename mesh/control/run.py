"""The control plane's composition root: what there is, who knows whom, and which tasks run.

The supervision tree:

    control
    ├─ files         looks at the sources and the state folder
    ├─ plugins       calls policy plugins when what they depend on has changed
    ├─ expiry        takes faults away whose time is over
    ├─ trust         looks at the files of anchors and issuer, where there are any
    ├─ audit         writes the audit log
    └─ api           accepts
       └─ connection one task each; a websocket's has a nursery of its own
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
import trio

from mesh.control.access import Access
from mesh.control.aggregate import Aggregate
from mesh.control.api import Api
from mesh.control.applied import Applied
from mesh.control.audit import Audit
from mesh.control.authority import LIFETIME, Authority
from mesh.control.authz import AuthzApi
from mesh.control.cluster import Cluster
from mesh.control.expiry import Expiry
from mesh.control.explain import ExplainApi
from mesh.control.files import Files
from mesh.control.identity_api import IdentityApi
from mesh.control.issuer import TrustFiles
from mesh.control.meta_api import MetaApi
from mesh.control.observe_api import ObserveApi
from mesh.control.plan import egress
from mesh.control.plugins import Plugins
from mesh.control.push import Push
from mesh.control.resources_api import ResourcesApi
from mesh.control.routes import Router
from mesh.control.seen import SeenApi
from mesh.control.tap import Taps
from mesh.model.documents import parse_address
from mesh.model.errors import ConfigError
from mesh.model.identity import TRUST_DOMAIN
from mesh.model.push import HEARTBEAT_SECONDS, SILENCE_SECONDS

ANY_ADDRESS = ("0.0.0.0", "::")


async def serve(
    *,
    sources: Sequence[Path],
    state: Path,
    listen: str,
    token: str,
    hosts: Sequence[str] = (),
    trust: TrustFiles | None = None,
    trust_domain: str = TRUST_DOMAIN,
    lifetime: float = LIFETIME,
    heartbeat: float = HEARTBEAT_SECONDS,
    silence: float = SILENCE_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs the control plane until cancelled; `started` gives its URL, with the port it got: `https://host:port` with
    `trust`, `http://` without.

    `listen` is `host:port`; port 0 lets the kernel choose. `hosts` are names and addresses under which we may be
    addressed, besides loopback's and that of `listen`. Everything in `sources` and `state` has been read when it
    starts to listen, so that a proxy that reconnects is never told of less than there is. With `trust`, workloads get
    certificates that hold for `lifetime` seconds, and the port speaks TLS, on loopback plain HTTP too. Raises
    ConfigError where `listen` is no address or cannot be listened on, or the files of `trust` are not good.
    """
    log = make_log()
    release = installed_version()
    cluster = Cluster()
    aggregate = Aggregate(trio.current_time())
    taps = Taps()
    names = (host_of(listen), *hosts)
    authority = None
    if trust is not None:
        own = [name for name in names if name not in ANY_ADDRESS]
        authority = Authority(trust, log, trust_domain=trust_domain, lifetime=lifetime, hosts=own)
    push = Push(
        cluster,
        aggregate,
        taps,
        secrets.token_hex(8),
        log,
        signer=authority,
        heartbeat=heartbeat,
        silence=silence,
    )
    push.egress = partial(egress, cluster)
    files = Files(sources, state, cluster, push.changed, log)
    files.prepare()
    applied = Applied(cluster, files)
    plugins = Plugins(cluster, push.changed, applied.shown, state, log, trust_domain=trust_domain)
    await plugins.prepare()
    audit = Audit(state, log)
    listeners, address = await listen_on(listen)
    meta = MetaApi(release)
    routes = [
        *ObserveApi(cluster, aggregate, taps, push, release).routes(),
        *SeenApi(push.seen).routes(),
        *ExplainApi(cluster, push, taps.recent).routes(),
        *AuthzApi(cluster, aggregate, push.seen).routes(),
        *ResourcesApi(cluster, applied).routes(),
        *IdentityApi(push, authority).routes(),
        *audit.routes(),
        *meta.routes(),
    ]
    meta.describe(routes)
    access = Access(token, names, tls=authority is not None)
    api = Api(Router(routes), access, log, audit=audit, tls=(lambda: authority.context) if authority else None)
    url = f"{'https' if authority is not None else 'http'}://{address}"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.watch, name="files")
        nursery.start_soon(plugins.watch, name="plugins")
        nursery.start_soon(Expiry(cluster, applied, log).run, name="expiry")
        nursery.start_soon(audit.run, name="audit")
        if authority is not None:
            authority.changed = push.trust_changed
            nursery.start_soon(authority.watch, name="trust")
        await nursery.start(api.serve, listeners, name="api")
        log.info("control plane listens", url=url, version=release, resources=len(cluster.held()))
        task_status.started(url)


def host_of(address: str) -> str:
    """The host of a `host:port`; raises ConfigError."""
    try:
        return parse_address(address)[0]
    except ValueError as exc:
        raise ConfigError(f"cannot listen on {address}: {exc}") from exc


async def listen_on(address: str) -> tuple[list[trio.SocketListener], str]:
    """Listeners, and `host:port` that reaches them; raises ConfigError."""
    try:
        host, port = parse_address(address)
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (ValueError, OSError) as exc:
        raise ConfigError(f"cannot listen on {address}: {exc}") from exc
    for spare in listeners[1:]:  # a name with two addresses would get two ports
        await spare.aclose()
    bound = listeners[0].socket.getsockname()
    shown = bound[0] if bound[0] not in ANY_ADDRESS else "127.0.0.1"
    return listeners[:1], f"[{shown}]:{bound[1]}" if ":" in shown else f"{shown}:{bound[1]}"


def installed_version() -> str:
    """The version of the distribution that this is part of."""
    try:
        return version("conduit-mesh")
    except PackageNotFoundError:
        return "0+unknown"


def make_log() -> structlog.typing.FilteringBoundLogger:
    """JSON lines on stderr: stdout is for data, and what a peer says cannot look like a line of our own."""
    log: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.PrintLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
    ).bind(part="control")
    return log
