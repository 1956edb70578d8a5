"""Reads the heads of HTTP/1.1 messages (RFC 9112 sections 2 to 6): bytes to `Head`. Hot: bench's HTTP/1 scenarios.

What a head may not be is decided here; what is doubtful is refused, for two parsers that read a message differently
are all that request smuggling needs. Rules:

* Names are in lower case. `Host` becomes `:authority`; Connection-specific fields (RFC 9110 section 7.6.1) never reach
  a `Head`, but for `te: trailers`.
* `Connection` may nominate further fields to be dropped, but none of `END_TO_END`, and nothing that a mesh says.

The lines are split here rather than by httptools: for a head of eight fields that took 1.1 µs against 1.4 µs here, but
it lets through much of what is refused below, and a second look at the raw bytes costs more than the difference.
"""

from __future__ import annotations

import re

from mesh.wire.head import Field, Head

CHUNKED, UNTIL_CLOSE, TUNNEL, BODILESS = -1, -2, -3, -4
"""Body lengths that are not a number of bytes."""

LEARNED_NAMES = 512
"""Field names remembered beside those below: applications use a few dozen, a flood of random ones must not grow us."""
LEARNED_LENGTH = 64
MAX_DIGITS = 18
"""Of a content-length: below 2^63."""

CLEAN = bytes(0 if (octet < 0x20 and octet != 0x09) or octet == 0x7F else 1 for octet in range(256))
OWS = b" \t"
is_token = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+").fullmatch
is_visible = re.compile(rb"[!\"$-~]+").fullmatch  # no `#`: a fragment is never sent (RFC 9112 section 3.2)
is_authority = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~\-]+)(?::[0-9]{1,5})?").fullmatch
is_target_authority = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._~\-]+):[0-9]{1,5}").fullmatch
_absolute = re.compile(rb"(https?)://([^/?]*)(.*)", re.IGNORECASE).fullmatch
is_upgrade = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?").fullmatch
_version = re.compile(rb"HTTP/[0-9](?:\.[0-9])?").fullmatch
_status_line = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: .*)?", re.DOTALL).fullmatch

METHODS = {
    name: (b":method", name)
    for name in (b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"CONNECT", b"OPTIONS", b"TRACE", b"PATCH")
}
# Methods of RTSP, ICE and of HTTP/2's preface: whoever sends them speaks no HTTP/1.1, whatever the version says.
FOREIGN_METHODS = frozenset(
    b"PRI SOURCE DESCRIBE ANNOUNCE SETUP PLAY PAUSE TEARDOWN GET_PARAMETER SET_PARAMETER REDIRECT RECORD FLUSH".split()
)
_SCHEME_HTTP = (b":scheme", b"http")

SPECIAL = frozenset(
    b"host content-length transfer-encoding connection te upgrade keep-alive proxy-connection http2-settings".split()
)
IMITATIONS = frozenset((b"content-length", b"transfer-encoding"))
_CONNECTION = {
    value: frozenset((value.lower(),)) for value in (b"keep-alive", b"Keep-Alive", b"close", b"Upgrade", b"upgrade")
}
_LISTED = frozenset((b"keep-alive", b"close", b"upgrade", b"te", b"http2-settings"))
_NONE: frozenset[bytes] = frozenset()

END_TO_END = frozenset(
    b"content-type content-encoding content-range content-location range date expires etag age vary location allow"
    b" cache-control authorization proxy-authorization proxy-authenticate www-authenticate cookie set-cookie origin"
    b" referer forwarded via expect max-forwards traceparent tracestate grpc-timeout grpc-status grpc-message"
    b" grpc-encoding strict-transport-security content-security-policy access-control-allow-origin x-request-id"
    b" x-b3-traceid x-b3-spanid x-real-ip".split()
)
"""Fields that `Connection` cannot take away, beside those with `_KEPT_PREFIXES`."""
_KEPT_PREFIXES = (b"conduit-", b"l5d-", b"x-forwarded-", b"sec-")

