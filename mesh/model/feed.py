"""What the dashboard and `conduit top` are pushed: rows of everything that is going on, once a second, as deltas.

General theory. A watcher of /api/v1/feed/watch gets a `Start`, then one `Tick` a second. The first ticks are `full`:
together they hold every row there is (several messages, for each stays under 1 MiB). Each later tick has the rows that
are new or other than before, whole, and in `gone` the ids of those that are no more. A watcher that is slow gets fewer
ticks, each with the newest rows, never older ones: whoever missed some is sent a full one.

Rates and quantiles are those of the last WINDOW_SECONDS, exactly as /api/v1/stat counts them with that window.
Every row has an `id`, unique within its list and stable: `namespace/name` for services and workloads.
"""

from __future__ import annotations

import msgspec

WINDOW_SECONDS = 10.0
TICK_SECONDS = 1.0
SPARK_TICKS = 60
"""Ticks of which a full row carries what it was before: a minute."""


class Golden(msgspec.Struct, frozen=True):
    """What every row tells of its requests. None where nothing was asked."""

    rps: float
    success: float | None
    """0 to 1."""
    p50: float | None
    """Milliseconds to the response head, as are the next two."""
    p95: float | None
    p99: float | None
    secured: float | None
    """Share of the requests that went over mTLS with both sides proved, 0 to 1."""


class Spark(msgspec.Struct, frozen=True):
    """The last ticks, oldest first, at most SPARK_TICKS; None where nothing was asked. In full ticks alone: whoever
    watches adds what later ticks say."""

    rps: tuple[float, ...] = ()
    success: tuple[float | None, ...] = ()
    p95: tuple[float | None, ...] = ()


class ServiceRow(msgspec.Struct, frozen=True):
    """A service of the mesh, or a place outside that is called (its namespace is empty then)."""

    id: str
    namespace: str
    name: str
    protocol: str
    golden: Golden
    tcp_open: int
    endpoints: int
    """Ready ones, as the control plane knows."""
    troubled: dict[str, int]
    """State (`unhealthy`, `ejected`, `down`) -> endpoints that at least one caller has in it."""
    health: str
    """ok | degraded | failing | idle | down: `down` has no endpoint, `idle` no request in the window."""
    why: str
    """A sentence for people where it is degraded, failing or down; else empty."""
    workloads: tuple[str, ...] = ()
    """Ids of those behind it."""
    routes: int = 0
    """How many routes it has."""
    policies: int = 0
    """How many authorization policies target it."""
    spark: Spark | None = None


class WorkloadRow(msgspec.Struct, frozen=True):
    """A workload: what its proxies saw inbound, and of the requests that they sent."""

    id: str
    namespace: str
    name: str
    protocol: str
    golden: Golden
    outbound: Golden
    tcp_open: int
    endpoints: int
    proxies: int
    """Connected now."""
    health: str
    why: str
    services: tuple[str, ...] = ()
    """Ids of those that it is behind."""
    identity: str = ""
    spark: Spark | None = None


class EdgeRow(msgspec.Struct, frozen=True):
    """Requests of one workload to one workload behind a service, as the caller's proxies saw them.

    `source` and `target` are ids of workloads. `source` is empty for callers without a proxy, `target` for requests
    that reached no endpoint; outside of the mesh `target` is an address."""

    id: str
    source: str
    service: str
    """Id of the service."""
    target: str
    golden: Golden
    secured: bool
    reason: str
    """Why it is not secured."""
    client_identity: str = ""
    server_identity: str = ""


class RouteRow(msgspec.Struct, frozen=True):
    """Requests that took one rule of a service's routes to one backend: a canary's halves are two rows of one rule.

    A backend that gets nothing has a row too, if the rule names it."""

    id: str
    service: str
    """Id of the service that was called."""
    route: str
    """`ROUTE/RULE`; empty where the service has no routes or none matched."""
    backend: str
    """Id of the service that the rule sends to; the called one where it names none."""
    weight: int | None
    """As configured; None where the rule does not split."""
    share: float | None
    """Of the rule's requests in the window, that this backend got: 0 to 1."""
    golden: Golden
    matches: str = ""
    """What the rule matches, for people: `GET /api/*`."""


class EndpointRow(msgspec.Struct, frozen=True):
    """One endpoint of a service. `state` is the worst that a caller has it in: in_use | unhealthy | ejected | down;
    empty where nobody has called it yet."""

    id: str
    service: str
    workload: str
    address: str
    version: str
    weight: int
    state: str
    seen_by: int
    """Proxies that have it in that state."""


class ErrorRow(msgspec.Struct, frozen=True):
    """One kind of failure of a service's requests within the last 15 minutes, newest first."""

    id: str
    service: str
    workload: str
    """Who saw it: the caller's id where `direction` is outbound, else that of who was called."""
    direction: str
    """inbound | outbound"""
    peer: str
    """Of an outbound one: the endpoint's workload or address; else the client's identity. Empty if unknown."""
    route: str
    status: int
    grpc_status: int
    """-1 where it was not gRPC."""
    reason: str
    """The word of `conduit-error` where a proxy made the error; empty where the application did."""
    cause: str
    """A sentence for people."""
    count: int
    first: float
    """Seconds since the epoch, as is `last`."""
    last: float


class ProxyRow(msgspec.Struct, frozen=True):
    """One proxy that is connected."""

    id: str
    workload: str
    """The workload's id."""
    version: str
    acknowledged: int
    nacks: dict[str, str]
    """Service -> why it refused the newest configuration."""
    skew: float
    connections: int
    """Open ones, both directions."""


class Totals(msgspec.Struct, frozen=True):
    """The mesh as a whole: each request is counted once, at the proxy beside who was called."""

    golden: Golden
    services: int
    workloads: int
    proxies: int
    unhealthy: int
    """Services that are degraded, failing or down."""
    tcp_open: int
    spark: Spark | None = None


class Start(msgspec.Struct, frozen=True, tag="start"):
    """The first message."""

    epoch: str
    version: str
    window: float = WINDOW_SECONDS
    tick: float = TICK_SECONDS
    horizon: float = 900.0
    trust_domain: str = ""


class Tick(msgspec.Struct, frozen=True, tag="tick"):
    """One second's news."""

    at: float
    """Seconds since the epoch, the control plane's clock."""
    full: bool = False
    """The first part of all rows there are: what was known before is void. Further parts follow with full=False."""
    totals: Totals | None = None
    services: tuple[ServiceRow, ...] = ()
    workloads: tuple[WorkloadRow, ...] = ()
    edges: tuple[EdgeRow, ...] = ()
    routes: tuple[RouteRow, ...] = ()
    endpoints: tuple[EndpointRow, ...] = ()
    errors: tuple[ErrorRow, ...] = ()
    proxies: tuple[ProxyRow, ...] = ()
    gone: dict[str, tuple[str, ...]] = {}
    """List (`services`, `edges`, ...) -> ids that are no more."""


Feed = Start | Tick


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One step of a chart; None where nothing was asked."""

    rps: float
    success: float | None
    p50: float | None
    p95: float | None
    p99: float | None


class Chart(msgspec.Struct, frozen=True):
    """Answer of /api/v1/series: points `step` seconds apart, the last of which ends at `until` (seconds since the
    epoch). Each point is of its own step alone."""

    until: float
    step: float
    points: tuple[Point, ...]


class TaskTree(msgspec.Struct, frozen=True):
    """Answer of /api/v1/proxies/{proxy}/tasks: the proxy's nursery tree, as /tasks prints it on its admin port."""

    proxy: str
    lines: tuple[str, ...]
    """Indented by two blanks a level."""
