"""proxy.yaml, read: YAML text in, a checked ProxyConfig out, and every mistake with its file, line and field."""

from __future__ import annotations

import ipaddress
import math
import re

from mesh.model.access_checks import check_egress, check_identity
from mesh.model.checks import HOST, Checks, parse_address
from mesh.model.config import ProxyConfig
from mesh.model.decoding import decode, nearest
from mesh.model.documents import resource_in
from mesh.model.errors import ConfigError
from mesh.model.gateway import is_service
from mesh.model.limits import Limits
from mesh.model.resources import (
    KINDS,
    AuthorizationPolicy,
    DefaultPolicy,
    EgressPolicy,
    Fault,
    GRPCRoute,
    HTTPRoute,
    PolicyPlugin,
    Resource,
    Route,
    TrafficPolicy,
)
from mesh.model.yaml_text import Document, load_documents

INLINE = (
    *(HTTPRoute.kind, GRPCRoute.kind, TrafficPolicy.kind, Fault.kind),
    *(AuthorizationPolicy.kind, DefaultPolicy.kind, EgressPolicy.kind, PolicyPlugin.kind),
)
"""Kinds that `resources:` may hold."""
_MAY_BE_ZERO = frozenset({"replay_bytes", "pending_requests", "pending_timeout", "drain_timeout", "drain_grace"})
_CODECS = ("ngh2", "h2")


def load_proxy_config(text: str, file: str) -> ProxyConfig:
    """What proxy.yaml says, checked. Raises ConfigError with the line and field of the first mistake."""
    documents = load_documents(text, file)
    if len(documents) != 1:
        line = documents[1].line if documents else 0
        raise ConfigError(f"must hold one document, not {len(documents)}", file=file, line=line)
    document = documents[0]
    config = decode(document, ProxyConfig)
    checks = Checks(document)
    if config.admin and not _is_loopback(checks.address("admin", config.admin, any_port=True)):
        raise checks.fail("admin", f"{config.admin} is not a loopback address: who reads /tasks could be anybody")
    _check_listeners(checks, config)
    _check_services(checks, config)
    _check_limits(checks, config.limits)
    if config.control:
        if not re.fullmatch(r"https?://\S+", config.control.url):
            raise checks.fail("control.url", f"{config.control.url!r:.80} is not http(s)://host:port")
        checks.address("control.url", config.control.url.partition("://")[2].rstrip("/"))
        checks.label("control.workload", config.control.workload)
        checks.label("control.namespace", config.control.namespace)
    if config.identity is not None:
        check_identity(checks, "identity", config.identity)
        if config.control is None:
            raise checks.fail("identity", "needs `control`: it is the control plane that proves it")
    check_egress(checks, "egress", config.egress)
    if config.http2_codec not in _CODECS:
        raise checks.fail("http2_codec", f"{config.http2_codec!r:.80} is none of {', '.join(_CODECS)}")
    for index, value in enumerate(config.resources):
        _check_inline(document, index, value)
    return config


def resources_in(config: ProxyConfig) -> tuple[Resource, ...]:
    """The inline resources of a configuration that was loaded."""
    return tuple(resource_in(Document(value, "", 0, {}), "", value) for value in config.resources)


def _check_inline(document: Document, index: int, value: dict[str, object]) -> None:
    path = f"resources[{index}]"
    kind = value.get("kind")
    if isinstance(kind, str) and kind in KINDS and kind not in INLINE:
        raise document.error(f"{path}.kind", f"{kind} means nothing here, only {', '.join(INLINE)}")
    resource = resource_in(document, path, value)
    if isinstance(resource, PolicyPlugin) and resource.spec.python is not None:
        raise document.error(f"{path}.spec.python", "runs in a control plane: it means nothing here")
    if isinstance(resource, Route) and not any(is_service(ref) for ref in resource.spec.parent_refs):
        raise document.error(f"{path}.spec.parentRefs", 'none is a Service: `group: ""`, `kind: Service`')


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_listeners(checks: Checks, config: ProxyConfig) -> None:
    taken: dict[str, str] = {}
    listeners = [(f"outbound[{index}]", each.listen) for index, each in enumerate(config.outbound)]
    listeners += [(f"inbound[{index}]", each.listen) for index, each in enumerate(config.inbound)]
    for place, address in listeners:
        checks.address(f"{place}.listen", address, any_port=True)
        if parse_address(address)[1] and address in taken:
            raise checks.fail(f"{place}.listen", f"{address} is taken by {taken[address]}")
        taken[address] = place
    for index, outbound in enumerate(config.outbound):
        # A control plane knows services that this file does not.
        if outbound.service and outbound.service not in config.services and not config.control:
            known = nearest(outbound.service, list(config.services)) if config.services else "services: is empty"
            raise checks.fail(f"outbound[{index}].service", f"{outbound.service} is not one of services; {known}")
    for index, inbound in enumerate(config.inbound):
        checks.address(f"inbound[{index}].forward", inbound.forward)


def _check_services(checks: Checks, config: ProxyConfig) -> None:
    for name, service in config.services.items():
        if not HOST.fullmatch(name):
            raise checks.fail(f"services.{name}", f"{name!r:.80} is no host name that an application could call")
        for index, endpoint in enumerate(service.endpoints):
            place = f"services.{name}.endpoints[{index}]"
            if isinstance(endpoint, str):
                checks.address(place, endpoint)
            else:
                checks.address(f"{place}.address", endpoint.address)
                if endpoint.weight < 0:
                    raise checks.fail(f"{place}.weight", "must be 0 or more")


def _check_limits(checks: Checks, limits: Limits) -> None:
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if not (0 < value < math.inf or (value == 0 and name in _MAY_BE_ZERO)):
            raise checks.fail(f"limits.{name}", "must be 0 or more" if name in _MAY_BE_ZERO else "must be more than 0")
