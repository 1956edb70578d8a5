"""TrafficPolicy and Fault: what is right is read, and each mistake is told with its line and field."""

import pytest

from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import Fault, TrafficPolicy
from mesh.model.traffic import (
    Abort,
    Balancing,
    BalancingKind,
    HashOn,
    HealthCheck,
    HealthKind,
    Hedge,
    LimitBy,
    Match,
    PathMatch,
    RateLimit,
)

POLICY = """\
apiVersion: conduit.mesh/v1alpha1
kind: TrafficPolicy
metadata: {name: votes, uid: 1, creationTimestamp: 2026-01-02T03:04:05Z}
spec:
  service: votes
"""
FULL = """\
  timeouts: {request: 2s, backendRequest: 300ms, connect: 1, idle: 1m}
  retry: {attempts: 2, statuses: [500, 503], grpc: [UNAVAILABLE, 4], methods: ["*"], backoff: 10ms,
          hedge: {quantile: 0.9}}
  budget: {percent: 20, perSecond: 10, window: 10s}
  breaker: {failures: 5, probation: 1s, probationMost: 60s, ejectMost: 50, panic: 30, successRate: 0.5}
  health: {kind: http, path: "/healthz?deep=1", interval: 1s}
  balancing: {kind: hash, hash: {header: X-User}, slowStart: 30s, zone: true}
  rateLimits: [{perSecond: 100, by: client}]
  concurrency: {adaptive: true}
  faults: [{delay: 200ms, percent: 50, match: {path: {value: /slow}}}]
"""
FAULT = """\
apiVersion: conduit.mesh/v1alpha1
kind: Fault
metadata: {name: fault-1}
spec: {service: votes, percent: 50, delay: 200ms, abort: {status: 503, grpc: internal}, until: 2026-11-23T22:00:00Z}
"""


def error(text: str) -> str:
    (document,) = load_documents(text, "f")
    with pytest.raises(ConfigError) as caught:
        decode_resource(document)
    return str(caught.value)


def test_a_policy_with_everything() -> None:
    """Each part is read, lengths of time as seconds and codes as numbers."""
    (document,) = load_documents(POLICY + FULL, "f")
    policy = decode_resource(document)
    assert isinstance(policy, TrafficPolicy)
    spec = policy.spec
    assert policy.metadata.created is not None
    assert policy.metadata.created.isoformat() == "2026-01-02T03:04:05+00:00"
    assert (spec.timeouts.backend_request, spec.timeouts.idle) == (0.3, 60)
    assert spec.retry is not None
    assert (spec.retry.grpc, spec.retry.backoff, spec.retry.hedge) == ((14, 4), 0.01, Hedge(0.9))
    assert (spec.breaker.failures, spec.breaker.probation_most) == (5, 60)
    assert spec.health == HealthCheck(HealthKind.HTTP, "/healthz?deep=1", interval=1)
    assert spec.balancing == Balancing(BalancingKind.HASH, HashOn("X-User"), slow_start=30, zone=True)
    assert spec.rate_limits == (RateLimit(100, by=LimitBy.CLIENT),)
    assert spec.faults[0].match == Match(PathMatch("/slow"))


