"""The same policies in conduit's words and in Envoy's: routes, timeouts, retries, breaker, limits (pure).

All of them are on the path of every request and none of them ever strikes: what is measured is what it costs to have
them. RULES stand in Gateway API's order, in which conduit sorts them by itself and Envoy tries them as they stand. One
rule leads to the back end and is not among the first; the others lead to a service that has no endpoint, so a run in
which a proxy took another rule fails.
"""

from dataclasses import dataclass
from typing import Literal

from bench.scenarios import SMALL_PATH

SERVICE, ELSEWHERE = "echo", "elsewhere"

Kind = Literal["exact", "regex", "prefix"]
Document = dict[str, object]


@dataclass(frozen=True, slots=True)
class Rule:
    """One match, and the service that its requests go to. A prefix is one of whole segments."""

    kind: Kind
    path: str
    service: str = ELSEWHERE
    header: tuple[str, str] | None = None


RULES = (
    Rule("exact", "/favicon.ico"),
    Rule("exact", "/healthz"),
    Rule("regex", "/orders/[0-9]+/items(/[0-9]+)?"),
    Rule("prefix", "/api/v2/catalogue"),
    Rule("prefix", "/accounts"),
    Rule("prefix", "/api/v2"),
    Rule("prefix", "/static"),
    Rule("prefix", SMALL_PATH, header=("x-canary", "yes")),
    Rule("prefix", SMALL_PATH, SERVICE),
    Rule("prefix", "/"),
)
REQUEST_SECONDS, TRY_SECONDS = 10, 3
RETRIES, STATUSES = 2, (502, 503, 504)
BACKOFF_SECONDS, BACKOFF_MOST_SECONDS = 0.025, 0.25
BUDGET_PERCENT, BUDGET_LEAST = 20, 10  # at least so many retries: a second (conduit), at a time (Envoy)
FAILURES, PROBATION_SECONDS, PROBATION_MOST_SECONDS = 5, 1, 60
EJECT_MOST_PERCENT, PANIC_PERCENT = 50, 30
REQUESTS_PER_SECOND, REQUESTS_IN_HAND = 1_000_000, 10_000  # far above the load


# --- conduit -------------------------------------------------------------------------------------------------------


def conduit_resources() -> list[Document]:
    """`resources` of a proxy.yaml whose `services` are SERVICE and ELSEWHERE."""
    parent = {"group": "", "kind": "Service", "name": SERVICE}
    route = {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": SERVICE},
        "spec": {"parentRefs": [parent], "rules": [_conduit_rule(rule) for rule in RULES]},
    }
    policy = {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "TrafficPolicy",
        "metadata": {"name": SERVICE},
        "spec": {
            "service": SERVICE,
            "retry": {
                "attempts": RETRIES,
                "statuses": list(STATUSES),
                "backoff": BACKOFF_SECONDS,
                "backoffMost": BACKOFF_MOST_SECONDS,
            },
            "budget": {"percent": BUDGET_PERCENT, "perSecond": BUDGET_LEAST},
            "breaker": {
                "failures": FAILURES,
                "probation": PROBATION_SECONDS,
                "probationMost": PROBATION_MOST_SECONDS,
                "ejectMost": EJECT_MOST_PERCENT,
                "panic": PANIC_PERCENT,
            },
            "rateLimits": [{"perSecond": REQUESTS_PER_SECOND, "by": "service"}],
            "concurrency": {"most": REQUESTS_IN_HAND},
        },
    }
    return [route, policy]


def _conduit_rule(rule: Rule) -> Document:
    types = {"exact": "Exact", "regex": "RegularExpression", "prefix": "PathPrefix"}
    match: Document = {"path": {"type": types[rule.kind], "value": rule.path}}
    if rule.header is not None:
        name, value = rule.header
        match["headers"] = [{"name": name, "value": value}]
    return {
        "matches": [match],
        "backendRefs": [{"name": rule.service}],
        "timeouts": {"request": REQUEST_SECONDS, "backendRequest": TRY_SECONDS},
    }


# --- Envoy ---------------------------------------------------------------------------------------------------------


def envoy_routes() -> list[Document]:
    """`routes` of a virtual host; the clusters are named SERVICE and ELSEWHERE."""
    return [{"match": _envoy_match(rule), "route": _envoy_route(rule)} for rule in RULES]


def _envoy_match(rule: Rule) -> Document:
    match: Document
    if rule.kind == "exact":
        match = {"path": rule.path}
    elif rule.kind == "regex":
        match = {"safe_regex": {"regex": rule.path}}
    else:  # Envoy's own prefix is one of characters; `/` is refused as one of segments
        match = {"path_separated_prefix" if rule.path != "/" else "prefix": rule.path}
    if rule.header is not None:
        name, value = rule.header
        match["headers"] = [{"name": name, "string_match": {"exact": value}}]
    return match


def _envoy_route(rule: Rule) -> Document:
    return {
        "cluster": rule.service,
        "timeout": f"{REQUEST_SECONDS}s",
        "retry_policy": {
            "retry_on": "reset,connect-failure,retriable-status-codes",
            "retriable_status_codes": list(STATUSES),
            "num_retries": RETRIES,
            "per_try_timeout": f"{TRY_SECONDS}s",
            "retry_back_off": {"base_interval": f"{BACKOFF_SECONDS}s", "max_interval": f"{BACKOFF_MOST_SECONDS}s"},
        },
    }


def envoy_rate_limit() -> Document:
    """The HTTP filter that goes before the router."""
    every_request = {"default_value": {"numerator": 100, "denominator": "HUNDRED"}}
    return {
        "name": "envoy.filters.http.local_ratelimit",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
            "stat_prefix": SERVICE,
            "token_bucket": {
                "max_tokens": REQUESTS_PER_SECOND,
                "tokens_per_fill": REQUESTS_PER_SECOND,
                "fill_interval": "1s",
            },
            "filter_enabled": every_request,
            "filter_enforced": every_request,
        },
    }


def envoy_cluster() -> Document:
    """What is added to the cluster named SERVICE."""
    return {
        "lb_policy": "LEAST_REQUEST",  # of two that are drawn, as with conduit
        "common_lb_config": {"healthy_panic_threshold": {"value": PANIC_PERCENT}},
        "circuit_breakers": {
            "thresholds": [
                {
                    "max_requests": REQUESTS_IN_HAND,
                    "max_connections": REQUESTS_IN_HAND,
                    "max_pending_requests": REQUESTS_IN_HAND,
                    "retry_budget": {
                        "budget_percent": {"value": BUDGET_PERCENT},
                        "min_retry_concurrency": BUDGET_LEAST,
                    },
                }
            ]
        },
        "outlier_detection": {
            "consecutive_5xx": FAILURES,
            "interval": "1s",
            "base_ejection_time": f"{PROBATION_SECONDS}s",
            "max_ejection_time": f"{PROBATION_MOST_SECONDS}s",
            "max_ejection_percent": EJECT_MOST_PERCENT,
            "enforcing_consecutive_5xx": 100,
            "enforcing_success_rate": 0,
        },
    }