FORBIDDEN_TRAILERS = SPECIAL | frozenset(
    b"authorization proxy-authorization proxy-authenticate www-authenticate cookie set-cookie content-encoding"
    b" content-type content-range trailer expect max-forwards range cache-control location".split()
)
"""What frames, routes, or authorises has no place after the body (RFC 9110 section 6.5.1)."""

KNOWN_NAMES = END_TO_END | frozenset(
    b"accept accept-encoding accept-language accept-charset accept-ranges user-agent server if-match if-none-match"
    b" if-range if-modified-since if-unmodified-since last-modified link pragma retry-after trailer warning dnt"
    b" priority x-forwarded-for x-forwarded-host x-forwarded-proto upgrade-insecure-requests x-powered-by"
    b" sec-fetch-mode sec-fetch-site sec-fetch-dest sec-websocket-key sec-websocket-version sec-websocket-protocol"
    b" sec-websocket-extensions sec-websocket-accept x-content-type-options x-frame-options"
    b" access-control-allow-methods access-control-allow-headers".split()
)
_ORDINARY: dict[bytes, bytes] = {
    spelling: name for name in KNOWN_NAMES for spelling in (name, name.title(), name.upper(), name.capitalize())
}
_SPECIAL_SPELLINGS = {spelling: name for name in SPECIAL for spelling in (name, name.title())}
_REPEATED = frozenset(
    b"accept accept-encoding accept-language accept-ranges user-agent content-type content-encoding server vary"
    b" cache-control x-forwarded-proto".split()
)
"""Fields that come again and again with the same value, none of them a secret: their lines are remembered."""
_REPEATED_LENGTH = 160
_REPEATED_LINES: dict[bytes, Field] = {}
_LEARNED_LIMIT = len(_ORDINARY) + LEARNED_NAMES
_STATUS_FIELDS = {status: (b":status", b"%d" % status) for status in range(100, 1000)}


class Malformed(Exception):
    """A peer's message, refused with `status`; `reason` is one word_like_this, `detail` a sentence for people."""

    def __init__(self, reason: str, detail: str, status: int = 400) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.status = status


# ---------------------------------------------------------------------------


