"""Folds what the sources hold into one state: resources by key, and the services that follow from them. Pure.

A service exists if a workload or an endpoint is behind it, or if a route of its own namespace says how requests to it
are treated: `votes` may be nothing but a route to `votes-v1` and `votes-v2`.

Rules:
- A source speaks in whole files. A new version of a file replaces all that the file held before, or is refused whole.
- A resource belongs to one file. Of two files that hold it, the one with the lower rank has it in force (what was
  applied over the API goes before what stands in a watched folder), then the one that had it first. The other's is
  refused, and takes its place when the first is gone.
- What a route to a service that is not there means depends on whether that is there: a service that comes or goes
  touches those whose routes refer to it.
- Policies of access are for all services that their targets name, there now or not: they touch those that there are.
  Each touches its namespace too (a service without name), for what an application may call outside is no service's.
- `version` grows when what a proxy can be told has changed or may have, and only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar, assert_never

from mesh.model.api import ResourceStatus
from mesh.model.compose import parents_of
from mesh.model.errors import ConfigError
from mesh.model.gateway import BackendRef, GRPCRouteRule, HTTPRouteRule, is_service
from mesh.model.resources import (
    MESH_NAMESPACE,
    AuthorizationPolicy,
    DefaultPolicy,
    EgressPolicy,
    Endpoint,
    Fault,
    GRPCRoute,
    HTTPRoute,
    Policy,
    PolicyPlugin,
    Resource,
    Route,
    TargetKind,
    TrafficPolicy,
    Workload,
)

MAX_RESOURCES = 50_000
"""Of all files together; local mode needs dozens, and a runaway generator of files should meet an error, not swap."""

APPLIED_RANK, SOURCE_RANK = 0, 1
PLUGIN = PolicyPlugin.kind

P = TypeVar("P", bound=Policy)


class Key(NamedTuple):
    """What a resource is addressed by."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class ServiceKey(NamedTuple):
    """What a service is addressed by, in plan and statistics."""

    namespace: str
    name: str


class Held(NamedTuple):
    """A resource in force and the file that it is from."""

    resource: Resource
    file: str


class Members:
    """What one service is made of, each sorted by key: what is behind it, and what is said of requests to it."""

    __slots__ = ("endpoints", "faults", "key", "policies", "routes", "workloads")

    def __init__(self, key: ServiceKey) -> None:
        self.key = key
        self.workloads: list[Workload] = []
        self.endpoints: list[Endpoint] = []
        self.policies: list[TrafficPolicy] = []
        self.routes: list[Route] = []
        self.faults: list[Fault] = []

    def __repr__(self) -> str:
        lists = ("workloads", "endpoints", "policies", "routes", "faults")
        return f"<Members of {self.key} {' '.join(f'{name}={len(getattr(self, name))}' for name in lists)}>"

    def is_service(self) -> bool:
        """Whether there is more than words about a name that nothing stands behind."""
        home = self.key.namespace
        return bool(self.workloads or self.endpoints) or any(r.metadata.namespace == home for r in self.routes)

    def add(self, resource: Resource) -> None:
        """Adds one, which must come in the order of keys."""
        match resource:
            case Workload():
                self.workloads.append(resource)
            case Endpoint():
                self.endpoints.append(resource)
            case TrafficPolicy():
                self.policies.append(resource)
            case Fault():
                self.faults.append(resource)
            case HTTPRoute() | GRPCRoute():
                self.routes.append(resource)
            case AuthorizationPolicy() | DefaultPolicy() | EgressPolicy() | PolicyPlugin():
                raise TypeError(f"{resource.kind} is kept by namespace, not by service")
            case _:
                assert_never(resource)


def key_of(resource: Resource) -> Key:
    """The key of a resource."""
    return Key(resource.kind, resource.metadata.namespace, resource.metadata.name)


def services_of(resource: Resource) -> frozenset[ServiceKey]:
    """The services that a resource is about: none for a workload that serves nothing, each parent of a route.

    None for policies of access: which those are for depends on what there is."""
    namespace = resource.metadata.namespace
    match resource:
        case Workload(spec=spec):
            if spec.port is None:
                return frozenset()
            return frozenset({ServiceKey(namespace, spec.service or resource.metadata.name)})
        case Endpoint() | TrafficPolicy() | Fault():
            return frozenset({ServiceKey(namespace, resource.spec.service)})
        case HTTPRoute() | GRPCRoute():
            return frozenset(ServiceKey(*parent) for parent in parents_of(resource))
        case AuthorizationPolicy() | DefaultPolicy() | EgressPolicy() | PolicyPlugin():
            return frozenset()
        case _:
            assert_never(resource)


def referred(route: Route) -> frozenset[ServiceKey]:
    """The services that a route sends requests, or copies of them, to."""
    home = route.metadata.namespace
    refs = (ref for rule in route.spec.rules for ref in references(rule))
    return frozenset(ServiceKey(ref.namespace or home, ref.name) for ref in refs if is_service(ref))


