"""What an AuthorizationPolicy, a DefaultPolicy, an EgressPolicy and a PolicyPlugin must be beyond their types.

What could match nothing, or would match more than it says, is a mistake here: a policy that does not mean what its
writer meant is found out only when it is too late. Each function raises ConfigError for the first mistake; fields are
told as they stand in YAML.
"""

from __future__ import annotations

import ipaddress
import re

from mesh.model.authorization import Destination, Egress, Operation, Source
from mesh.model.checks import HOST, LABEL, Checks, parse_address
from mesh.model.config import ProxyIdentity
from mesh.model.identity import ANYBODY, MARK, parse
from mesh.model.paths import ambiguous
from mesh.model.resources import (
    MESH_NAMESPACE,
    AuthorizationPolicy,
    DefaultPolicy,
    EgressPolicy,
    EntryPoint,
    ExternalAuthorizer,
    Policy,
    PolicyPlugin,
    Target,
    TargetKind,
)

_DOMAIN = re.compile(rf"{LABEL.pattern}(?:\.{LABEL.pattern})*")
_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
_GRPC_SERVICE = re.compile(rf"{_WORD}(?:\.{_WORD})*")
_GRPC_METHOD = re.compile(rf"{_GRPC_SERVICE.pattern}/(?:{_WORD}|\*)")
_FUNCTION = re.compile(rf"{_WORD}(?:\.{_WORD})*:{_WORD}")
_CLUSTER = (("svc",), ("svc", "cluster", "local"))
"""What may follow `name.namespace`."""


def check_access(checks: Checks, resource: Policy) -> None:
    """All of a resource's spec."""
    _check_target(checks, resource.spec.target, resource.metadata.namespace)
    match resource:
        case AuthorizationPolicy(spec=spec):
            for index, source in enumerate(spec.sources):
                _check_source(checks, f"spec.from[{index}]", source)
            _check_operations(checks, "spec.to", spec.operations)
        case DefaultPolicy(spec=spec):
            if spec.inbound is None and spec.tls is None and spec.egress is None and not spec.networks:
                raise checks.fail("spec", "says nothing: it needs inbound, tls, egress or networks")
            _check_networks(checks, "spec.networks", spec.networks)
        case EgressPolicy(spec=spec):
            _check_destinations(checks, "spec.to", spec.destinations)
        case PolicyPlugin(spec=spec):
            if (spec.authorizer is None) == (spec.python is None):
                raise checks.fail("spec", "must have either authorizer or python")
            if spec.authorizer is not None:
                _check_authorizer(checks, spec.authorizer)
            if spec.python is not None:
                _check_entry_point(checks, spec.python)


def check_egress(checks: Checks, field: str, egress: Egress) -> None:
    """What proxy.yaml says may be called outside of the mesh."""
    for index, rule in enumerate(egress.rules):
        _check_destinations(checks, f"{field}.rules[{index}].destinations", rule.destinations)


def check_identity(checks: Checks, field: str, identity: ProxyIdentity) -> None:
    """Whom proxy.yaml says that a proxy speaks for."""
    checks.label(f"{field}.account", identity.account)
    checks.label(f"{field}.namespace", identity.namespace)
    if not _DOMAIN.fullmatch(identity.trust_domain):
        raise checks.fail(f"{field}.trust_domain", f"{identity.trust_domain!r:.80} is no domain, in lower case")


def _check_target(checks: Checks, target: Target, namespace: str) -> None:
    if target.kind in (TargetKind.SERVICE, TargetKind.WORKLOAD):
        if not target.name:
            raise checks.fail("spec.target.name", f"is required: which {target.kind} of namespace {namespace}?")
        checks.label("spec.target.name", target.name)
    elif target.name:
        meant = "all of the mesh" if target.kind is TargetKind.MESH else f"the policy's own namespace, {namespace}"
        raise checks.fail("spec.target.name", f"means nothing with `kind: {target.kind}`, which is {meant}")
    elif target.kind is TargetKind.MESH and namespace != MESH_NAMESPACE:
        reason = f"only policies of the namespace {MESH_NAMESPACE} are for the whole mesh, and this is of {namespace}"
        raise checks.fail("spec.target.kind", f"{reason}; did you mean Namespace?")