def parse_request(raw: bytes, max_fields: int) -> tuple[Head, int, bool, bool]:
    """A request's head, its body's length in bytes (or `CHUNKED`, or `TUNNEL` for CONNECT), whether the connection
    persists, and whether it is HTTP/1.1.

    `raw` is everything before the empty line. Raises `Malformed`.
    """
    lines = raw.split(b"\r\n")
    if len(lines) > max_fields + 1:
        raise Malformed("header_fields", f"the request has more than {max_fields} fields", 431)
    if 0 in b"".join(lines).translate(CLEAN):
        raise Malformed("forbidden_octet", "the request's head has a control character, or a CR or LF of its own")
    parts = lines[0].split(b" ")
    if len(parts) != 3:
        raise Malformed("request_line", "the request line is not `method target version`")
    method, target, version = parts
    modern = version == b"HTTP/1.1"
    if not modern and version != b"HTTP/1.0":
        raise bad_version(version)
    method_field = METHODS.get(method)
    if method_field is None:
        if is_token(method) is None or method in FOREIGN_METHODS:
            raise Malformed("method", "the method is not one of HTTP")
        method_field = (b":method", method)
    if is_visible(target) is None:
        raise Malformed("target", "the request target has a fragment, a space or an invisible character")
    del lines[0]
    block: list[Field] = [method_field, _SCHEME_HTTP, (b":path", target), _SCHEME_HTTP]
    authority, length, chunked, options, upgrade = _parse_fields(lines, block, 4)
    if authority is None:
        if modern:
            raise Malformed("host_missing", "an HTTP/1.1 request needs a Host field")
        authority = b""
    elif is_authority(authority) is None:
        raise Malformed("host_invalid", "the Host field is not `host[:port]`")
    if chunked:
        if not modern:
            raise Malformed("transfer_encoding_http10", "HTTP/1.0 has no transfer-codings")
        if length is not None:
            raise Malformed("length_and_transfer_encoding", "the request has both Content-Length and Transfer-Encoding")
        length = CHUNKED
    elif length is None:
        length = 0
    scheme = b"http"
    if target[0] != 0x2F or method == b"CONNECT":  # `/`
        if method == b"CONNECT":
            if is_target_authority(target) is None:
                raise Malformed("target", "the target of CONNECT is not `host:port`")
            if length:
                raise Malformed("connect_with_body", "CONNECT has no body")
            # clients that think of the URL behind the tunnel leave its scheme's own port out of Host
            host = authority.lower()
            if host and target.lower() not in (host, host + b":80", host + b":443"):
                raise Malformed("host_mismatch", "the Host field is not the target of CONNECT")
            authority = target
            rest = [field for field in block[4:] if field[0] != b"content-length"]
            block = [method_field, (b":authority", target), *rest]
            target = b""
            length = TUNNEL
        elif target == b"*":
            if method != b"OPTIONS":
                raise Malformed("target", "only OPTIONS has the target `*`")
        else:
            scheme, authority, target = _absolute_form(method, target, authority)
            block[1] = (b":scheme", scheme)
            block[2] = (b":path", target)
    if length != TUNNEL:
        if authority:
            block[3] = (b":authority", authority)
        else:
            del block[3]
    if not options:
        return Head(block, method, scheme, authority, target), length, modern, modern
    if b"upgrade" not in options or not modern or length == TUNNEL:
        upgrade = b""
    persists = b"close" not in options and (modern or b"keep-alive" in options)
    return Head(block, method, scheme, authority, target, 0, upgrade), length, persists, modern


def _absolute_form(method: bytes, target: bytes, host: bytes) -> tuple[bytes, bytes, bytes]:
    """Scheme, authority and path of an absolute-form target (RFC 9112 section 3.2.2), which must agree with `Host`."""
    found = _absolute(target)
    if found is None:
        raise Malformed("target", "the request target has none of the forms of HTTP")
    scheme, authority, path = found[1].lower(), found[2], found[3]
    if is_authority(authority) is None:
        raise Malformed("target", "the request target's authority is not `host[:port]`")
    if host and host != authority:
        port = b":80" if scheme == b"http" else b":443"
        if host.lower().removesuffix(port) != authority.lower().removesuffix(port):
            raise Malformed("host_mismatch", "the Host field differs from the request target's authority")
    if not path:
        path = b"*" if method == b"OPTIONS" else b"/"
    elif path[0] != 0x2F:
        path = b"/" + path
    return scheme, authority, path


def bad_version(version: bytes) -> Malformed:
    """The refusal of a start line that ends in `version`."""
    if _version(version) is not None:
        return Malformed("version", "the version is neither HTTP/1.1 nor HTTP/1.0", 505)
    return Malformed("protocol", "this is not HTTP")