def references(rule: HTTPRouteRule | GRPCRouteRule) -> Iterator[BackendRef]:
    """What one rule refers to."""
    yield from rule.backend_refs
    for each in rule.filters:
        if each.request_mirror is not None:
            yield each.request_mirror.backend_ref


class Cluster:
    """The state. `set_file` and `remove_file` return the services whose plan may have changed, empty where none has."""

    def __init__(self) -> None:
        self.version = 0
        self._ranks: dict[str, int] = {}
        self._files: dict[str, dict[Key, Resource]] = {}
        self._claims: dict[Key, list[str]] = {}
        self._refused: dict[str, tuple[ConfigError, Key | None]] = {}
        self._about: dict[ServiceKey, dict[Key, Resource]] = {}
        self._referring: dict[ServiceKey, dict[Key, Route]] = {}
        """What is in force, by service: what is about it, and the routes that refer to it."""
        self._members: dict[ServiceKey, Members] = {}
        self._policies: dict[str, dict[Key, Policy]] = {}
        """Policies of access in force, by namespace."""

    def __repr__(self) -> str:
        return f"<Cluster version={self.version} files={len(self._files)} resources={len(self._claims)}>"

    # --- changes

    def set_file(self, file: str, resources: Iterable[Resource], *, rank: int = SOURCE_RANK) -> frozenset[ServiceKey]:
        """Puts a file's content in place of what it held; raises ConfigError, and changes nothing, if it cannot.

        It cannot where it names a resource twice, or where there would be more than MAX_RESOURCES.
        """
        new: dict[Key, Resource] = {}
        for resource in resources:
            key = key_of(resource)
            if key in new:
                raise ConfigError(f"{key} stands in this file twice", file=file, field="metadata.name")
            new[key] = resource
        old = self._files.get(file, {})
        if len(new) > len(old) and sum(map(len, self._files.values())) - len(old) + len(new) > MAX_RESOURCES:
            raise ConfigError(f"the mesh would hold more than {MAX_RESOURCES} resources", file=file)
        self._refused.pop(file, None)
        before = {key: self._winner(key) for key in old.keys() | new.keys()}
        self._ranks[file] = rank
        self._files[file] = new
        for key in old.keys() - new.keys():
            self._unclaim(key, file)
        for key in new.keys() - old.keys():
            claims = self._claims.setdefault(key, [])
            claims.append(file)
            claims.sort(key=lambda claimant: self._ranks[claimant])  # stable: of one rank, the first stays first
        return self._settle(before)

    def remove_file(self, file: str) -> frozenset[ServiceKey]:
        """Takes away all that a file held, and its refusal."""
        self._refused.pop(file, None)
        old = self._files.get(file, {})
        before = {key: self._winner(key) for key in old}
        for key in old:
            self._unclaim(key, file)
        self._files.pop(file, None)
        self._ranks.pop(file, None)
        return self._settle(before)

    def refuse_file(self, file: str, error: ConfigError, key: Key | None = None) -> None:
        """Remembers that a file's new content is wrong; what it held before stays in force."""
        self._refused[file] = (error, key)

    # --- questions

    def get(self, key: Key) -> Held | None:
        """The resource in force, or None."""
        claims = self._claims.get(key)
        return Held(self._files[claims[0]][key], claims[0]) if claims else None

    def held(self, kind: str = "") -> list[Held]:
        """All resources in force, of one kind or of all, sorted by key."""
        keys = sorted(key for key in self._claims if not kind or key.kind == kind)
        return [Held(self._files[self._claims[key][0]][key], self._claims[key][0]) for key in keys]

    def refusals(self) -> list[ResourceStatus]:
        """What is not in force though a file holds it: files that are wrong, and resources that another file holds."""
        found = []
        for file, (error, key) in sorted(self._refused.items()):
            kind, namespace, name = key or ("", "", "")
            found.append(ResourceStatus(kind, namespace, name, accepted=False, reason=str(error), file=file))
        for key, claims in sorted(self._claims.items()):
            found += [
                ResourceStatus(*key, accepted=False, reason=f"{key} is in force from {claims[0]}", file=file)
                for file in claims[1:]
            ]
        return found

    def members(self, key: ServiceKey) -> Members | None:
        """What a service is made of; None where there is no such service, whatever policies speak of it."""
        members = self._members.get(key)
        return members if members is not None and members.is_service() else None

    def exists(self, namespace: str, name: str) -> bool:
        """Whether there is such a service."""
        return self.members(ServiceKey(namespace, name)) is not None

    def services(self) -> list[ServiceKey]:
        """The keys of all services, sorted."""
        return sorted(key for key in self._members if self.members(key))

    def workloads(self) -> dict[ServiceKey, int]:
        """Namespace and name of all workloads, declared or seen as endpoints, with the number of their endpoints."""
        found: dict[ServiceKey, int] = {
            ServiceKey(key.namespace, key.name): 0 for key in self._claims if key.kind == Workload.kind
        }
        for members in self._members.values():
            for endpoint in members.endpoints:
                key = ServiceKey(endpoint.metadata.namespace, endpoint.spec.workload)
                found[key] = found.get(key, 0) + 1
        return found

    def serves(self, service: ServiceKey, namespace: str, workload: str) -> bool:
        """Whether a workload is one of those behind a service."""
        members = self.members(service)
        if members is None or service.namespace != namespace:
            return False
        return any(w.metadata.name == workload for w in members.workloads) or any(
            e.spec.workload == workload for e in members.endpoints
        )

    def services_with(self, namespace: str, workload: str) -> list[str]:
        """The names of the services that a workload is behind, sorted."""
        return [key.name for key in self.services() if self.serves(key, namespace, workload)]

    def has_workload(self, namespace: str, name: str) -> bool:
        """Whether there is such a workload, declared or seen as an endpoint."""
        if Key(Workload.kind, namespace, name) in self._claims:
            return True
        return any(
            endpoint.spec.workload == name
            for members in self._members.values()
            for endpoint in members.endpoints
            if endpoint.metadata.namespace == namespace
        )

    def policies_for(self, namespace: str, kind: type[P]) -> list[P]:
        """Those of one kind that may be for workloads of a namespace: its own and the mesh's, sorted by key."""
        found = {**self._policies.get(namespace, {}), **self._policies.get(MESH_NAMESPACE, {})}
        return [policy for _, policy in sorted(found.items()) if isinstance(policy, kind)]

    def authorizers(self) -> list[PolicyPlugin]:
        """All plugins that ask somebody, of any namespace, sorted by key: whom one may ask depends on the others."""
        plugins = [item for found in self._policies.values() for item in found.items() if item[0].kind == PLUGIN]
        return [each for _, each in sorted(plugins) if isinstance(each, PolicyPlugin) and each.spec.authorizer]

    # --- inside

    def _winner(self, key: Key) -> Resource | None:
        held = self.get(key)
        return held.resource if held else None

    def _unclaim(self, key: Key, file: str) -> None:
        claims = self._claims[key]
        claims.remove(file)
        if not claims:
            del self._claims[key]

    def _settle(self, before: dict[Key, Resource | None]) -> frozenset[ServiceKey]:
        touched: set[ServiceKey] = set()
        policies: list[Policy] = []
        effective = False
        for key, old in before.items():
            new = self._winner(key)
            if old == new:
                continue
            effective = True
            policies += [each for each in (old, new) if isinstance(each, Policy)]
            if old is not None:
                touched |= services_of(old)
                self._leave(key, old)
            if new is not None:
                touched |= services_of(new)
                self._enter(key, new)
        for service in [service for service in touched if self._regather(service)]:
            for route in self._referring.get(service, {}).values():
                touched |= services_of(route)
        for policy in policies:
            touched |= self._reached(policy)
        if effective:
            self.version += 1
        return frozenset(touched)

    def _reached(self, policy: Policy) -> set[ServiceKey]:
        """What a policy touches by coming or going."""
        namespace, target = policy.metadata.namespace, policy.spec.target
        reached = {ServiceKey(namespace, "")}
        if target.kind is TargetKind.MESH or (isinstance(policy, PolicyPlugin) and policy.spec.authorizer is not None):
            return reached | set(self.services())  # who asks whom, all over the mesh: see compose_access
        if target.kind is TargetKind.SERVICE:
            return reached | {ServiceKey(namespace, target.name)}
        for key in self.services():
            if key.namespace == namespace and (
                target.kind is TargetKind.NAMESPACE or self.serves(key, namespace, target.name)
            ):
                reached.add(key)
        return reached

    def _enter(self, key: Key, resource: Resource) -> None:
        if isinstance(resource, Policy):
            self._policies.setdefault(key.namespace, {})[key] = resource
        for service in services_of(resource):
            self._about.setdefault(service, {})[key] = resource
        if isinstance(resource, HTTPRoute | GRPCRoute):
            for service in referred(resource):
                self._referring.setdefault(service, {})[key] = resource

    def _leave(self, key: Key, resource: Resource) -> None:
        if isinstance(resource, Policy):
            del self._policies[key.namespace][key]
            if not self._policies[key.namespace]:
                del self._policies[key.namespace]
        for service in services_of(resource):
            del self._about[service][key]
        if isinstance(resource, HTTPRoute | GRPCRoute):
            for service in referred(resource):
                del self._referring[service][key]
                if not self._referring[service]:
                    del self._referring[service]

    def _regather(self, service: ServiceKey) -> bool:
        """Makes the service's members anew; whether it has come or gone by that."""
        existed = self.exists(*service)
        about = self._about[service]
        if about:
            members = self._members[service] = Members(service)
            for key in sorted(about):
                members.add(about[key])
        else:
            del self._about[service]
            self._members.pop(service, None)
        return self.exists(*service) is not existed