def test_a_fault() -> None:
    """It has an end, in seconds since the epoch."""
    (document,) = load_documents(FAULT, "f")
    fault = decode_resource(document)
    assert isinstance(fault, Fault)
    assert (fault.spec.delay, fault.spec.abort, fault.spec.until) == (0.2, Abort(503, 13), 1795471200)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("retry: {attempts: 11}", "retry.attempts: 11 is not within 0 and 10"),
        ("retry: {statuses: [503, 200]}", "retry.statuses[1]: 200 is not within 400 and 599"),
        ("retry: {grpc: [OOPS]}", "retry.grpc[0]: 'OOPS' is no gRPC code; "),
        ("retry: {methods: [get]}", "retry.methods[0]: 'get' is no method: they are written in capitals"),
        ("retry: {methods: ['']}", "retry.methods[0]: '' is no method"),
        ("retry: {backoff: 2s}", "retry.backoff: 2 s is more than backoffMost, 1 s"),
        ("retry: {attempts: 0, hedge: {}}", "retry.hedge: a hedge is one of the further tries: attempts must be 1 or"),
        ("retry: {hedge: {quantile: 95}}", "retry.hedge.quantile: must be 1 or less"),
        ("budget: {percent: 101}", "budget.percent: must be 100 or less"),
        ("budget: {perSecond: -1}", "budget.perSecond: must be 0 or more"),
        ("budget: {perSecond: .inf}", "budget.perSecond: must be 0 or more"),
        ("budget: {window: 0}", "budget.window: must be more than 0"),
        ("breaker: {window: 0s}", "breaker.window: must be more than 0"),
        ("breaker: {probation: 0}", "breaker.probation: must be more than 0"),
        ("breaker: {probation: 2m}", "breaker.probation: 120 s is more than probationMost, 60 s"),
        ("breaker: {requests: 0}", "breaker.requests: must be 1 or more"),
        ("breaker: {panic: 200}", "breaker.panic: must be 100 or less"),
        ("breaker: {successRate: 95}", "breaker.successRate: must be 1 or less"),
        ("breaker: {success_rate: 1}", "breaker.success_rate: is no field here; did you mean successRate?"),
        ("health: {kind: udp}", "health.kind: 'udp' is none of http, grpc, tcp"),
        ("health: {path: healthz}", "health.path: 'healthz' is no path: it must begin with / and hold no blank"),
        ("health: {path: /a b}", "health.path: '/a b' is no path: "),
        ("health: {service: a}", "health.service: means nothing without `kind: grpc`"),
        ("health: {interval: 0}", "health.interval: must be more than 0"),
        ("health: {timeout: 0}", "health.timeout: must be more than 0"),
        ("health: {unhealthy: 0}", "health.unhealthy: must be 1 or more"),
        ("health: {healthy: 0}", "health.healthy: must be 1 or more"),
        ("balancing: {kind: hash}", "balancing.hash: must say what is hashed: a header, a cookie or the source"),
        ("balancing: {kind: hash, hash: {}}", "balancing.hash: must say what is hashed"),
        ("balancing: {hash: {source: true}}", "balancing.hash: means nothing without `kind: hash`"),
        ("balancing: {kind: hash, hash: {header: a b}}", "balancing.hash.header: 'a b' is no header name"),
        ("balancing: {kind: hash, hash: {cookie: a=b}}", "balancing.hash.cookie: 'a=b' is no name of a cookie"),
        ("rateLimits: [{perSecond: 0}]", "rateLimits[0].perSecond: must be more than 0"),
        ("rateLimits: [{perSecond: .inf}]", "rateLimits[0].perSecond: must be a number that is finite"),
        ("rateLimits: [{by: client}]", "rateLimits[0].perSecond: is required"),
        ("rateLimits: [{perSecond: 1, match: {path: {value: a}}}]", "rateLimits[0].match.path.value: 'a' is no path"),
        ("concurrency: {}", "concurrency: must have `most`, or be adaptive"),
        ("concurrency: {adaptive: true, least: 0}", "concurrency.least: 0 is not within 1 and 1000"),
        ("concurrency: {adaptive: true, least: 5, most: 4}", "concurrency.least: 5 is not within 1 and 4"),
        ("faults: [{percent: 5}]", "faults[0].delay: a fault must have a delay, an abort or both"),
        ("faults: [{abort: {status: 100}}]", "faults[0].abort.status: 100 is not within 200 and 599"),
        ("faults: [{abort: {grpc: 17}}]", "faults[0].abort.grpc: must be 16 or less"),
        ("faults: [{delay: 1s, until: never}]", "faults[0].until: 'never' is no point of time such as "),
        ("faults: [{delay: 1, match: {path: {kind: regex, value: (}}}]", "faults[0].match.path.value: '(' is no regul"),
        ("faults: [{delay: 1, match: {method: get}}]", "faults[0].match.method: 'get' is no method"),
        ("faults: [{delay: 1, match: {headers: [{name: 'a b', value: c}]}}]", "faults[0].match.headers[0].name: 'a b'"),
        (
            "faults: [{delay: 1, match: {headers: [{name: a, value: b}, {name: A, value: c}]}}]",
            "faults[0].match.headers[1].name: 'A' is there twice",
        ),
        (
            "faults: [{delay: 1, match: {query: [{name: '', value: c}]}}]",
            "faults[0].match.query[0].name: must not be empty",
        ),
        (
            "faults: [{delay: 1, match: {query: [{name: a, value: '*', regex: true}]}}]",
            "faults[0].match.query[0].value: '*' is no regular expression: no argument for repetition operator: *",
        ),
    ],
)
def test_mistakes_in_a_policy(line: str, message: str) -> None:
    """Each is told with its line and field."""
    assert error(f"{POLICY}  {line}\n").startswith(f"f:6: spec.{message}")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("service: votes", "service: Votes", "service: 'Votes' is no name"),
        ("service: votes, ", "", "service: is required"),
        ("percent: 50", "percent: -1", "percent: must be 0 or more"),
        ("status: 503", "status: 600", "abort.status: 600 is not within 200 and 599"),
        (
            "delay: 200ms, abort: {status: 503, grpc: internal}",
            "percnt: 5",
            "percnt: is no field here; did you mean pe",
        ),
    ],
)
def test_mistakes_in_a_fault(old: str, new: str, message: str) -> None:
    """Each is told with its line and field."""
    assert error(FAULT.replace(old, new)).startswith(f"f:4: spec.{message}")


def test_time_of_creation() -> None:
    """Kubernetes writes null before it knows; what is no time is refused."""
    (document,) = load_documents(POLICY.replace("2026-01-02T03:04:05Z", "null"), "f")
    assert decode_resource(document).metadata.created is None
    assert error(POLICY.replace("2026-01-02T03:04:05Z", "then")) == (
        "f:3: metadata.creationTimestamp: 'then' is no point of time such as 2026-11-23T22:00:00Z"
    )
