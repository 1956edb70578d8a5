"""What people write, read: YAML text in, checked structs out, and every mistake with its file, line and field.

Pure: nothing here opens a file, and relative paths inside stay as written.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from mesh.model.config import ProxyConfig, Timeouts
from mesh.model.errors import ConfigError
from mesh.model.limits import Limits
from mesh.model.resources import (
    API_VERSION,
    KINDS,
    PORT_WORD,
    EndpointSpec,
    Metadata,
    Resource,
    TrafficPolicySpec,
    WorkloadSpec,
)
from mesh.model.yaml_text import Document, load_documents

__all__ = ["Document", "decode", "decode_resource", "load_documents", "load_proxy_config", "nearest", "parse_address"]

T = TypeVar("T")

MAX_REPLICAS = 100

# --- structs ---------------------------------------------------------------------------

_WORDS = {
    **{"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"},
    **{"object": "a mapping", "array": "a list", "bytes": "binary data", "date": "a date", "datetime": "a date"},
}
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")


def decode(document: Document, type: type[T], *, path: str = "") -> T:
    """The part of a document at `path` as a struct, strictly. Raises ConfigError with line and field of a mistake."""
    value: Any = document.value
    for name, index in _STEP.findall(f".{path}" if path else ""):
        try:
            value = value[name or int(index)]
        except (LookupError, TypeError) as exc:
            raise document.error(path, "is required") from exc
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as exc:
        # msgspec does not say which key of a mapping it means, so look for it, one key at a time.
        problem, place, kind = _explain(str(exc), value, type)
        field = _joined(path, place)
        raise _sentence(document, problem, field, kind) from exc


def _joined(path: str, place: list[str | int]) -> str:
    for step in place:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step
    return path


def _explain(message: str, value: Any, type: Any) -> tuple[str, list[str | int], inspect.Type]:
    """msgspec's problem, the steps to where it is, and the type that is wanted there."""
    problem, _, where = message.partition(" - at `")
    kind = inspect.type_info(type)
    steps: list[str | int] = []
    here = value
    for name, index in _STEP.findall(where.removesuffix("`").removeprefix("$")):
        step: str | int = name or (index if index == "..." else int(index))
        if step == "...":
            step = _guilty_key(value, steps, here, type, message)
        steps.append(step)
        here = here[step]
        kind = _inner(kind, step)
    return problem, steps, kind


def _guilty_key(whole: Any, steps: list[str | int], mapping: dict[str, Any], type: Any, message: str) -> str:
    for key, value in mapping.items():
        try:
            msgspec.convert(_replaced(whole, steps, {key: value}), type)
        except msgspec.ValidationError as exc:
            if str(exc) == message:
                return key
    return next(iter(mapping))


def _replaced(whole: Any, steps: list[str | int], part: object) -> Any:
    if not steps:
        return part
    copy = whole.copy()
    copy[steps[0]] = _replaced(copy[steps[0]], steps[1:], part)
    return copy


def _inner(kind: inspect.Type, step: str | int) -> inspect.Type:
    for option in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        if isinstance(option, inspect.StructType) and isinstance(step, str):
            for field in option.fields:
                if field.encode_name == step:
                    return field.type
        elif isinstance(option, inspect.DictType) and isinstance(step, str):
            return option.value_type
        elif isinstance(option, inspect.VarTupleType | inspect.ListType) and isinstance(step, int):
            return option.item_type
    return inspect.AnyType()


def _sentence(document: Document, problem: str, field: str, kind: inspect.Type) -> ConfigError:
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        known = [
            each.encode_name for option in options if isinstance(option, inspect.StructType) for each in option.fields
        ]
        return document.error(_joined(field, [found[1]]), f"is no field here; {nearest(found[1], known)}")
    if found := re.fullmatch(r"Object missing required field `(.*)`", problem):
        return document.error(_joined(field, [found[1]]), "is required")
    if found := re.fullmatch(r"Invalid enum value (.*)", problem, re.DOTALL):
        members = [str(each.value) for option in options if isinstance(option, inspect.EnumType) for each in option.cls]
        return document.error(field, f"{found[1]} is none of {', '.join(members)}")
    if found := re.fullmatch(r"Expected `(.*)`, got `(.*)`", problem):
        wanted = [_WORDS.get(name, name) for name in found[1].split(" | ") if name != "null"]
        got = _WORDS.get(found[2], found[2])
        hint = ": quote it" if wanted == ["text"] and found[2] in ("int", "float", "bool", "date", "datetime") else ""
        return document.error(field, f"must be {' or '.join(wanted)}, not {got}{hint}")
    return document.error(field, problem)


