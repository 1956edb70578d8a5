"""What people write, read: YAML text in, checked resources out, and every mistake with its file, line and field.

Pure: nothing here opens a file, and relative paths inside stay as written.
"""

from __future__ import annotations

from mesh.model.access_checks import check_access
from mesh.model.checks import Checks, parse_address
from mesh.model.decoding import decode, nearest
from mesh.model.gateway import GRPCRouteSpec, HTTPRouteSpec
from mesh.model.policy_checks import check_fault, check_policy
from mesh.model.resources import (
    API_VERSIONS,
    KINDS,
    PORT_WORD,
    EndpointSpec,
    FaultSpec,
    Metadata,
    Policy,
    Resource,
    TrafficPolicySpec,
    WorkloadSpec,
)
from mesh.model.route_checks import check_grpc_route, check_http_route
from mesh.model.yaml_text import Document, load_documents

__all__ = ["Document", "decode", "decode_resource", "load_documents", "nearest", "parse_address", "resource_in"]

MAX_REPLICAS = 100

_ENVELOPE = ["apiVersion", "kind", "metadata", "spec", "status"]


def decode_resource(document: Document) -> Resource:
    """The resource that a document describes, checked. Raises ConfigError with the line and field of a mistake."""
    return _resource(document, "", document.value)


def resource_in(document: Document, path: str, value: dict[str, object]) -> Resource:
    """The same for the `value` at a path of a document, which may leave out apiVersion."""
    return _resource(document, path, {"apiVersion": API_VERSIONS.get(str(value.get("kind")), ("",))[0], **value})


def _resource(document: Document, path: str, value: dict[str, object]) -> Resource:
    checks = Checks(document, path)
    kind, version = value.get("kind"), value.get("apiVersion")
    if kind is None:
        raise checks.fail("kind", f"is required: one of {', '.join(sorted(KINDS))}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise checks.fail("kind", f"{kind!r:.80} is not a kind that we know; {nearest(str(kind), sorted(KINDS))}")
    versions = API_VERSIONS[kind]
    if version is None:
        raise checks.fail("apiVersion", f"is required: {versions[0]}")
    if version not in versions:
        raise checks.fail("apiVersion", f"{version!r:.80} is not what {kind} has: {' or '.join(versions)}")
    for name in value:
        if name not in _ENVELOPE:
            raise checks.fail(name, f"is no field here; {nearest(name, _ENVELOPE)}")
    resource: Resource = decode(document, KINDS[kind], path=path)
    _check_metadata(checks, resource.metadata)
    match resource.spec:
        case WorkloadSpec():
            _check_workload(checks, resource.spec)
        case EndpointSpec():
            checks.label("spec.service", resource.spec.service)
            checks.label("spec.workload", resource.spec.workload)
            checks.address("spec.address", resource.spec.address)
        case TrafficPolicySpec():
            check_policy(checks, resource.spec)
        case FaultSpec():
            check_fault(checks, resource.spec)
        case HTTPRouteSpec():
            check_http_route(checks, resource.spec)
        case GRPCRouteSpec():
            check_grpc_route(checks, resource.spec)
    if isinstance(resource, Policy):
        check_access(checks, resource)
    return resource


def _check_metadata(checks: Checks, metadata: Metadata) -> None:
    checks.label("metadata.name", metadata.name)
    checks.label("metadata.namespace", metadata.namespace)


def _check_workload(checks: Checks, spec: WorkloadSpec) -> None:
    if not spec.command or not spec.command[0]:
        raise checks.fail("spec.command", "must name a program to run")
    for index, word in enumerate(spec.command):
        if "\0" in word:
            raise checks.fail(f"spec.command[{index}]", "must not hold NUL")
    checks.label("spec.service", spec.service, empty=True)
    checks.label("spec.account", spec.account, empty=True)
    if isinstance(spec.port, str) and spec.port != "auto":
        raise checks.fail("spec.port", f"{spec.port!r:.80} is neither a number nor auto")
    if isinstance(spec.port, int) and not 1 <= spec.port <= 65535:
        raise checks.fail("spec.port", f"{spec.port} is not within 1 and 65535")
    if not 0 <= spec.replicas <= MAX_REPLICAS:
        raise checks.fail("spec.replicas", f"{spec.replicas} is not within 0 and {MAX_REPLICAS}")
    if isinstance(spec.port, int) and spec.replicas > 1:
        reason = f"{spec.replicas} replicas cannot share port {spec.port}: they need `port: auto`"
        raise checks.fail("spec.replicas", reason)
    if spec.port is None and any(PORT_WORD in word for word in spec.command):
        raise checks.fail("spec.command", f"{PORT_WORD} stands for nothing without `port`")
    if "\0" in spec.directory:
        raise checks.fail("spec.directory", "must not hold NUL")
    for name, text in spec.environment.items():
        if not name or "=" in name or "\0" in name + text:
            raise checks.fail(f"spec.environment.{name}", "is no environment variable: empty, or with = or NUL")
