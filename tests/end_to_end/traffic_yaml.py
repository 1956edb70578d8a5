"""Resources of the tests as they stand in YAML: routes of Gateway API, faults, endpoints."""

from typing import Any

Config = dict[str, Any]
GATEWAY = "gateway.networking.k8s.io/v1"
OURS = "conduit.mesh/v1alpha1"


def http_route(name: str, service: str, *rules: Config, kind: str = "HTTPRoute") -> Config:
    """An HTTPRoute whose parent is a Service."""
    return {
        "apiVersion": GATEWAY,
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"parentRefs": [{"group": "", "kind": "Service", "name": service}], "rules": list(rules)},
    }


def grpc_route(name: str, service: str, *rules: Config) -> Config:
    """A GRPCRoute whose parent is a Service."""
    return http_route(name, service, *rules, kind="GRPCRoute")


def rule(*backends: str | Config, **more: Any) -> Config:
    """One rule; a backend is a name or a whole backendRef."""
    refs = [{"name": backend} if isinstance(backend, str) else backend for backend in backends]
    return {"backendRefs": refs, **more} if refs else more


def path(value: str, kind: str = "PathPrefix", **more: Any) -> Config:
    """An HTTPRouteMatch by path, and what else is given."""
    return {"path": {"type": kind, "value": value}, **more}


def pairs(*named: tuple[str, str], kind: str = "") -> list[Config]:
    """Headers or query parameters of a match, or of a filter."""
    return [{"name": name, "value": value, **({"type": kind} if kind else {})} for name, value in named]


def changed(kind: str, **edits: Any) -> Config:
    """A filter of this type, for example RequestHeaderModifier, with its own fields."""
    field = "urlRewrite" if kind == "URLRewrite" else kind[0].lower() + kind[1:]
    return {"type": kind, field: edits}


def fault(name: str, **spec: Any) -> Config:
    """A Fault."""
    return {"apiVersion": OURS, "kind": "Fault", "metadata": {"name": name}, "spec": spec}


def endpoint(name: str, service: str, port: int, **spec: Any) -> Config:
    """An Endpoint on loopback."""
    told = {"service": service, "workload": name, "address": f"127.0.0.1:{port}", **spec}
    return {"apiVersion": OURS, "kind": "Endpoint", "metadata": {"name": name}, "spec": told}
