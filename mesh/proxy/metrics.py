"""The proxy's series in Prometheus' terms, named and labelled as linkerd-proxy names them, so that its dashboards work.

`conduit_*` are ours. Rendering is prometheus-client's; it is imported at the first scrape, since most sidecars never
see one.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from mesh.model.reports import LATENCY_BOUNDS_MS, LINKERD_BOUNDS_MS
from mesh.proxy.report import Reports, Series, Tally

if TYPE_CHECKING:
    from prometheus_client.core import Metric

LABELS = (
    *("direction", "authority", "dst_workload", "client_id", "tls", "protocol", "status_code", "grpc_status"),
    *("classification", "outcome", "error", "route"),
)
_FOLD = [bisect_left(LINKERD_BOUNDS_MS, bound) for bound in LATENCY_BOUNDS_MS] + [len(LINKERD_BOUNDS_MS)]


TALLIES = {
    Tally.RETRY: ("Requests sent again by policy, by what the try before ended with.", "reason"),
    Tally.RETRY_REFUSED: ("Retries and hedges that policy wanted and something did not allow.", "reason"),
    Tally.HEDGE: ("Second tries beside a slow first one: started, and won.", "result"),
    Tally.MIRROR: ("Copies of requests, by what became of them.", "result"),
    Tally.EJECTION: ("Endpoints taken out of use after failures.", "peer"),
    Tally.FAULT: ("Faults injected on purpose.", "fault"),
    Tally.ALLOWED: ("Requests and connections that policy let through, by the policy.", "policy"),
    Tally.DENIED: ("Requests and connections that policy refused, by the policy.", "policy"),
    Tally.AUDITED: ("Requests and connections that a policy which only audits has noted.", "policy"),
    Tally.AUTHORIZER: (
        "External authorisers, by what came of asking: allowed, denied, failed, open (failed, let through), cached.",
        "result",
    ),
    Tally.LIMITED: ("Requests refused by a rate or concurrency limit.", "limit"),
}
"""Help text and name of the second label."""


def labels_of(series: Series) -> list[str]:
    """Values for LABELS."""
    key = series.key
    outbound = key.direction == "outbound"
    return [
        key.direction,
        key.service,
        key.peer if outbound else "",
        "" if outbound else key.peer,
        key.tls,
        key.protocol,
        str(key.status) if key.status else "",
        str(key.grpc_status) if key.grpc_status >= 0 else "",
        "success" if key.success else "failure",
        key.outcome,
        key.error,
        key.route,
    ]


def latency_buckets(series: Series) -> list[tuple[str, float]]:
    """Cumulative counts at linkerd-proxy's bounds, in milliseconds, `+Inf` last."""
    folded = [0] * (len(LINKERD_BOUNDS_MS) + 1)
    for index, count in enumerate(series.buckets):
        folded[_FOLD[index]] += count
    total = 0
    rows = []
    for bound, count in zip([*map(_bound, LINKERD_BOUNDS_MS), "+Inf"], folded, strict=True):
        total += count
        rows.append((bound, float(total)))
    return rows


def _bound(bound: float) -> str:
    return str(float(bound))


class ProxyCollector:
    """A prometheus_client collector over `reports`."""

    def __init__(self, reports: Reports) -> None:
        self._reports = reports

    def collect(self) -> Iterator[Metric]:
        """All families, from what the reports hold now."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        requests = CounterMetricFamily("request", "Requests, counted when they are over.", labels=LABELS)
        responses = CounterMetricFamily("response", "Responses, our own errors among them.", labels=LABELS)
        latency = HistogramMetricFamily(
            "response_latency_ms", "From request head to response head, in milliseconds.", labels=LABELS
        )
        for series in self._reports.series:
            labels = labels_of(series)
            requests.add_metric(labels, series.requests)
            if series.key.status:
                responses.add_metric(labels, series.requests)
                latency.add_metric(labels, latency_buckets(series), series.latency_ms)
        yield requests
        yield responses
        yield latency
        opened = CounterMetricFamily("tcp_open", "Connections opened.", labels=("direction", "authority"))
        closed = CounterMetricFamily("tcp_close", "Connections closed.", labels=("direction", "authority"))
        now = GaugeMetricFamily("tcp_open_connections", "Connections open now.", labels=("direction", "authority"))
        read = CounterMetricFamily("tcp_read_bytes", "Bytes read from the peer.", labels=("direction", "authority"))
        written = CounterMetricFamily(
            "tcp_write_bytes", "Bytes written to the peer.", labels=("direction", "authority")
        )
        for one in self._reports.all_connections():
            where = [one.direction, one.service]
            opened.add_metric(where, one.opened)
            closed.add_metric(where, one.closed)
            now.add_metric(where, one.open)
            read.add_metric(where, one.read_bytes)
            written.add_metric(where, one.write_bytes)
        yield from (opened, closed, now, read, written)
        refused = CounterMetricFamily(
            "conduit_refused", "What was refused or failed at a bound or check, by reason.", labels=("reason", "where")
        )
        for (reason, where_), count in self._reports.refusals.items():
            refused.add_metric([reason, where_], count)
        yield refused
        yield from self._tallies()
        yield from self._certificate()

    def _certificate(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        own = self._reports.certificate()
        if own is None:
            return
        expires = GaugeMetricFamily(
            "conduit_identity_cert_expiration_timestamp_seconds",
            "When this proxy's certificate ends, in seconds since the epoch; 0: there is none yet.",
            value=own.expires,
        )
        refreshed = CounterMetricFamily(
            "conduit_identity_cert_refresh", "Certificates asked for, by what came of it.", labels=("result",)
        )
        refreshed.add_metric(["installed"], own.installed)
        refreshed.add_metric(["failed"], own.failed)
        yield from (expires, refreshed)

    def _tallies(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for what, (text, label) in TALLIES.items():
            family = CounterMetricFamily(what.value, text, labels=("service", label))
            for (kind, service, detail), count in self._reports.tallies.items():
                if kind is what:
                    family.add_metric([service, detail], count)
            yield family
        states = GaugeMetricFamily(
            "conduit_endpoint_state",
            "1 for each endpoint of a called service, by how it fares: in_use, unhealthy, ejected, down.",
            labels=("service", "dst_workload", "endpoint", "state"),
        )
        for one in self._reports.states()[: self._reports.limit]:
            states.add_metric([one.service, one.workload, one.address, one.state], 1)
        yield states


def render(reports: Reports) -> tuple[bytes, str]:
    """The exposition and its content type."""
    from prometheus_client import CollectorRegistry, ProcessCollector
    from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(ProxyCollector(reports))
    ProcessCollector(registry=registry)
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
