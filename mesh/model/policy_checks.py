"""What a TrafficPolicy and a Fault must be beyond their types: ranges that hang together, names, paths, patterns.

Each function raises ConfigError for the first mistake; fields are told as they stand in YAML.
"""

from __future__ import annotations

import math

from mesh.model.checks import Checks
from mesh.model.resources import FaultSpec, TrafficPolicySpec
from mesh.model.traffic import (
    Balancing,
    BalancingKind,
    Breaker,
    Concurrency,
    HealthCheck,
    HealthKind,
    Injection,
    Match,
    PathKind,
    RateLimit,
    Retry,
    RetryBudget,
)

MAX_ATTEMPTS = 10
"""Further tries of one request."""


def check_policy(checks: Checks, spec: TrafficPolicySpec) -> None:
    """All of a TrafficPolicy's spec."""
    checks.label("spec.service", spec.service)
    checks.tries("spec.timeouts", spec.timeouts.request, spec.timeouts.backend_request)
    if spec.retry is not None:
        _check_retry(checks, spec.retry)
    _check_budget(checks, spec.budget)
    _check_breaker(checks, spec.breaker)
    if spec.health is not None:
        _check_health(checks, spec.health)
    _check_balancing(checks, spec.balancing)
    for index, limit in enumerate(spec.rate_limits):
        _check_rate(checks, f"spec.rateLimits[{index}]", limit)
    if spec.concurrency is not None:
        _check_concurrency(checks, spec.concurrency)
    for index, fault in enumerate(spec.faults):
        _check_injection(checks, f"spec.faults[{index}]", fault)


def check_fault(checks: Checks, spec: FaultSpec) -> None:
    """All of a Fault's spec."""
    checks.label("spec.service", spec.service)
    _check_injection(checks, "spec", spec)


def _check_retry(checks: Checks, retry: Retry) -> None:
    checks.within("spec.retry.attempts", retry.attempts, 0, MAX_ATTEMPTS)
    for index, status in enumerate(retry.statuses):
        checks.within(f"spec.retry.statuses[{index}]", status, 400, 599)
    for index, method in enumerate(retry.methods):
        if method != "*":
            checks.method(f"spec.retry.methods[{index}]", method)
    if retry.backoff > retry.backoff_most:
        reason = f"{retry.backoff:g} s is more than backoffMost, {retry.backoff_most:g} s"
        raise checks.fail("spec.retry.backoff", reason)
    if retry.hedge is not None and retry.attempts < 1:
        raise checks.fail("spec.retry.hedge", "a hedge is one of the further tries: attempts must be 1 or more")


def _check_budget(checks: Checks, budget: RetryBudget) -> None:
    if not 0 <= budget.per_second < math.inf:
        raise checks.fail("spec.budget.perSecond", "must be 0 or more")
    if not budget.window:
        raise checks.fail("spec.budget.window", "must be more than 0")


def _check_breaker(checks: Checks, breaker: Breaker) -> None:
    if not breaker.window:
        raise checks.fail("spec.breaker.window", "must be more than 0")
    if not breaker.probation:
        raise checks.fail("spec.breaker.probation", "must be more than 0")
    if not breaker.requests:
        raise checks.fail("spec.breaker.requests", "must be 1 or more")
    if breaker.probation > breaker.probation_most:
        reason = f"{breaker.probation:g} s is more than probationMost, {breaker.probation_most:g} s"
        raise checks.fail("spec.breaker.probation", reason)


def _check_health(checks: Checks, health: HealthCheck) -> None:
    if not health.path.startswith("/") or not health.path.isprintable() or " " in health.path:
        raise checks.fail("spec.health.path", f"{health.path!r:.80} is no path: it must begin with / and hold no blank")
    if health.service and health.kind is not HealthKind.GRPC:
        raise checks.fail("spec.health.service", "means nothing without `kind: grpc`")
    for name in ("interval", "timeout"):
        if not getattr(health, name):
            raise checks.fail(f"spec.health.{name}", "must be more than 0")
    for name in ("unhealthy", "healthy"):
        if not getattr(health, name):
            raise checks.fail(f"spec.health.{name}", "must be 1 or more")


def _check_balancing(checks: Checks, balancing: Balancing) -> None:
    on = balancing.hash
    if balancing.kind is not BalancingKind.HASH:
        if on is not None:
            raise checks.fail("spec.balancing.hash", "means nothing without `kind: hash`")
        return
    if on is None or not (on.header or on.cookie or on.source):
        raise checks.fail("spec.balancing.hash", "must say what is hashed: a header, a cookie or the source")
    if on.header:
        checks.token("spec.balancing.hash.header", on.header)
    if on.cookie:
        checks.token("spec.balancing.hash.cookie", on.cookie, "name of a cookie")


def _check_rate(checks: Checks, field: str, limit: RateLimit) -> None:
    _check_match(checks, f"{field}.match", limit.match)


def _check_concurrency(checks: Checks, concurrency: Concurrency) -> None:
    if not concurrency.most and not concurrency.adaptive:
        raise checks.fail("spec.concurrency", "must have `most`, or be adaptive")
    if concurrency.adaptive:
        checks.within("spec.concurrency.least", concurrency.least, 1, concurrency.most or 1000)


def _check_injection(checks: Checks, field: str, fault: Injection | FaultSpec) -> None:
    if not fault.delay and fault.abort is None:
        raise checks.fail(f"{field}.delay", "a fault must have a delay, an abort or both")
    if fault.abort is not None:
        checks.within(f"{field}.abort.status", fault.abort.status, 200, 599)
    _check_match(checks, f"{field}.match", fault.match)


def _check_match(checks: Checks, field: str, match: Match) -> None:
    if match.path is not None and match.path.kind is PathKind.REGEX:
        checks.pattern(f"{field}.path.value", match.path.value)
    elif match.path is not None:
        checks.request_path(f"{field}.path.value", match.path.value)
    if match.method:
        checks.method(f"{field}.method", match.method)
    for index, header in enumerate(match.headers):
        checks.token(f"{field}.headers[{index}].name", header.name)
    for name, fields in (("headers", match.headers), ("query", match.query)):
        checks.once(f"{field}.{name}", fields, fold=name == "headers")
        for index, each in enumerate(fields):
            if not each.name:
                raise checks.fail(f"{field}.{name}[{index}].name", "must not be empty")
            if each.regex:
                checks.pattern(f"{field}.{name}[{index}].value", each.value)
