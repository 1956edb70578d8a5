"""What a service's policies come to at this proxy, ready to be asked; the parts that count survive a new version of the
policy as far as it leaves them alone.

At a caller's proxy: routes, retries, timeouts, faults; limits only where an endpoint has no proxy of its own. Beside
the application: limits only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mesh.proxy.budget import RetryBudget
from mesh.proxy.faults import Faults
from mesh.proxy.latencies import Latencies
from mesh.proxy.limit import Gate, RateLimits
from mesh.proxy.retry import Retrying
from mesh.proxy.route import Compiled, Routes

if TYPE_CHECKING:
    from mesh.model.config import Service


class Plan:
    """See the module. `governed` is False where a request can simply be sent: then nothing else here is looked at."""

    __slots__ = (
        *("budget", "by_route", "faults", "gate", "governed", "latencies", "rates", "retries", "retrying", "routed"),
        *("routes", "traffic", "try_timeout"),
    )

    budget: RetryBudget
    by_route: Mapping[Compiled, Retrying | None]

    def __init__(self, spec: Service, outbound: bool, old: Plan | None, now: float) -> None:
        traffic = self.traffic = spec.traffic
        limited = not outbound or any(not endpoint.meshed for endpoint in spec.endpoints)
        if old is not None and old.traffic.budget == traffic.budget:
            self.budget = old.budget
        else:
            self.budget = RetryBudget(traffic.budget, now)
        self.routes: Routes | None = None
        if traffic.routed:
            kept = old.routes if old is not None and old.traffic.routes == traffic.routes else None
            self.routes = kept or Routes(traffic.routes)
        self.routed = traffic.routed and outbound
        self.retrying = Retrying(traffic.retry) if traffic.retry is not None and outbound else None
        self.by_route = {
            one: Retrying(one.route.retry) if one.route.retry is not None else self.retrying
            for one in (self.routes.compiled if self.routes is not None and outbound else ())
        }
        every = [self.retrying, *self.by_route.values()]
        self.retries = any(one is not None for one in every)
        hedging = any(one is not None and one.hedge is not None for one in every)
        self.latencies: Latencies | None = None
        if hedging:
            self.latencies = (old.latencies if old is not None else None) or Latencies()
        self.try_timeout = spec.timeouts.backend_request if outbound else 0.0
        self.faults = Faults(traffic.faults) if traffic.faults and outbound else None
        self.rates: RateLimits | None = None
        if traffic.rate_limits and limited:
            buckets = old.rates if old is not None and old.traffic.rate_limits == traffic.rate_limits else None
            self.rates = buckets or RateLimits(traffic.rate_limits)
        self.gate: Gate | None = None
        if traffic.concurrency is not None and limited:
            gate = old.gate if old is not None and old.traffic.concurrency == traffic.concurrency else None
            self.gate = gate or Gate(traffic.concurrency)
        self.governed = bool(
            self.routed or self.retries or self.try_timeout or self.faults or self.rates is not None or self.gate
        )
