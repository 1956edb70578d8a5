"""The control plane's composition root: what there is, who knows whom, and which tasks run.

The supervision tree:

    control
    ├─ files         looks at the sources and the state folder
    ├─ expiry        takes faults away whose time is over
    └─ api           accepts
       └─ connection one task each; a websocket's has a nursery of its own
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import structlog
import trio

from mesh.control.access import Access
from mesh.control.aggregate import Aggregate
from mesh.control.api import Api
from mesh.control.applied import Applied
from mesh.control.cluster import Cluster
from mesh.control.expiry import Expiry
from mesh.control.files import Files
from mesh.control.meta_api import MetaApi
from mesh.control.observe_api import ObserveApi
from mesh.control.push import Push
from mesh.control.resources_api import ResourcesApi
from mesh.control.routes import Router
from mesh.control.tap import Taps
from mesh.model.documents import parse_address
from mesh.model.errors import ConfigError
from mesh.model.push import HEARTBEAT_SECONDS, SILENCE_SECONDS

ANY_ADDRESS = ("0.0.0.0", "::")


async def serve(
    *,
    sources: Sequence[Path],
    state: Path,
    listen: str,
    token: str,
    hosts: Sequence[str] = (),
    heartbeat: float = HEARTBEAT_SECONDS,
    silence: float = SILENCE_SECONDS,
    task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Runs the control plane until cancelled; `started` gives its URL, `http://host:port`, with the port it got.

    `listen` is `host:port`; port 0 lets the kernel choose. `hosts` are names and addresses under which we may be
    addressed, besides loopback's and that of `listen`. Everything in `sources` and `state` has been read when it
    starts to listen, so that a proxy that reconnects is never told of less than there is. Raises ConfigError where
    `listen` is no address or cannot be listened on.
    """
    log = make_log()
    release = installed_version()
    cluster = Cluster()
    aggregate = Aggregate(trio.current_time())
    taps = Taps()
    push = Push(cluster, aggregate, taps, secrets.token_hex(8), log, heartbeat=heartbeat, silence=silence)
    files = Files(sources, state, cluster, push.changed, log)
    files.prepare()
    listeners, url, host = await listen_on(listen)
    applied = Applied(cluster, files)
    meta = MetaApi(release)
    routes = [
        *ObserveApi(cluster, aggregate, taps, push, release).routes(),
        *ResourcesApi(cluster, applied).routes(),
        *meta.routes(),
    ]
    meta.describe(routes)
    api = Api(Router(routes), Access(token, {host, *hosts}), log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(files.watch, name="files")
        nursery.start_soon(Expiry(cluster, applied, log).run, name="expiry")
        await nursery.start(api.serve, listeners, name="api")
        log.info("control plane listens", url=url, version=release, resources=len(cluster.held()))
        task_status.started(url)


async def listen_on(address: str) -> tuple[list[trio.SocketListener], str, str]:
    """Listeners, the URL that reaches them, and the host as it was given; raises ConfigError."""
    try:
        host, port = parse_address(address)
        listeners = await trio.open_tcp_listeners(port, host=host)
    except (ValueError, OSError) as exc:
        raise ConfigError(f"cannot listen on {address}: {exc}") from exc
    for spare in listeners[1:]:  # a name with two addresses would get two ports
        await spare.aclose()
    bound = listeners[0].socket.getsockname()
    shown = bound[0] if bound[0] not in ANY_ADDRESS else "127.0.0.1"
    return listeners[:1], f"http://[{shown}]:{bound[1]}" if ":" in shown else f"http://{shown}:{bound[1]}", host


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
