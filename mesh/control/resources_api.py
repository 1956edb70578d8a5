"""The part of the API that keeps resources: what is in force, what was refused and why, and changes to it."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import unquote

import msgspec
from msgspec.structs import replace

from mesh.control.applied import Applied, InSource
from mesh.control.cluster import Cluster, Held, Key, key_of, services_of
from mesh.control.plugins import SCHEME
from mesh.control.routes import Answer, Query, Refusal, Request, Route, answer, text
from mesh.model import compose, compose_access
from mesh.model.api import Condition, Problem, ResourceStatus, ResourceView
from mesh.model.errors import ConfigError
from mesh.model.resources import API_VERSION, KINDS, DefaultPolicy, Metadata, Policy, PolicyPlugin, Resource

KIND = Query("kind", "Only of this kind.", choices=("", *KINDS))
ONE = "/api/v1/resources/{kind}/{namespace}/{name}"
FILE_HEADER = "x-conduit-file"
"""The file that the body is from, percent-encoded: named in mistakes, and what relative paths are relative to."""
DEFAULT_FILE = "(request)"
MAX_FILE_NAME = 4096
"""Characters; what Linux takes for a path."""


class ResourcesApi:
    """Handlers. Changes are in force when they are answered; writing them blocks for as long as a small file takes."""

    def __init__(self, cluster: Cluster, applied: Applied) -> None:
        self._cluster, self._applied = cluster, applied

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        everything = "/api/v1/resources"
        return [
            Route(
                "GET",
                everything,
                "What is in force and how it fares, and what was refused.",
                list[ResourceView],
                handler=self.get_all,
                query=(KIND,),
            ),
            Route(
                "PUT",
                everything,
                "Put resources in force: all of them, or none.",
                list[ResourceStatus],
                handler=self.put,
                takes="application/yaml",
                problems=(422,),
                audit="apply",
            ),
            Route("GET", ONE, "One resource.", ResourceView, handler=self.get, problems=(404,)),
            Route(
                "DELETE",
                ONE,
                "Take back what was put in force over the API.",
                ResourceStatus,
                handler=self.delete,
                problems=(404, 409),
                audit="delete",
            ),
        ]

    async def get_all(self, request: Request) -> Answer:
        kind = text(request, KIND)
        refusals = self._cluster.refusals()
        failed = failures(refusals)
        views = [self._view(held, failed.get(key_of(held.resource), "")) for held in self._cluster.held(kind)]
        others = [
            status for status in refusals if not status.file.startswith(SCHEME) or key_in_status(status) not in failed
        ]
        views += [refused(status) for status in others if status.kind in (kind, "") or not kind]
        return answer(views)

    async def get(self, request: Request) -> Answer:
        key = key_in(request)
        held = self._cluster.get(key)
        if held is not None:
            return answer(self._view(held, failures(self._cluster.refusals()).get(key, "")))
        for status in self._cluster.refusals():
            if key_in_status(status) == key:
                return answer(refused(status))
        raise Refusal(404, Problem(f"there is no {key}"))

    async def put(self, request: Request) -> Answer:
        file = unquote(request.headers.get(FILE_HEADER, "")) or DEFAULT_FILE
        if len(file) > MAX_FILE_NAME or "\0" in file:
            raise Refusal(422, Problem(f"{FILE_HEADER} is no path: longer than {MAX_FILE_NAME}, or with NUL"))
        try:
            statuses = self._applied.put(request.body.decode(), file)
        except UnicodeDecodeError as exc:
            raise Refusal(422, Problem(f"not UTF-8 at byte {exc.start}", file=file)) from exc
        except ConfigError as exc:
            raise Refusal(422, Problem(exc.reason, file=exc.file, line=exc.line, field=exc.field)) from exc
        return answer([self._with_conditions(status) for status in statuses], statuses)

    async def delete(self, request: Request) -> Answer:
        key = key_in(request)
        try:
            status = self._applied.delete(key)
        except InSource as exc:
            reason = f"{key} was not applied but stands in this file: take it out there"
            if exc.of_replica:
                reason = f"{key} comes and goes with its replica: it is the Workload that can be deleted or changed"
            raise Refusal(409, Problem(reason, file=exc.file)) from exc
        if status is None:
            raise Refusal(404, Problem(f"there is no {key}"))
        return answer(status, [status])

    def _view(self, held: Held, failure: str) -> ResourceView:
        """`failure` is why a plugin's policies are not what they should be; empty for all else."""
        shown = view(self._applied.shown(held), conditions_of(self._cluster, held.resource))
        return replace(shown, status=replace(shown.status, accepted=False, reason=failure)) if failure else shown

    def _with_conditions(self, status: ResourceStatus) -> ResourceStatus:
        held = self._cluster.get(Key(status.kind, status.namespace, status.name))
        return replace(status, conditions=conditions_of(self._cluster, held.resource)) if held else status


def key_in(request: Request) -> Key:
    """The key in the path."""
    return Key(*(request.parameters[part] for part in ("kind", "namespace", "name")))


def key_in_status(status: ResourceStatus) -> Key:
    """The key of what it is about."""
    return Key(status.kind, status.namespace, status.name)


def failures(refusals: Iterable[ResourceStatus]) -> dict[Key, str]:
    """Plugins that failed when they were called last, and why: they are in force, what they write may not be."""
    plugins = [status for status in refusals if status.kind == PolicyPlugin.kind and status.file.startswith(SCHEME)]
    return {key_in_status(status): status.reason for status in plugins}


def conditions_of(cluster: Cluster, resource: Resource) -> tuple[Condition, ...]:
    """How a resource in force fares beside the others, now."""
    if isinstance(resource, Policy):
        return compose_access.conditions(
            resource,
            defaults=cluster.policies_for(resource.metadata.namespace, DefaultPolicy),
            exists=cluster.exists,
            works=cluster.has_workload,
        )
    beside = [members for key in services_of(resource) if (members := cluster.members(key)) is not None]
    return compose.conditions(
        resource,
        policies=[policy for members in beside for policy in members.policies],
        routes=[route for members in beside for route in members.routes],
        exists=cluster.exists,
    )


def view(held: Held, conditions: tuple[Condition, ...] = ()) -> ResourceView:
    """A resource in force, as it is shown."""
    resource = held.resource
    return ResourceView(
        apiVersion=resource.api_version,
        kind=resource.kind,
        metadata=resource.metadata,
        spec=msgspec.to_builtins(resource.spec),
        status=ResourceStatus(*key_of(resource), file=held.file, conditions=conditions),
    )


def refused(status: ResourceStatus) -> ResourceView:
    """What is not in force, as it is shown."""
    metadata = Metadata(name=status.name, namespace=status.namespace)
    known = KINDS.get(status.kind)
    return ResourceView(known.api_version if known else API_VERSION, status.kind, metadata, {}, status)