# --- who -----------------------------------------------------------------------------------------------------------


def _check_source(checks: Checks, field: str, source: Source) -> None:
    if source == Source():
        raise checks.fail(field, "is everybody: say so with `from: []`, or name identities, namespaces or networks")
    for index, pattern in enumerate(source.identities):
        reason = _no_identity(pattern)
        if reason:
            raise checks.fail(f"{field}.identities[{index}]", f"{pattern!r:.80} {reason}")
    for index, namespace in enumerate(source.namespaces):
        checks.label(f"{field}.namespaces[{index}]", namespace)
    _check_networks(checks, f"{field}.networks", source.networks)


def _no_identity(pattern: str) -> str:
    """Why a pattern matches no identity, as a phrase; empty where it may."""
    if pattern == ANYBODY or parse(pattern) is not None:
        return ""
    named = pattern.lower()
    if named.startswith("*.") and _DOMAIN.fullmatch(named[2:]):
        return ""
    if "*" in pattern:
        return "has a * elsewhere than alone or in front: `*`, or `*.SUFFIX` of the DNS spelling"
    account, dot, namespace = named.partition(".")
    if LABEL.fullmatch(account) and (not dot or LABEL.fullmatch(namespace)):
        return f"is no identity; did you mean {account}.{namespace or 'NAMESPACE'}{MARK}TRUST-DOMAIN?"
    wanted = f"ACCOUNT.NAMESPACE{MARK}TRUST-DOMAIN or spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT"
    return f"is no identity: {wanted}"


def _check_networks(checks: Checks, field: str, blocks: tuple[str, ...]) -> None:
    for index, text in enumerate(blocks):
        reason = _no_network(text)
        if reason:
            raise checks.fail(f"{field}[{index}]", f"{text!r:.80} {reason}")