def parse_response(raw: bytes, max_fields: int, method: bytes, upgrade_asked: bytes) -> tuple[Head, int, bool]:
    """A response's head, its body's length in bytes (or `CHUNKED`, `UNTIL_CLOSE`, `TUNNEL`), and whether the connection
    persists.

    `method` is the request's, which decides the framing with the status (RFC 9112 section 6.3); `upgrade_asked` what it
    asked to switch to. Raises `Malformed`.
    """
    lines = raw.split(b"\r\n")
    if len(lines) > max_fields + 1:
        raise Malformed("header_fields", f"the response has more than {max_fields} fields")
    if 0 in b"".join(lines).translate(CLEAN):
        raise Malformed("forbidden_octet", "the response's head has a control character, or a CR or LF of its own")
    found = _status_line(lines[0])
    if found is None:
        raise Malformed("status_line", "the status line is not one of HTTP/1.1 or HTTP/1.0")
    modern = found[1] == b"1"
    status = int(found[2])
    del lines[0]
    block: list[Field] = [_STATUS_FIELDS[status]]
    _, length, chunked, options, upgrade = _parse_fields(lines, block, 1)
    if chunked:
        if not modern:
            raise Malformed("transfer_encoding_http10", "HTTP/1.0 has no transfer-codings")
        if length is not None:
            raise Malformed(
                "length_and_transfer_encoding", "the response has both Content-Length and Transfer-Encoding"
            )
    persists = (modern or b"keep-alive" in options) and b"close" not in options
    if status < 200 or status == 204 or (method == b"CONNECT" and status < 300):
        if chunked or length:
            persists = False  # whoever frames a body that cannot be may also send it
        if length is not None:
            block = [field for field in block if field[0] != b"content-length"]
        length = 0
        if status == 101:
            if not upgrade_asked or b"upgrade" not in options or upgrade.lower() != upgrade_asked.lower():
                raise Malformed("upgrade_not_asked", "the response switches to a protocol that was not asked for")
            return Head(block, status=status, upgrade=upgrade), TUNNEL, False
        if status >= 200 and method == b"CONNECT":
            return Head(block, status=status), TUNNEL, False
    elif method == b"HEAD":
        length = 0
    elif status == 304:
        if chunked:
            persists = False
        length = 0
    elif chunked:
        length = CHUNKED
    elif length is None:
        length = UNTIL_CLOSE
        persists = False
    return Head(block, b"", b"", b"", b"", status), length, persists


def _parse_fields(
    lines: list[bytes], block: list[Field], pseudo: int
) -> tuple[bytes | None, int | None, bool, frozenset[bytes], bytes]:
    """Append the end-to-end fields in `lines` to `block`, whose first `pseudo` places are taken.

    Returns Host, Content-Length, whether Transfer-Encoding is chunked, the options of Connection, and Upgrade.
    """
    append = block.append
    ordinary = _ORDINARY.get
    repeated = _REPEATED_LINES.get
    special = _SPECIAL_SPELLINGS.get
    host = length = None
    chunked = False
    options = _NONE
    upgrade = b""
    for line in lines:
        seen = repeated(line)
        if seen is not None:
            append(seen)
            continue
        name, colon, value = line.partition(b":")
        value = value.strip(OWS)
        known = ordinary(name)
        if known is not None and colon:
            field = (known, value)
            append(field)
            if known in _REPEATED and len(line) <= _REPEATED_LENGTH:
                _remember(line, field)
            continue
        name = special(name) or _learn(name, colon)
        if not colon:
            raise Malformed("field_line", "a field has no colon")
        if name not in SPECIAL:
            append((name, value))
        elif name == b"host":
            if host is not None:
                raise Malformed("host_duplicate", "there is more than one Host field")
            host = value
        elif name == b"content-length":
            if length is not None:
                raise Malformed("content_length_duplicate", "there is more than one Content-Length field")
            if not value.isdigit() or len(value) > MAX_DIGITS:
                raise Malformed("content_length_invalid", "Content-Length is not a number")
            length = int(value)
            append((name, b"%d" % length))
        elif name == b"connection":
            found = _CONNECTION.get(value)
            if found is None:
                found = _options(value)
            options = found if not options else options | found
        elif name == b"transfer-encoding":
            if chunked:
                raise Malformed("transfer_encoding_duplicate", "there is more than one Transfer-Encoding field")
            if value != b"chunked":
                _check_coding(value)
            chunked = True
        elif name == b"te":
            if any(option.strip(OWS).lower() == b"trailers" for option in value.split(b",")):
                append((b"te", b"trailers"))
        elif name == b"upgrade":
            upgrade = b"," if upgrade else value
    if options and not options <= _LISTED:
        dropped = [name for name in options if name not in END_TO_END and not name.startswith(_KEPT_PREFIXES)]
        block[pseudo:] = [f for f in block[pseudo:] if f[0] not in dropped or f[0] in SPECIAL]
    if upgrade and (is_upgrade(upgrade) is None or upgrade.lower().startswith((b"h2", b"http", b"tls"))):
        # h2c would carry requests past everything that decides about requests; a list leaves open who chose what.
        upgrade = b""
    return host, length, chunked, options, upgrade


