"""What is fuzzed: each target takes any bytes and raises only if something of ours is wrong.

A target must be deterministic: the same bytes, the same result. Seeds stand in `seeds/NAME.txt`; what a run finds
is added there, and `tests/fuzz` runs all of them each time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from fuzz.rules import LIMITS, Broke, Watcher
from mesh.control.speech import Malformed, decode
from mesh.model.compose import traffic
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.proxy_yaml import load_proxy_config
from mesh.model.push import FromControl, ServiceUpdate
from mesh.model.resources import HTTPRoute
from mesh.proxy.apply import problem_with
from mesh.wire.codec import Codec, Role
from mesh.wire.head import Head
from mesh.wire.http1 import Http1
from mesh.wire.http2 import Http2
from mesh.wire.http2_reference import Http2Reference
from mesh.wire.sniff import PREFACE, Verdict, server_name, sniff
from mesh.wire.tls import TlsError

Target = Callable[[bytes], None]
_from_control: msgspec.json.Decoder[FromControl] = msgspec.json.Decoder(FromControl)


def pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """The first byte decides how the rest is cut; returns that byte, for other decisions, and the pieces."""
    if not data:
        return b"\0", []
    size = (1, 2, 7, 64, 1024, 1 << 20)[data[0] % 6]
    rest = data[1:]
    return data[:1], [rest[at : at + size] for at in range(0, len(rest), size)]


def frames(data: bytes) -> Iterator[bytes]:
    """The bytes read as a recipe for HTTP/2 frames, so that what is tried is not only bad lengths: length, type, flags,
    stream (one byte each), then the payload."""
    at = 0
    while at + 4 <= len(data):
        size, kind, flags, stream = data[at : at + 4]
        payload = data[at + 4 : at + 4 + size]
        yield len(payload).to_bytes(3, "big") + bytes((kind % 11, flags)) + stream.to_bytes(4, "big") + payload
        at += 4 + size


def fuzz_sniff(data: bytes) -> None:
    """Monotone, and never raises; a ClientHello's name likewise."""
    last: object = Verdict.MORE
    for end in range(min(len(data), 300) + 1):
        now = sniff(data[:end])
        if last is not Verdict.MORE and now is not last:
            raise Broke(f"{last} became {now}")
        last = now
    named: object = Verdict.MORE
    for end in (1, 5, 6, 50, 100, len(data)):
        now_named = server_name(data[:end])
        if end <= len(data) and named is not Verdict.MORE and now_named != named:
            raise Broke(f"{named!r} became {now_named!r}")
        named = now_named if end <= len(data) else named


def fuzz_http1_server(data: bytes) -> None:
    """The same events however the bytes are cut, within the rules."""
    how, parts = pieces(data)
    cut, whole = (Watcher(Http1(Role.SERVER, LIMITS), Role.SERVER, how * 8) for _ in range(2))
    for part in parts:
        cut.feed(part)
    whole.feed(b"".join(parts))
    same(cut, whole)
    cut.eof()


def fuzz_http1_client(data: bytes) -> None:
    """The same for answers; the request is one of several, as the first byte says."""
    how, parts = pieces(data)
    method = (b"GET", b"HEAD", b"POST")[how[0] // 6 % 3]
    watchers = []
    for _ in range(2):
        codec = Http1(Role.CLIENT, LIMITS)
        codec.send_request(Head.request(method, b"/", authority=b"a"), True)
        watchers.append(Watcher(codec, Role.CLIENT))
    cut, whole = watchers
    for part in parts:
        cut.feed(part)
    whole.feed(b"".join(parts))
    same(cut, whole)
    cut.eof()


def same(cut: Watcher, whole: Watcher) -> None:
    """Both were told the same messages, as far as both were told: an answer that goes out before the request is whole
    ends the connection, and a bound may be met earlier by bytes that come at once."""
    for one, other in zip(messages(cut), messages(whole), strict=False):
        if one != other:
            raise Broke(f"cut: {cut.told!r}, whole: {whole.told!r}")


def messages(watcher: Watcher) -> list[tuple[object, ...]]:
    """The heads it was told, in order."""
    return [each for each in watcher.told if each[0] in ("Request", "Response")]


def _http2_server(build: Callable[[], Codec], data: bytes) -> None:
    how, parts = pieces(data)
    codec = build()
    codec.start()
    watcher = Watcher(codec, Role.SERVER, how * 8)
    stream = PREFACE + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
    if how[0] & 0x80:
        stream += b"".join(frames(b"".join(parts)))
        size = (1, 9, 64, 1 << 20)[how[0] & 3]
        parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    elif how[0] & 0x40:
        parts = [stream, *parts]
    for part in parts:
        watcher.feed(part)
    codec.tick(1.0)
    watcher.eof()


def fuzz_http2_server(data: bytes) -> None:
    """The compiled codec."""
    _http2_server(lambda: Http2(Role.SERVER, LIMITS), data)


def fuzz_http2_reference_server(data: bytes) -> None:
    """The pure one."""
    _http2_server(lambda: Http2Reference(Role.SERVER, LIMITS), data)


def _http2_client(codec: Codec, data: bytes) -> None:
    how, parts = pieces(data)
    codec.start()
    for _ in range(1 + how[0] // 8 % 3):
        if codec.can_open:
            codec.send_request(Head.request(b"GET", b"/", authority=b"a"), True)
    codec.take()
    watcher = Watcher(codec, Role.CLIENT)
    if how[0] & 0x80:
        parts = [bytes((0, 0, 0, 4, 0, 0, 0, 0, 0)), *frames(b"".join(parts))]
    for part in parts:
        watcher.feed(part)
    watcher.eof()


def fuzz_http2_client(data: bytes) -> None:
    """The compiled codec."""
    _http2_client(Http2(Role.CLIENT, LIMITS), data)


def fuzz_http2_reference_client(data: bytes) -> None:
    """The pure one."""
    _http2_client(Http2Reference(Role.CLIENT, LIMITS), data)


def fuzz_push_to_control(data: bytes) -> None:
    """What a proxy says is a message, or Malformed."""
    try:
        decode(data)
    except Malformed:
        return


def fuzz_push_to_proxy(data: bytes) -> None:
    """What a control plane says is a message, or no message; a service can be taken, or there is a reason."""
    try:
        message = _from_control.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return
    if isinstance(message, ServiceUpdate) and message.service is not None:
        problem_with(message.service)


def fuzz_resources(data: bytes) -> None:
    """Any text is resources or a ConfigError; what is accepted can be put together into what a proxy is told."""
    try:
        resources = [decode_resource(each) for each in load_documents(data.decode("utf-8", "replace"), "fuzz.yaml")]
    except ConfigError:
        return
    routes = [each for each in resources if isinstance(each, HTTPRoute)]
    traffic("default", "votes", routes=routes, caller="default", exists=lambda namespace, name: True)


def fuzz_proxy_yaml(data: bytes) -> None:
    """Any text is a proxy.yaml or a ConfigError."""
    try:
        load_proxy_config(data.decode("utf-8", "replace"), "proxy.yaml")
    except ConfigError:
        return


def fuzz_tls(data: bytes) -> None:
    """Any ciphertext is refused with a TlsError."""
    from fuzz.tls_server import server

    tls = server()
    try:
        tls.handshake(data)
        tls.take()
    except TlsError:
        return


TARGETS: dict[str, Target] = {
    name.removeprefix("fuzz_"): function for name, function in list(globals().items()) if name.startswith("fuzz_")
}