def _no_network(text: str) -> str:
    """Why a text is no block of addresses, as a phrase."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return "is neither an address nor a CIDR block (10.0.0.0/8)"
    if "/" in text and str(ipaddress.ip_interface(text).ip) != str(network.network_address):
        return f"has bits set beyond its prefix; did you mean {network}?"
    if isinstance(network, ipaddress.IPv6Network):
        if network.network_address.scope_id:
            return "names an interface: leave out what follows the %"
        mapped = network.network_address.ipv4_mapped
        if mapped is not None and network.prefixlen >= 96:
            return f"is compared as IPv4; did you mean {mapped}/{network.prefixlen - 96}?"
    return ""


# --- what ----------------------------------------------------------------------------------------------------------


def _check_operations(checks: Checks, field: str, operations: tuple[Operation, ...]) -> None:
    for index, operation in enumerate(operations):
        place = f"{field}[{index}]"
        if operation == Operation():
            raise checks.fail(place, "is everything: leave it out, or name methods, paths or grpcMethods")
        for at, method in enumerate(operation.methods):
            if method == "*":
                raise checks.fail(f"{place}.methods[{at}]", "without `methods` all are meant: leave it out")
            checks.method(f"{place}.methods[{at}]", method)
        for at, path in enumerate(operation.paths):
            reason = _no_path(path)
            if reason:
                raise checks.fail(f"{place}.paths[{at}]", f"{path!r:.80} {reason}")
        for at, name in enumerate(operation.grpc_methods):
            reason = _no_grpc_method(name)
            if reason:
                raise checks.fail(f"{place}.grpcMethods[{at}]", f"{name!r:.80} {reason}")
        if operation.grpc_methods and operation.methods and "POST" not in operation.methods:
            raise checks.fail(f"{place}.methods", "a gRPC call is a POST: beside grpcMethods this matches nothing")


def _no_path(pattern: str) -> str:
    """Why a pattern matches no path that gets past, as a phrase."""
    if pattern == "*":
        return ""
    literal = pattern[:-1] if pattern.endswith("*") else pattern.removeprefix("*")
    if "*" in literal:
        return "has more than a * at one end: `/a`, `/a/*`, `*.css` or `*` (%2A for the character itself)"
    if "?" in literal or "#" in literal:
        return "holds a query or a fragment: paths are compared without"
    try:
        octets = literal.encode()
    except UnicodeEncodeError:
        return "is no text"
    if pattern.startswith("*"):
        octets = (b"/" if not octets.startswith(b"/") else b"/x") + octets
    elif pattern.endswith("*") and octets.startswith(b"/"):
        octets += b"x"  # what follows may be anything
    reason = ambiguous(octets) if octets else "does not begin with /"
    return f"is not in normal form, and what is not gets no further: it {reason}" if reason else ""


def _no_grpc_method(name: str) -> str:
    """Why a text is no gRPC method, as a phrase."""
    if name == "*" or _GRPC_METHOD.fullmatch(name):
        return ""
    if _GRPC_METHOD.fullmatch(name.removeprefix("/")):
        return f"is written without the slash in front; did you mean {name.removeprefix('/')}?"
    if _GRPC_SERVICE.fullmatch(name):
        return f"names no method; did you mean {name}/*?"
    return "is no gRPC method: package.Service/Method, package.Service/* or *"


# --- where to ------------------------------------------------------------------------------------------------------


def _check_destinations(checks: Checks, field: str, destinations: tuple[Destination, ...]) -> None:
    for index, destination in enumerate(destinations):
        place = f"{field}[{index}]"
        if destination == Destination():
            raise checks.fail(place, "is everything: leave it out, or name hosts, networks or ports")
        for at, host in enumerate(destination.hosts):
            reason = _no_host(host)
            if reason:
                raise checks.fail(f"{place}.hosts[{at}]", f"{host!r:.80} {reason}")
        _check_networks(checks, f"{place}.networks", destination.networks)


def _no_host(host: str) -> str:
    """Why a text is no host outside, as a phrase."""
    if host == "*":
        return "is every name: leave `hosts` out"
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        name = host.removeprefix("*.")
        if "*" in name:
            return "has a * elsewhere than in front: a name, or `*.SUFFIX`"
        if ":" in name and HOST.fullmatch(name.partition(":")[0]):
            return "is more than a name: the port goes into `ports`, a scheme nowhere"
        return "" if HOST.fullmatch(name) and ".." not in name else "is no host name"
    return "is an address: those go into `networks`"


# --- plugins -------------------------------------------------------------------------------------------------------


def _check_authorizer(checks: Checks, authorizer: ExternalAuthorizer) -> None:
    field = "spec.authorizer"
    if ":" in authorizer.service:
        try:
            _, port = parse_address(authorizer.service)
        except ValueError as exc:
            raise checks.fail(f"{field}.service", str(exc)) from exc
        if port == 0:
            raise checks.fail(f"{field}.service", "port 0 cannot be called")
    else:
        name, *rest = authorizer.service.split(".")
        if not all(LABEL.fullmatch(each) for each in (name, *rest)) or (rest[1:] and tuple(rest[1:]) not in _CLUSTER):
            reason = "is neither a service (`name`, `name.namespace`) nor host:port"
            raise checks.fail(f"{field}.service", f"{authorizer.service!r:.80} {reason}")
    if not authorizer.timeout:
        raise checks.fail(f"{field}.timeout", "must be more than 0")
    for index, header in enumerate(authorizer.headers):
        checks.token(f"{field}.headers[{index}]", header)
    _check_operations(checks, f"{field}.to", authorizer.operations)


def _check_entry_point(checks: Checks, entry: EntryPoint) -> None:
    if not _FUNCTION.fullmatch(entry.function):
        raise checks.fail("spec.python.function", f"{entry.function!r:.80} is not module:function")
    if "\0" in entry.directory:
        raise checks.fail("spec.python.directory", "must not hold NUL")
