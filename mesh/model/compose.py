"""Routes, policies and faults as people write them, put together into what a proxy is told about one service. Pure.

Rules:
- Routes are the service's whose Service parent it is (GAMMA, GEP-1426). Those in the service's own namespace are the
  producer's and hold for all callers; those in another are a consumer's, and hold for callers in that namespace,
  in place of all the producer's.
- Where both kinds of route are attached, GRPCRoutes hold and HTTPRoutes do not: the more specific kind wins.
- Of several TrafficPolicies for a service the oldest holds, then the first by name.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from typing import TypeVar

import msgspec

from mesh.model.api import Condition
from mesh.model.flatten import Exists, Scope, age, flatten, problem_with
from mesh.model.gateway import GRPCRouteRule, HTTPRouteRule, is_service
from mesh.model.resources import (
    Fault,
    GRPCRoute,
    HTTPRoute,
    Resource,
    Route,
    TrafficPolicy,
    TrafficPolicySpec,
)
from mesh.model.traffic import Balancing, Injection, Match, Traffic

DEFAULT_NAMESPACE = "default"
"""Of what proxy.yaml names."""

T = TypeVar("T", bound=Resource)


def traffic(
    namespace: str,
    name: str,
    *,
    policies: Iterable[TrafficPolicy] = (),
    routes: Iterable[Route] = (),
    faults: Iterable[Fault] = (),
    caller: str,
    exists: Exists,
) -> Traffic:
    """What a proxy in the namespace `caller` is told of a service. What is about other services is passed over."""
    spec = policy(namespace, name, policies)
    attached = routes_for(namespace, name, routes, caller)
    placed = []
    for route in attached:
        scope = Scope(route.metadata.namespace, (namespace, name), caller, exists)
        placed += flatten(route, scope, spec.retry)
    injections = tuple(_lowered(each) for each in spec.faults) + tuple(
        _injection(fault) for fault in sorted(faults, key=_age) if _is_for(fault, namespace, name)
    )
    limits = tuple(msgspec.structs.replace(limit, match=_folded(limit.match)) for limit in spec.rate_limits)
    return Traffic(
        routes=tuple(route for _, route in sorted(placed, key=lambda each: each[0])),
        routed=bool(attached),
        retry=spec.retry,
        budget=spec.budget,
        breaker=spec.breaker,
        health=spec.health,
        balancing=_balancing(spec.balancing),
        rate_limits=limits,
        concurrency=spec.concurrency,
        faults=injections,
    )


def policy(namespace: str, name: str, policies: Iterable[TrafficPolicy]) -> TrafficPolicySpec:
    """The policy that holds for a service; one of defaults where there is none."""
    found = min((each for each in policies if _is_for(each, namespace, name)), key=_age, default=None)
    return TrafficPolicySpec(name) if found is None else found.spec


def routes_for(namespace: str, name: str, routes: Iterable[Route], caller: str) -> list[Route]:
    """The routes that hold for a service when a proxy in the namespace `caller` asks for it."""
    mine = [route for route in routes if (namespace, name) in parents_of(route)]
    consumers = [route for route in mine if route.metadata.namespace == caller]
    producers = [route for route in mine if route.metadata.namespace == namespace]
    pool = consumers or producers
    return [route for route in pool if isinstance(route, GRPCRoute)] or pool


def parents_of(route: Route) -> list[tuple[str, str]]:
    """Namespace and name of the services that a route is attached to, each once."""
    found = [
        (parent.namespace or route.metadata.namespace, parent.name)
        for parent in route.spec.parent_refs
        if is_service(parent)
    ]
    return list(dict.fromkeys(found))


def inline(name: str, resources: Sequence[Resource], known: Container[str]) -> tuple[Traffic, TrafficPolicySpec]:
    """The same for a service of proxy.yaml, and its policy. `known` are the names of all: `votes`, `votes.demo`."""

    def exists(namespace: str, service: str) -> bool:
        return (service if namespace == DEFAULT_NAMESPACE else f"{service}.{namespace}") in known

    service, _, namespace = name.partition(".")
    namespace = namespace or DEFAULT_NAMESPACE
    policies = [each for each in resources if isinstance(each, TrafficPolicy)]
    told = traffic(
        namespace,
        service,
        policies=policies,
        routes=[each for each in resources if isinstance(each, HTTPRoute | GRPCRoute)],
        faults=[each for each in resources if isinstance(each, Fault)],
        caller=DEFAULT_NAMESPACE,
        exists=exists,
    )
    return told, policy(namespace, service, policies)


# --- conditions ----------------------------------------------------------------------------------------------------


def conditions(
    resource: Resource,
    *,
    policies: Iterable[TrafficPolicy] = (),
    routes: Iterable[Route] = (),
    exists: Exists,
) -> tuple[Condition, ...]:
    """How a resource fares beside all `policies` and `routes` (those for the same services are enough).

    Empty for kinds that nothing can go wrong with. What Gateway API calls UnsupportedValue and the like is refused when
    a resource is read, and never gets here."""
    match resource:
        case HTTPRoute() | GRPCRoute():
            return _accepted_route(resource, list(routes), exists), _resolved(resource, exists)
        case TrafficPolicy():
            namespace, name = resource.metadata.namespace, resource.spec.service
            holding = min((each for each in policies if _is_for(each, namespace, name)), key=_age, default=resource)
            if holding.metadata.name != resource.metadata.name:
                message = f"TrafficPolicy {holding.metadata.name} holds for service {name}"
                return (Condition("Accepted", False, "Conflicted", message),)
            return (_found(namespace, name, exists),)
        case Fault():
            return (_found(resource.metadata.namespace, resource.spec.service, exists),)
    return ()


def _found(namespace: str, name: str, exists: Exists) -> Condition:
    if exists(namespace, name):
        return Condition("Accepted", True, "Accepted")
    return Condition("Accepted", False, "TargetNotFound", f"there is no service {name} in namespace {namespace}")


def _accepted_route(resource: Route, routes: Sequence[Route], exists: Exists) -> Condition:
    parents = parents_of(resource)
    if not parents:
        return Condition("Accepted", False, "NoMatchingParent", "none of parentRefs is a Service")
    for namespace, name in parents:
        if not exists(namespace, name):
            message = f"there is no service {name} in namespace {namespace}"
            return Condition("Accepted", False, "NoMatchingParent", message)
        holding = routes_for(namespace, name, [*routes, resource], resource.metadata.namespace)
        if isinstance(resource, HTTPRoute) and isinstance(holding[0], GRPCRoute):
            message = f"GRPCRoute {holding[0].metadata.name} holds for service {name}: it can have one kind of route"
            return Condition("Accepted", False, "Conflicted", message)
    return Condition("Accepted", True, "Accepted")


def _resolved(resource: Route, exists: Exists) -> Condition:
    rules: Sequence[HTTPRouteRule | GRPCRouteRule] = resource.spec.rules
    for index, rule in enumerate(rules):
        mirrors = [each.request_mirror.backend_ref for each in rule.filters if each.request_mirror is not None]
        for ref in (*rule.backend_refs, *mirrors):
            problem = problem_with(ref, resource.metadata.namespace, exists)
            if problem:
                reason = "BackendNotFound" if is_service(ref) else "InvalidKind"
                return Condition("ResolvedRefs", False, reason, f"rules[{index}]: {problem}")
    return Condition("ResolvedRefs", True, "ResolvedRefs")


# --- parts ---------------------------------------------------------------------------------------------------------


def _age(resource: Resource) -> tuple[float, str, str]:
    return age(resource.metadata)


def _is_for(resource: TrafficPolicy | Fault, namespace: str, name: str) -> bool:
    return resource.spec.service == name and resource.metadata.namespace == namespace


def _injection(fault: Fault) -> Injection:
    spec = fault.spec
    return Injection(fault.metadata.name, _folded(spec.match), spec.percent, spec.delay, spec.abort, spec.until)


def _lowered(injection: Injection) -> Injection:
    return msgspec.structs.replace(injection, match=_folded(injection.match))


def _folded(match: Match) -> Match:
    """Names of headers in lower case, as proxies compare them."""
    if all(header.name.islower() for header in match.headers):
        return match
    headers = tuple(msgspec.structs.replace(header, name=header.name.lower()) for header in match.headers)
    return msgspec.structs.replace(match, headers=headers)


def _balancing(balancing: Balancing) -> Balancing:
    if balancing.hash is None or not balancing.hash.header:
        return balancing
    on = msgspec.structs.replace(balancing.hash, header=balancing.hash.header.lower())
    return msgspec.structs.replace(balancing, hash=on)
