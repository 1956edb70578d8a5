"""Active health checks: each endpoint is asked at intervals, and what the last answers make of it.

`Health` is pure. An endpoint begins fit: one that nobody has asked yet is not worse than one that has not answered yet,
and a proxy that has just started would otherwise have none at all.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.traffic import HealthCheck
from mesh.proxy.dial import ClientTls
from mesh.proxy.health_check import Unhealthy, check
from mesh.proxy.supervise import contained

if TYPE_CHECKING:
    from mesh.proxy.cluster import Shared

JITTER = 0.1
"""Part of the interval by which each may be shorter or longer, so that proxies do not ask in step."""
SHORTEST = 0.01
"""Seconds between checks at least, whatever the policy says."""
FIRST = 1.0
"""Seconds, at most, over which the first checks of a service's endpoints are spread."""


class Health:
    """Whether an endpoint is `fit` for use by what checks said, and the `cause` if not. `policy` has the thresholds."""

    __slots__ = ("_row", "cause", "fit", "policy")

    def __init__(self, policy: HealthCheck) -> None:
        self.policy = policy
        self.fit = True
        self.cause = ""
        self._row = 0  # results in a row that speak against `fit`

    def passed(self) -> bool:
        """A check found it well; tells whether `fit` has changed."""
        if self.fit:
            self._row = 0
            return False
        self._row += 1
        if self._row < self.policy.healthy:
            return False
        self._turn("")
        return True

    def failed(self, cause: str) -> bool:
        """A check found it unwell; tells whether `fit` has changed."""
        if not self.fit:
            self._row = 0
            self.cause = cause
            return False
        self._row += 1
        if self._row < self.policy.unhealthy:
            return False
        self._turn(cause)
        return True

    def _turn(self, cause: str) -> None:
        self.fit = not self.fit
        self.cause = cause
        self._row = 0

    def __repr__(self) -> str:
        return f"<Health {'fit' if self.fit else f'unfit ({self.cause})'}, {self._row} in a row against it>"


class Speaks(Protocol):
    """The service of what is watched: which protocol it speaks."""

    @property
    def http2(self) -> bool | None:
        """HTTP/2, HTTP/1.1, or (None) what its client does: HTTP/1.1 then."""


class Watched(Protocol):
    """What is watched: an endpoint. Its properties are read anew for each check."""

    @property
    def address(self) -> str: ...

    @property
    def spec(self) -> EndpointSpec: ...

    @property
    def cluster(self) -> Speaks: ...

    def health_changed(self) -> None:
        """The `fit` of its health is another."""


async def watch(
    endpoint: Watched,
    health: Health,
    *,
    name: str,
    tls: ClientTls | None,
    shared: Shared,
    ask: Callable[..., Awaitable[None]] = check,
) -> None:
    """Check the endpoint of the service `name` until cancelled: the next check begins an interval after the one before
    it, or when that has ended. What is wrong with a check itself counts as a failure, is logged and counted. `ask` is
    called as `check` is."""
    policy, random = health.policy, shared.random
    interval = max(policy.interval, SHORTEST)
    cause = ""

    async def once() -> None:
        nonlocal cause
        cause = "the check itself failed"
        try:
            await ask(
                endpoint.address,
                policy,
                name=name,
                http2=endpoint.cluster.http2 is True,
                codec=shared.http2,
                limits=shared.limits,
                tls=tls,
                credentials=shared.credentials,
                identity=endpoint.spec.identity,
                own=shared.own,
            )
        except Unhealthy as exc:
            cause = exc.reason
        else:
            cause = ""

    if shared.credentials is not None and tls is None and endpoint.spec.identity:
        await shared.credentials.first()  # that we cannot prove ourselves yet says nothing about the endpoint
    await trio.sleep(random() * min(interval, FIRST))
    while True:
        following = trio.current_time() + interval * (1.0 - JITTER + 2.0 * JITTER * random())
        await contained(f"health {name} {endpoint.address}", shared.reports, shared.log, once)
        if health.failed(cause) if cause else health.passed():
            endpoint.health_changed()
        await trio.sleep_until(following)