def _remember(line: bytes, field: Field) -> None:
    if len(_REPEATED_LINES) >= LEARNED_NAMES:
        _REPEATED_LINES.clear()  # a flood of them must neither grow it nor shut others out
    _REPEATED_LINES[line] = field


def _learn(name: bytes, colon: bytes) -> bytes:
    """The lower-case form of a field name that is not known yet, which is remembered if it is an ordinary one."""
    if name[:1] in (b" ", b"\t"):
        raise Malformed("obs_fold", "a field is folded over two lines")
    if not colon:
        raise Malformed("field_line", "a field has no colon")
    if is_token(name) is None:
        raise Malformed("field_name", "a field's name is not a token")
    lower = name.lower()
    if lower in SPECIAL:
        return lower
    if b"_" in lower and lower.replace(b"_", b"-") in IMITATIONS:
        raise Malformed("field_name", "a field imitates one that frames the message")
    if len(_ORDINARY) < _LEARNED_LIMIT and len(name) <= LEARNED_LENGTH:
        _ORDINARY[name] = lower
    return lower


def _options(value: bytes) -> frozenset[bytes]:
    options = frozenset(option.strip(OWS).lower() for option in value.split(b",")) - {b""}
    for option in options:
        if is_token(option) is None:
            raise Malformed("connection_invalid", "the Connection field is not a list of tokens")
    return options


def _check_coding(value: bytes) -> None:
    """Raise unless `value` is `chunked`, in whatever case. What we merely do not know is 501 (RFC 9112 section 6.1)."""
    codings = [coding.strip(OWS) for coding in value.lower().split(b",")]
    if codings == [b"chunked"]:
        return
    if all(map(is_token, codings)) and codings.count(b"chunked") == (codings[-1] == b"chunked"):
        raise Malformed("transfer_encoding_unknown", "the only transfer-coding is chunked", 501)
    raise Malformed("transfer_encoding_invalid", "Transfer-Encoding is not `chunked`")


def check_beginning(source: bytes | bytearray, position: int, scanned: int, is_request: bool) -> Malformed | None:
    """Why what stands at `position` cannot become a head, though it is not complete; None if it can.

    Of it `scanned` bytes had been looked at before, but for a line end that was not whole then.
    """
    line = source.find(b"\n", position + scanned)
    if line < 0:
        return None
    while line >= 0:
        if line == position or source[line - 1] != 0x0D:
            return Malformed("forbidden_octet", "a line ends in LF alone")
        line = source.find(b"\n", line + 1)
    start = bytes(source[position : source.find(b"\r", position)])
    version = start.rpartition(b" ")[2] if is_request else start.partition(b" ")[0]
    return None if version in (b"HTTP/1.1", b"HTTP/1.0") else bad_version(version)


def check_trailers(fields: list[Field]) -> tuple[Field, ...]:
    """`fields`, lower-cased, as the chunk parser found them. Raises `Malformed` for what has no place in trailers."""
    checked: list[Field] = []
    for name, value in fields:
        lower = name.lower()
        if is_token(lower) is None or 0 in value.translate(CLEAN):
            raise Malformed("trailer_invalid", "a trailer field is malformed")
        if lower in FORBIDDEN_TRAILERS or lower.replace(b"_", b"-") in IMITATIONS:
            raise Malformed("trailer_forbidden", "a field that frames or routes a message stands after its body")
        checked.append((lower, value.strip(OWS)))
    return tuple(checked)
