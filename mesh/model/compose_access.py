"""Policies as people write them, put together into what one proxy is told of who may call whom. Pure.

Rules:
- A policy is for what its target names: all of the mesh, if it is of the namespace `conduit` and says Mesh; its own
  namespace; a service or a workload of its own namespace. What is for others is passed over.
- AuthorizationPolicies and EgressPolicies add up, wherever they aim; see `mesh.proxy.authorize` and `egress` for what
  they come to. They are told sorted by name.
- Of DefaultPolicies the nearest word counts, field by field: workload, service, namespace, mesh. Of several that are
  as near the oldest's counts, then the first's by name.
- A service that authorises is not guarded by itself, nor by one that it guards in turn: the question whether a question
  may be asked would have no end.
- Health checks that a service's TrafficPolicy asks for are what its proxies must let through.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TypeVar

from mesh.model.api import Condition
from mesh.model.authorization import (
    Action,
    Authorization,
    Authorizer,
    Default,
    Egress,
    EgressRule,
    Operation,
    Rule,
    Strictness,
)
from mesh.model.config import InboundListener, ProxyConfig
from mesh.model.flatten import Exists, age
from mesh.model.identity import TRUST_DOMAIN
from mesh.model.resources import (
    MESH_NAMESPACE,
    AuthorizationPolicy,
    DefaultPolicy,
    EgressPolicy,
    ExternalAuthorizer,
    Metadata,
    Policy,
    PolicyPlugin,
    Resource,
    Target,
    TargetKind,
)
from mesh.model.traffic import HealthCheck, HealthKind

DEFAULT_NAMESPACE = "default"
"""Of what proxy.yaml names."""
HEALTH_METHOD = "grpc.health.v1.Health/Check"
_OPEN = Egress()
_NEAR = {TargetKind.MESH: 0, TargetKind.NAMESPACE: 1, TargetKind.SERVICE: 2, TargetKind.WORKLOAD: 3}

T = TypeVar("T", bound=Policy)
Key = tuple[str, str]
"""Namespace and name of a service."""


def authorization(
    namespace: str,
    service: str,
    workload: str,
    *,
    policies: Iterable[AuthorizationPolicy] = (),
    defaults: Iterable[DefaultPolicy] = (),
    plugins: Iterable[PolicyPlugin] = (),
    health: HealthCheck | None = None,
    trust_domain: str = TRUST_DOMAIN,
    otherwise: Default = Default.ALL_UNAUTHENTICATED,
) -> Authorization:
    """What decides about requests to `service` at the proxies of `workload`, which is behind it; both are of
    `namespace`. `otherwise` holds where no DefaultPolicy says another."""
    services = (service,) if service else ()
    nearest = _for(defaults, namespace, services, workload)
    inbound = next((each for each in nearest if each.spec.inbound is not None), None)
    default = inbound.spec.inbound if inbound is not None else None
    return Authorization(
        default=default if default is not None else otherwise,
        default_from=_name(inbound.metadata) if inbound is not None else "",
        strictness=next((each.spec.tls for each in nearest if each.spec.tls is not None), Strictness.PERMISSIVE),
        rules=tuple(
            Rule(_name(each.metadata), each.spec.action, each.spec.sources, each.spec.operations)
            for each in sorted(_for(policies, namespace, services, workload), key=_by_name)
        ),
        probes=probes(health),
        authorizers=_authorizers(namespace, service, workload, list(plugins)),
        networks=next((each.spec.networks for each in nearest if each.spec.networks), ()),
        trust_domain=trust_domain,
    )


def egress(
    namespace: str,
    workload: str,
    services: Collection[str] = (),
    *,
    policies: Iterable[EgressPolicy] = (),
    defaults: Iterable[DefaultPolicy] = (),
    otherwise: Egress = _OPEN,
) -> Egress:
    """What a workload may call outside of the mesh. `services` are those of its namespace that it is behind;
    `otherwise` is what is in force beside the policies, and its default where no DefaultPolicy says another."""
    nearest = _for(defaults, namespace, services, workload)
    word = next((each for each in nearest if each.spec.egress is not None), None)
    action: Action | None = word.spec.egress if word is not None else None
    rules = tuple(
        EgressRule(_name(each.metadata), each.spec.action, each.spec.destinations)
        for each in sorted(_for(policies, namespace, services, workload), key=_by_name)
    )
    return Egress(
        default=action if action is not None else otherwise.default,
        default_from=_name(word.metadata) if word is not None else otherwise.default_from,
        rules=(*otherwise.rules, *rules),
    )


def probes(health: HealthCheck | None) -> tuple[Operation, ...]:
    """The requests that a health check makes; none for one that only connects."""
    if health is None or health.kind is HealthKind.TCP:
        return ()
    if health.kind is HealthKind.GRPC:
        return (Operation(grpc_methods=(HEALTH_METHOD,)),)
    path = health.path.partition("?")[0].replace("*", "%2A")  # the character itself
    return (Operation(methods=("GET", "HEAD"), paths=(path,)),)


# --- proxy.yaml ----------------------------------------------------------------------------------------------------


def inline(
    config: ProxyConfig, inbound: InboundListener, resources: Sequence[Resource], health: HealthCheck | None = None
) -> Authorization:
    """Who may call the application behind an inbound listener of proxy.yaml, of which `resources` are the inline ones.

    They are for the service that the listener names (`votes`, `votes.demo`; without a namespace it is of `default`).
    Where it names none, those hold that are for all of `default`, for the mesh, or for the workload. `health` is what
    the TrafficPolicy of that service says."""
    name, _, namespace = inbound.service.partition(".")
    return authorization(
        namespace or DEFAULT_NAMESPACE,
        name,
        _workload(config),
        policies=[each for each in resources if isinstance(each, AuthorizationPolicy)],
        defaults=[each for each in resources if isinstance(each, DefaultPolicy)],
        plugins=[each for each in resources if isinstance(each, PolicyPlugin)],
        health=health,
        trust_domain=config.identity.trust_domain if config.identity is not None else TRUST_DOMAIN,
        otherwise=inbound.policy,
    )


def inline_egress(config: ProxyConfig, resources: Sequence[Resource]) -> Egress:
    """What the application may call outside of the mesh: what `egress` of proxy.yaml says, and the inline `resources`
    for the services and the workload of this proxy, for `default` or for the mesh."""
    homes = [inbound.service.partition(".") for inbound in config.inbound if inbound.service]
    namespaces = [home or DEFAULT_NAMESPACE for _, _, home in homes]
    return egress(
        namespaces[0] if namespaces else DEFAULT_NAMESPACE,
        _workload(config),
        [name for name, _, home in homes if (home or DEFAULT_NAMESPACE) == namespaces[0]],
        policies=[each for each in resources if isinstance(each, EgressPolicy)],
        defaults=[each for each in resources if isinstance(each, DefaultPolicy)],
        otherwise=config.egress,
    )


def _workload(config: ProxyConfig) -> str:
    return config.control.workload if config.control is not None else config.name


# --- conditions ----------------------------------------------------------------------------------------------------


def conditions(
    resource: Policy, *, defaults: Iterable[DefaultPolicy] = (), exists: Exists, works: Exists
) -> tuple[Condition, ...]:
    """How a policy fares beside all `defaults` (those of its namespace are enough). `exists` tells whether there is a
    service of a namespace and name, `works` whether there is a workload."""
    namespace, target = resource.metadata.namespace, resource.spec.target
    found = {TargetKind.SERVICE: exists, TargetKind.WORKLOAD: works}.get(target.kind)
    accepted = Condition("Accepted", True, "Accepted")
    if found is not None and not found(namespace, target.name):
        message = f"there is no {target.kind.lower()} {target.name} in namespace {namespace}"
        accepted = Condition("Accepted", False, "TargetNotFound", message)
    elif isinstance(resource, DefaultPolicy):
        accepted = _overruled(resource, defaults) or accepted
    if not isinstance(resource, PolicyPlugin) or resource.spec.authorizer is None:
        return (accepted,)
    key = service_key(resource.spec.authorizer.service, namespace)
    if key is not None and not exists(*key):
        message = f"there is no service {key[1]} in namespace {key[0]}"
        return accepted, Condition("ResolvedRefs", False, "BackendNotFound", message)
    return accepted, Condition("ResolvedRefs", True, "ResolvedRefs")


def _overruled(resource: DefaultPolicy, defaults: Iterable[DefaultPolicy]) -> Condition | None:
    """Why it does not count, or not in all that it says: an older one is for the same."""
    home, target = resource.metadata.namespace, resource.spec.target
    for other in sorted(defaults, key=_age):
        if other.metadata.namespace != home or other.spec.target != target or _age(other) >= _age(resource):
            continue
        twice = [name for name in ("inbound", "tls", "egress", "networks") if _says(resource, name, other)]
        if twice:
            message = f"DefaultPolicy {other.metadata.name} holds for the same target: {', '.join(twice)}"
            return Condition("Accepted", False, "Conflicted", message)
    return None


def _says(resource: DefaultPolicy, field: str, other: DefaultPolicy) -> bool:
    return bool(getattr(resource.spec, field)) and bool(getattr(other.spec, field))


# --- parts ---------------------------------------------------------------------------------------------------------


def concerns(resource: Policy, namespace: str, services: Collection[str], workload: str) -> bool:
    """Whether a policy is for a workload of a namespace, or for one of the `services` that it is behind."""
    target: Target = resource.spec.target
    home = resource.metadata.namespace
    if target.kind is TargetKind.MESH:
        return home == MESH_NAMESPACE
    if home != namespace:
        return False
    if target.kind is TargetKind.SERVICE:
        return target.name in services
    return target.kind is TargetKind.NAMESPACE or target.name == workload


def service_key(text: str, home: str) -> Key | None:
    """Namespace and name of the service that an authoriser is named by in the namespace `home`; None for host:port."""
    if ":" in text:
        return None
    name, _, rest = text.partition(".")
    return rest.partition(".")[0] or home, name


def _for(policies: Iterable[T], namespace: str, services: Collection[str], workload: str) -> list[T]:
    """Those that are for it, the nearest first."""
    mine = [each for each in policies if concerns(each, namespace, services, workload)]
    return sorted(mine, key=lambda each: (-_NEAR[each.spec.target.kind], _age(each)))


def _age(resource: Policy) -> tuple[float, str, str]:
    return age(resource.metadata)


def _by_name(resource: Policy) -> Key:
    return resource.metadata.namespace, resource.metadata.name


def _name(metadata: Metadata) -> str:
    return f"{metadata.namespace}/{metadata.name}"


def _authorizers(
    namespace: str, service: str, workload: str, plugins: Sequence[PolicyPlugin]
) -> tuple[Authorizer, ...]:
    told = []
    for plugin in sorted(_for(plugins, namespace, (service,) if service else (), workload), key=_by_name):
        external = plugin.spec.authorizer
        if external is None:
            continue
        key = service_key(external.service, plugin.metadata.namespace)
        if key is not None and _leads_to(key, (namespace, service), plugins):
            continue
        told.append(_authorizer(plugin, external, key, namespace))
    return tuple(told)


def _leads_to(start: Key, goal: Key, plugins: Sequence[PolicyPlugin]) -> bool:
    """Whether a request to `start` may ask `goal`: it is that, or is guarded by what may ask it."""
    seen: set[Key] = set()
    due = [start]
    while due:
        key = due.pop()
        if key == goal:
            return True
        if key in seen:
            continue
        seen.add(key)
        for plugin in plugins:
            external, target = plugin.spec.authorizer, plugin.spec.target
            # A workload may be behind any service of its namespace.
            workload = target.name if target.kind is TargetKind.WORKLOAD else ""
            if external is None or not concerns(plugin, key[0], (key[1],), workload):
                continue
            asked = service_key(external.service, plugin.metadata.namespace)
            if asked is not None:
                due.append(asked)
    return False


def _authorizer(plugin: PolicyPlugin, external: ExternalAuthorizer, key: Key | None, namespace: str) -> Authorizer:
    service = external.service
    if key is not None:
        service = key[1] if key[0] == namespace else f"{key[1]}.{key[0]}"
    return Authorizer(
        name=_name(plugin.metadata),
        service=service,
        timeout=external.timeout,
        fail_open=external.fail_open,
        operations=external.operations,
        headers=tuple(dict.fromkeys(header.lower() for header in external.headers)),
        cache=external.cache,
    )