def nearest(name: str, known: list[str]) -> str:
    """`did you mean X?` where something known is close to `name`, else what is known."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"


# --- what every kind of field must be --------------------------------------------------

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.\-]{0,253})")


def parse_address(text: str) -> tuple[str, int]:
    """Host and port (0 to 65535) of `host:port` or `[v6]:port`; ValueError, with a sentence, if it is neither."""
    host, colon, port = text.rpartition(":")
    if not colon or not (port.isascii() and port.isdigit()) or len(port) > 5:
        raise ValueError(f"{text!r} is not host:port")
    if int(port) > 65535:
        raise ValueError(f"port {port} is over 65535")
    if host.startswith("[") and host.endswith("]"):
        try:
            return str(ipaddress.IPv6Address(host[1:-1])), int(port)
        except ValueError:
            raise ValueError(f"{host} is no IPv6 address") from None
    if not _HOST.fullmatch(host):
        raise ValueError(f"{text!r} is not host:port")
    return host, int(port)


class _Checks:
    """The checks that types cannot express, on one document below one path."""

    def __init__(self, document: Document, path: str = "") -> None:
        self.document, self.path = document, path

    def fail(self, field: str, reason: str) -> ConfigError:
        return self.document.error(f"{self.path}.{field}" if self.path else field, reason)

    def label(self, field: str, text: str, *, empty: bool = False) -> None:
        if not (text or empty) or (text and not _LABEL.fullmatch(text)):
            reason = "must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit"
            raise self.fail(field, f"{text!r:.80} is no name: it {reason}")

    def address(self, field: str, text: str, *, any_port: bool = False) -> str:
        """The host; port 0, for one that the kernel chooses, only with `any_port`."""
        try:
            host, port = parse_address(text)
        except ValueError as exc:
            raise self.fail(field, str(exc)) from exc
        if port == 0 and not any_port:
            raise self.fail(field, "port 0 cannot be called")
        return host

    def timeouts(self, field: str, timeouts: Timeouts) -> None:
        for name in timeouts.__struct_fields__:
            seconds = getattr(timeouts, name)
            if not 0 <= seconds < math.inf:
                raise self.fail(f"{field}.{name}", "must be seconds, 0 or more")


# --- resources -------------------------------------------------------------------------

_ENVELOPE = ["apiVersion", "kind", "metadata", "spec", "status"]


def decode_resource(document: Document) -> Resource:
    """The resource that a document describes, checked. Raises ConfigError with the line and field of a mistake."""
    return _resource(document, "", document.value)


def _resource(document: Document, path: str, value: dict[str, object]) -> Resource:
    checks = _Checks(document, path)
    kind, version = value.get("kind"), value.get("apiVersion", API_VERSION if path else None)
    if kind is None:
        raise checks.fail("kind", f"is required: one of {', '.join(sorted(KINDS))}")
    if not isinstance(kind, str) or kind not in KINDS:
        raise checks.fail("kind", f"{kind!r:.80} is not a kind that we know; {nearest(str(kind), sorted(KINDS))}")
    if version is None:
        raise checks.fail("apiVersion", f"is required: {API_VERSION}")
    if version != API_VERSION:
        raise checks.fail("apiVersion", f"{version!r:.80} is not what {kind} has: {API_VERSION}")
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
            checks.label("spec.service", resource.spec.service)
            checks.timeouts("spec.timeouts", resource.spec.timeouts)
    return resource


def _check_metadata(checks: _Checks, metadata: Metadata) -> None:
    checks.label("metadata.name", metadata.name)
    checks.label("metadata.namespace", metadata.namespace)


def _check_workload(checks: _Checks, spec: WorkloadSpec) -> None:
    if not spec.command or not spec.command[0]:
        raise checks.fail("spec.command", "must name a program to run")
    for index, word in enumerate(spec.command):
        if "\0" in word:
            raise checks.fail(f"spec.command[{index}]", "must not hold NUL")
    checks.label("spec.service", spec.service, empty=True)
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


# --- proxy.yaml ------------------------------------------------------------------------

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
    checks = _Checks(document)
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
    if config.http2_codec not in _CODECS:
        raise checks.fail("http2_codec", f"{config.http2_codec!r:.80} is none of {', '.join(_CODECS)}")
    for index, value in enumerate(config.resources):
        _resource(document, f"resources[{index}]", value)
    return config


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _check_listeners(checks: _Checks, config: ProxyConfig) -> None:
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


def _check_services(checks: _Checks, config: ProxyConfig) -> None:
    for name, service in config.services.items():
        if not _HOST.fullmatch(name):
            raise checks.fail(f"services.{name}", f"{name!r:.80} is no host name that an application could call")
        for index, endpoint in enumerate(service.endpoints):
            place = f"services.{name}.endpoints[{index}]"
            if isinstance(endpoint, str):
                checks.address(place, endpoint)
            else:
                checks.address(f"{place}.address", endpoint.address)
                if endpoint.weight < 0:
                    raise checks.fail(f"{place}.weight", "must be 0 or more")


def _check_limits(checks: _Checks, limits: Limits) -> None:
    for name in limits.__struct_fields__:
        value = getattr(limits, name)
        if not (0 < value < math.inf or (value == 0 and name in _MAY_BE_ZERO)):
            raise checks.fail(f"limits.{name}", "must be 0 or more" if name in _MAY_BE_ZERO else "must be more than 0")
