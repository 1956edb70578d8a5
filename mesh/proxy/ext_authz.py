"""Envoy's ext_authz v3 (`envoy.service.auth.v3.Authorization/Check`): a request -> CheckRequest, CheckResponse -> a
verdict (pure).

Rules. The messages' types come with the package xds-protos, which is imported when the first policy wants it. An answer
that cannot be read, or that asks for what cannot be done, is `Garbage`, never half a verdict. What frames a message,
`host` and what is reserved to proxies are left as they are, whatever an answer says of them; pseudo fields may not be
set, because what the rules have judged is what is forwarded. What an authoriser sets or removes, a client cannot say
either by a name with `_` for `-`, which applications may take for the same.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple
from urllib.parse import quote

from mesh.model.identity import parse
from mesh.proxy.authority import split_address
from mesh.proxy.edit import FRAMING
from mesh.proxy.outgoing import RESERVED
from mesh.proxy.rescue import Answer, Reason, response
from mesh.wire.codec import CANCEL
from mesh.wire.head import Field, Head
from mesh.wire.http1_head import IMITATIONS

PATH = b"/envoy.service.auth.v3.Authorization/Check"
MODULE = "envoy.service.auth.v3.external_auth_pb2"
PREFIX = 5
"""Bytes before a gRPC message: whether it is compressed, and its length (gRPC over HTTP/2, Length-Prefixed-Message)."""
MESSAGE = 1000
"""Characters of a grpc-message, which is a header: of a longer text, the beginning."""
GRPC_OF_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}
"""What gRPC makes of an HTTP status that stands where a grpc-status should (gRPC, HTTP to gRPC Status Code Mapping);
2, UNKNOWN, for all others."""
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9a-z-]+")
_VALUE = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_MAX_AGE = re.compile(rb"max-age=(\d{1,9})")
_PRINTABLE = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")
"""What stands for itself in a grpc-message (gRPC over HTTP/2, Status-Message)."""
_QUERY_SAFE = "/%!$'()*,;:@-._~?"
_BODILESS = frozenset((204, 205, 304))

APPEND, ADD_IF_ABSENT, OVERWRITE, OVERWRITE_IF_EXISTS = range(4)
"""HeaderValueOption.HeaderAppendAction, by its numbers."""


class Garbage(ValueError):
    """The answer makes no sense; `str()` says why."""


class About(NamedTuple):
    """The request in question. `protocol` is http1 or http2, addresses are `host:port`, identities DNS spellings
    (empty: none), `wall` seconds since the epoch."""

    head: Head
    protocol: str
    number: str
    peer: str
    identity: str
    address: str
    own: str
    service: str
    wall: float


class Edit(NamedTuple):
    """One field, and what to do with it."""

    action: int
    name: bytes
    value: bytes


class Verdict(NamedTuple):
    """What an authoriser says. `edits`, `removed` and the two of the query are for the request, `response_edits` for
    the application's answer; `status` and all after it are what a denied client gets. `grpc_status` is 0 where it
    follows from `status`."""

    allowed: bool
    edits: tuple[Edit, ...] = ()
    removed: frozenset[bytes] = frozenset()
    query_set: tuple[tuple[bytes, bytes], ...] = ()
    query_removed: frozenset[bytes] = frozenset()
    response_edits: tuple[Edit, ...] = ()
    status: int = 403
    grpc_status: int = 0
    fields: tuple[Field, ...] = ()
    body: bytes = b""
    message: str = ""
    max_age: float = 0.0
    """Seconds for which the authoriser lets the verdict be used again."""


def missing() -> str:
    """Why no authoriser can be asked here; empty if one can."""
    try:
        _messages()
    except ImportError as exc:
        return f"an external authoriser needs the package xds-protos (pip install 'conduit-mesh[authorizer]'): {exc}"
    return ""


def _messages() -> Any:
    return importlib.import_module(MODULE)


def _unreadable() -> type[Exception]:
    found: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    return found


# --- the question ----------------------------------------------------------------------------------------------------


def question(about: About, names: Sequence[str]) -> Any:
    """The CheckRequest: `names` are the header fields that it tells, in lower case. It never has a body."""
    head = about.head
    told = _messages().CheckRequest()
    attributes = told.attributes
    _peer(attributes.source, about.peer, about.identity)
    _peer(attributes.destination, about.address, about.own)
    attributes.destination.service = about.service
    attributes.request.time.seconds = int(about.wall)
    attributes.request.time.nanos = int(about.wall % 1.0 * 1e9)
    http = attributes.request.http
    http.id = about.number
    http.method = _text(head.method)
    http.path = _text(head.path)
    http.host = _text(head.authority)
    http.scheme = _text(head.scheme)
    http.protocol = "HTTP/2" if about.protocol == "http2" else "HTTP/1.1"
    length = head.get(b"content-length") or b""
    http.size = int(length) if length.isdigit() and len(length) < 16 else -1
    for name in names:
        value = head.get_joined(name.encode())
        if value is not None:
            http.headers[name] = _text(value)
    return told


def _peer(peer: Any, address: str, identity: str) -> None:
    try:
        host, port = split_address(address)
    except ValueError:
        return  # a test's, or a listener that has no address
    peer.address.socket_address.address = host
    peer.address.socket_address.port_value = port
    if identity:
        known = parse(identity)
        peer.principal = known.uri if known is not None else identity


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def same(told: Any) -> bytes:
    """A digest of all that was told but what is another each time (id, time, the caller's port): what decisions are
    remembered by."""
    rest = type(told)()
    rest.CopyFrom(told)
    request = rest.attributes.request
    request.ClearField("time")
    request.http.ClearField("id")
    rest.attributes.source.address.socket_address.ClearField("port_value")
    return hashlib.blake2b(rest.SerializeToString(deterministic=True), digest_size=32).digest()


def framed(told: Any) -> bytes:
    """The message as the one of a gRPC call."""
    data: bytes = told.SerializeToString()
    return b"\0" + len(data).to_bytes(4, "big") + data


# --- the answer ------------------------------------------------------------------------------------------------------


def verdict(data: bytes, head: Head) -> Verdict:
    """What the body of an answer says, whose head is `head`. Raises Garbage."""
    if len(data) < PREFIX or len(data) - PREFIX != int.from_bytes(data[1:PREFIX], "big"):
        raise Garbage("its answer is not one gRPC message")
    if data[0]:
        raise Garbage("its answer is compressed, for which nobody has asked")
    try:
        answer = _messages().CheckResponse.FromString(data[PREFIX:])
    except _unreadable() as exc:
        raise Garbage("its answer is not a CheckResponse") from exc
    kind = answer.WhichOneof("http_response")
    code = answer.status.code
    if kind == "error_response":
        raise Garbage(f"it says that it cannot decide: {answer.status.message or 'error_response'}")
    age = max_age(_cache_control(answer) or head.get(b"cache-control"))
    if code == 0:
        if kind == "denied_response":
            raise Garbage("its answer has the status OK and a denied_response")
        return _allowed(answer.ok_response, age)
    if kind == "ok_response":
        raise Garbage(f"its answer has the status {code} and an ok_response")
    denied = answer.denied_response
    status = denied.status.code
    known = 200 <= status <= 599
    return Verdict(
        False,
        status=status if known else 403,
        grpc_status=code if not known and 0 < code <= 16 else 0,
        fields=tuple((name, value) for _, name, value in _edits(denied.headers, APPEND)),
        body=denied.body.encode(),
        message=answer.status.message,
        max_age=age,
    )


def _allowed(ok: Any, age: float) -> Verdict:
    removed = frozenset(name.lower().encode() for name in ok.headers_to_remove)
    return Verdict(
        True,
        edits=_edits(ok.headers, OVERWRITE),
        removed=frozenset(name for name in removed if _is_editable(name)),
        query_set=tuple((_quoted(one.key), _quoted(one.value)) for one in ok.query_parameters_to_set),
        query_removed=frozenset(_quoted(key) for key in ok.query_parameters_to_remove),
        response_edits=_edits(ok.response_headers_to_add, APPEND),
        max_age=age,
    )


def _edits(options: Any, usual: int) -> tuple[Edit, ...]:
    """`usual`: what is done where an option says nothing."""
    edits = []
    for option in options:
        name = option.header.key.lower().encode()
        value = (option.header.value.encode() or option.header.raw_value).strip(b" \t")
        if name.startswith(b":"):
            raise Garbage(f"its answer sets {_text(name)}, which is not its to decide")
        imitates = name.replace(b"_", b"-") in IMITATIONS and name not in IMITATIONS
        if imitates or _NAME.fullmatch(name) is None or _VALUE.fullmatch(value) is None:
            raise Garbage(f"its answer has a header that cannot be sent: {_text(name)!r}")
        if option.HasField("append"):
            action = APPEND if option.append.value else OVERWRITE
        else:
            action = option.append_action or usual
        if action not in (APPEND, ADD_IF_ABSENT, OVERWRITE, OVERWRITE_IF_EXISTS):
            raise Garbage(f"its answer has an append_action that is unknown: {action}")
        if _is_editable(name):
            edits.append(Edit(action, name, value))
    return tuple(edits)


def _is_editable(name: bytes) -> bool:
    return name not in FRAMING and not name.startswith(b":") and RESERVED.fullmatch(name) is None


def _quoted(text: str) -> bytes:
    return quote(text, safe=_QUERY_SAFE).encode()


def _cache_control(answer: Any) -> bytes | None:
    """dynamic_metadata's `cache-control`: for authorisers that cannot set metadata of the call."""
    fields = answer.dynamic_metadata.fields
    if "cache-control" not in fields:  # looking it up would add it
        return None
    text: str = fields["cache-control"].string_value
    return text.encode()


def max_age(value: bytes | None) -> float:
    """Seconds that a `cache-control` (RFC 9111 section 5.2.2) allows; 0 where it says none, or no-store or no-cache."""
    age = 0.0
    for one in (value or b"").lower().split(b","):
        directive = one.strip(b" \t")
        if directive in (b"no-store", b"no-cache"):
            return 0.0
        found = _MAX_AGE.fullmatch(directive)
        if found is not None:
            age = float(found[1])
    return age


# --- what comes of it ------------------------------------------------------------------------------------------------


def edited(head: Head, edits: Sequence[Edit], removed: frozenset[bytes] = frozenset()) -> Head:
    """A head with `edits` made, in order, and then without `removed`; this very head if nothing differs."""
    result = head
    for action, name, value in edits:
        there = result.get(name) is not None
        if action == OVERWRITE or (action == OVERWRITE_IF_EXISTS and there):
            result = result.with_field(name, value)
        elif action == APPEND or (action == ADD_IF_ABSENT and not there):
            result = result.with_fields(frozenset(), [(name, value)])
    return result.with_fields(removed, ()) if removed else result


def granted(head: Head, said: Verdict) -> Head:
    """The request's head as an authoriser wants it to go on."""
    told = {name.replace(b"_", b"-") for action, name, _ in said.edits if action == OVERWRITE}
    told.update(name.replace(b"_", b"-") for name in said.removed)
    imitated = frozenset(name for name, _ in head.block if b"_" in name and name.replace(b"_", b"-") in told)
    result = edited(head.with_fields(imitated, ()) if imitated else head, said.edits, said.removed)
    if said.query_set or said.query_removed:
        result = result.with_request(path=_with_query(head.path, said))
    return result


def _with_query(path: bytes, said: Verdict) -> bytes:
    bare, _, query = path.partition(b"?")
    dropped = said.query_removed | {key for key, _ in said.query_set}
    kept = [one for one in query.split(b"&") if one and one.partition(b"=")[0] not in dropped]
    added = [key + b"=" + value for key, value in said.query_set if key not in said.query_removed]
    return b"?".join([bare, b"&".join(kept + added)]) if kept or added else bare


def denial(said: Verdict, grpc: bool, text: str) -> tuple[Head, bytes, int]:
    """Head, body and grpc-status (-1 where it is no gRPC call) of the answer to what was denied; `text` is for people,
    where the authoriser has said nothing to them."""
    if grpc:
        code = said.grpc_status or GRPC_OF_STATUS.get(said.status, 2)
        kept = [field for field in said.fields if not field[0].startswith((b"content-", b"grpc-"))]
        words = quote((said.body.decode() or said.message or text)[:MESSAGE], safe=_PRINTABLE).encode()
        begin = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % code), (b"grpc-message", words)]
        return Head.response(200, [*begin, *kept, _reason()]), b"", code
    if said.status in _BODILESS:
        kept = [field for field in said.fields if not field[0].startswith(b"content-")]
        return Head.response(said.status, [*kept, _reason()]), b"", -1
    if not said.body:
        kept = [field for field in said.fields if field[0] != b"content-type"]
        answer = Answer(said.status, 0, CANCEL)
        return *response(Reason.DENIED, text, grpc=False, answer=answer, fields=kept), -1
    fields = [*said.fields, (b"content-length", b"%d" % len(said.body)), _reason()]
    if all(name != b"content-type" for name, _ in said.fields):
        fields.append((b"content-type", b"text/plain; charset=utf-8"))
    return Head.response(said.status, fields), said.body, -1


def _reason() -> Field:
    return b"conduit-error", Reason.DENIED.value.encode()
