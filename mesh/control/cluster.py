"""Folds what the sources hold into one state: resources by key, and the services that follow from them. Pure.

Rules:
- A source speaks in whole files. A new version of a file replaces all that the file held before, or is refused whole.
- A resource belongs to one file. Of two files that hold it, the one with the lower rank has it in force (what was
  applied over the API goes before what stands in a watched folder), then the one that had it first. The other's is
  refused, and takes its place when the first is gone.
- `version` grows when what a proxy can be told has changed or may have, and only then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mesh.model.api import ResourceStatus
from mesh.model.errors import ConfigError
from mesh.model.resources import Endpoint, Resource, TrafficPolicy, Workload

MAX_RESOURCES = 50_000
"""Of all files together; local mode needs dozens, and a runaway generator of files should meet an error, not swap."""

APPLIED_RANK, SOURCE_RANK = 0, 1


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
    """What one service is made of, each sorted by key."""

    __slots__ = ("endpoints", "policies", "workloads")

    def __init__(self) -> None:
        self.workloads: list[Workload] = []
        self.endpoints: list[Endpoint] = []
        self.policies: list[TrafficPolicy] = []

    def __repr__(self) -> str:
        return (
            f"<Members workloads={len(self.workloads)} endpoints={len(self.endpoints)} policies={len(self.policies)}>"
        )


def key_of(resource: Resource) -> Key:
    """The key of a resource."""
    return Key(resource.kind, resource.metadata.namespace, resource.metadata.name)


def service_of(resource: Resource) -> ServiceKey | None:
    """The service that a resource is about; None for a workload that serves nothing."""
    match resource:
        case Workload():
            if resource.spec.port is None:
                return None
            return ServiceKey(resource.metadata.namespace, resource.spec.service or resource.metadata.name)
        case Endpoint() | TrafficPolicy():
            return ServiceKey(resource.metadata.namespace, resource.spec.service)


class Cluster:
    """The state. `set_file` and `remove_file` return the services whose plan may have changed, empty where none has."""

    def __init__(self) -> None:
        self.version = 0
        self._ranks: dict[str, int] = {}
        self._files: dict[str, dict[Key, Resource]] = {}
        self._claims: dict[Key, list[str]] = {}
        self._refused: dict[str, tuple[ConfigError, Key | None]] = {}
        self._members: dict[ServiceKey, Members] = {}

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
        return [
            Held(self._files[claims[0]][key], claims[0])
            for key, claims in sorted(self._claims.items())
            if not kind or key.kind == kind
        ]

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
        """What a service is made of; None where nothing but a policy, or nothing at all, speaks of it."""
        members = self._members.get(key)
        return members if members and (members.workloads or members.endpoints) else None

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
        effective = False
        for key, old in before.items():
            new = self._winner(key)
            if old == new:
                continue
            effective = True
            touched.update(service for r in (old, new) if r is not None and (service := service_of(r)) is not None)
        for service in touched:
            self._members.pop(service, None)
        if touched:
            self._gather(touched)
        if effective:
            self.version += 1
        return frozenset(touched)

    def _gather(self, services: set[ServiceKey]) -> None:
        for resource in self._in_force():
            service = service_of(resource)
            if service is None or service not in services:
                continue
            members = self._members.setdefault(service, Members())
            match resource:
                case Workload():
                    members.workloads.append(resource)
                case Endpoint():
                    members.endpoints.append(resource)
                case TrafficPolicy():
                    members.policies.append(resource)

    def _in_force(self) -> Iterator[Resource]:
        for key in sorted(self._claims):
            yield self._files[self._claims[key][0]][key]
