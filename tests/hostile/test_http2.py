"""HTTP/2 under attack: every row of that table, with both codecs."""

import pytest
import trio

from tests.hostile import attacks, frames
from tests.hostile.asking import say
from tests.hostile.conftest import Target
from tests.hostile.frames import DATA, END_STREAM, GOAWAY, HEADERS, RST_STREAM, SETTINGS, Frame
from tests.hostile.honest import Honest2

SECONDS = 0.3


def check_heard(target: Target, allowed: bool = False) -> None:
    """What was refused has not reached the application."""
    heard = [head for head in target.heard() if "/evil" in head]
    assert allowed or heard == []


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("continuation_flood", ["control_flood"]),
        ("continuation_bytes", ["header_bytes", "control_flood"]),  # while it is received, or when it is decoded
        ("hpack_bomb", ["header_bytes"]),
        ("cookie_crumbs", ["header_fields"]),
    ],
)
async def test_header_blocks(target: Target, name: str, reasons: list[str]) -> None:
    """Row: CONTINUATION flood, HPACK bomb, cookie crumbs."""
    async with target.under_attack(*reasons):
        await attacks.ATTACKS[name](target.inbound, SECONDS)
    await trio.to_thread.run_sync(check_heard, target)


@pytest.mark.parametrize(
    ("name", "reasons"),
    [
        ("rapid_reset", ["rapid_reset"]),
        ("made_you_reset", ["rapid_reset", "protocol_error"]),  # it may end the connection at once
        ("made_you_refuse", ["rapid_reset", "protocol_error"]),  # or be too many streams
    ],
)
async def test_streams_that_end_early(target: Target, name: str, reasons: list[str]) -> None:
    """Row: rapid reset (CVE-2023-44487), MadeYouReset (CVE-2025-8671)."""
    async with target.under_attack(*reasons):
        await attacks.ATTACKS[name](target.inbound, SECONDS)


@pytest.mark.parametrize(
    "name",
    [
        *("ping_flood", "unread_pings", "settings_flood", "priority_flood", "window_update_flood"),
        *("empty_data_flood", "unknown_flood"),
    ],
)
async def test_floods_of_control_frames(target: Target, name: str) -> None:
    """Row: PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty-DATA floods."""
    async with target.under_attack("control_flood"):
        await attacks.ATTACKS[name](target.inbound, SECONDS)


async def test_too_many_streams(target: Target) -> None:
    """Row: too many streams."""
    async with target.under_attack("protocol_error"):
        await attacks.too_many_streams(target.inbound, SECONDS)


@pytest.mark.parametrize("name", ["window_stall", "slow_read_http2"])
async def test_answers_that_are_not_taken(target: Target, name: str) -> None:
    """Row: window stall, slow read."""
    await target.outlasts(attacks.ATTACKS[name], "write_timeout")


async def test_a_client_that_cancels_much_survives(target: Target) -> None:
    """Row: rapid reset (honest clients that cancel within a large pooled connection survive)."""
    async with target.under_attack(versions=(Honest2,)) as (client,):
        connection = await attacks.connect(target.inbound)
        await connection.send_all(attacks.GREETING)
        reader, answered, stream = frames.Reader(), 0, 1
        while answered < 600:
            burst = b"".join(frames.get(stream + 2 * one) for one in range(20))
            given_up = b"".join(
                frames.get(stream + 40 + 2 * one, b"/evil/hold") + frames.reset(stream + 40 + 2 * one)
                for one in range(18)
            )
            await connection.send_all(burst + given_up)
            stream += 80
            wanted = answered + 20
            while answered < wanted:
                data = await connection.receive_some(65536)
                assert data, "the proxy ended the connection"
                for one in reader.feed(data):
                    assert one.kind != GOAWAY
                    answered += one.kind == DATA and bool(one.flags & END_STREAM)
        await attacks.drop(connection)
        assert client.times


def replies(data: bytes) -> list[Frame]:
    return list(frames.Reader().feed(data))


def test_the_number_of_streams_is_told(target: Target) -> None:
    """Row: too many streams (MAX_CONCURRENT_STREAMS is always sent)."""
    greeting = replies(say(target.inbound, attacks.GREETING, close=True))
    (settings,) = [one for one in greeting if one.kind == SETTINGS and not one.flags]
    pairs = [settings.payload[at : at + 6] for at in range(0, len(settings.payload), 6)]
    told = {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}
    assert told[frames.MAX_CONCURRENT_STREAMS] == 256


EVIL = frames.request(b"/evil")


def changed(**fields: bytes | None) -> list[tuple[bytes, bytes]]:
    """A request with other pseudo fields, or without them."""
    given = {b":" + name.encode(): value for name, value in fields.items()}
    return [(name, value) for name, was in EVIL if (value := given.get(name, was)) is not None]


MALFORMED: dict[str, list[tuple[bytes, bytes]]] = {
    "no method": changed(method=None),
    "empty method": changed(method=b""),
    "method with space": changed(method=b"GET /"),
    "no scheme": changed(scheme=None),
    "odd scheme": changed(scheme=b"ftp"),
    "scheme with a line": changed(scheme=b"http\r\nx: y"),
    "no path": changed(path=None),
    "empty path": changed(path=b""),
    "path without slash": changed(path=b"evil"),
    "path with space": changed(path=b"/evil HTTP/1.1"),
    "path with a high byte": changed(path=b"/evil\xff"),
    "path with a fragment": changed(path=b"/evil#x"),
    "path with CR LF": changed(path=b"/evil HTTP/1.1\r\nhost: web\r\n\r\nGET /evil"),
    "path with NUL": changed(path=b"/evil\0"),
    "absolute path": changed(path=b"http://web/evil"),
    "star": changed(path=b"*"),
    "userinfo": changed(authority=b"web@evil"),
    "authority with a path": changed(authority=b"web/evil"),
    "authority with space": changed(authority=b"web evil"),
    "authority with CR LF": changed(authority=b"web\r\nx: y"),
    "host unequal": [*EVIL, (b"host", b"other")],
    "two hosts": [*EVIL, (b"host", b"web"), (b"host", b"web")],
    "two paths": [*EVIL, (b":path", b"/evil/2")],
    "two authorities": [*EVIL[:3], (b":authority", b"other"), EVIL[3]],
    "pseudo after field": [*EVIL[:3], (b"x", b"y"), EVIL[3]],
    "pseudo of an answer": [*EVIL, (b":status", b"200")],
    "unknown pseudo": [*EVIL, (b":evil", b"1")],
    "connection": [*EVIL, (b"connection", b"close")],
    "keep-alive": [*EVIL, (b"keep-alive", b"1")],
    "proxy-connection": [*EVIL, (b"proxy-connection", b"close")],
    "upgrade": [*EVIL, (b"upgrade", b"h2c")],
    "transfer-encoding": [*EVIL, (b"transfer-encoding", b"chunked")],
    "te": [*EVIL, (b"te", b"gzip")],
    "upper case": [*EVIL, (b"X-Evil", b"1")],
    "name with space": [*EVIL, (b"x evil", b"1")],
    "name with CR LF": [*EVIL, (b"x\r\ny", b"1")],
    "name with colon": [*EVIL, (b"x:y", b"1")],
    "empty name": [*EVIL, (b"", b"1")],
    "value with CR LF": [*EVIL, (b"x", b"y\r\nevil: 1")],
    "value with LF": [*EVIL, (b"x", b"y\nevil: 1")],
    "value with NUL": [*EVIL, (b"x", b"y\0z")],
    "value with DEL": [*EVIL, (b"x", b"y\x7f")],
    "length that is none": [*EVIL, (b"content-length", b"-1")],
    "two lengths": [*EVIL, (b"content-length", b"0"), (b"content-length", b"1")],
    "length without body": [*EVIL, (b"content-length", b"5")],
    "connect with a path": changed(method=b"CONNECT"),
}
IN_H1_ONLY = ("CR LF", "LF", "NUL")


async def all_refused(target: Target, messages: dict[str, list[tuple[bytes, bytes]]]) -> None:
    """Each on a connection of its own: reset, or the connection ended, or refused with a 4xx; never forwarded."""
    async with target.under_attack("malformed", "protocol_error", "bad_preface"):
        for name, fields in messages.items():
            data = attacks.GREETING + frames.headers(1, frames.block(fields))
            answer = await trio.to_thread.run_sync(lambda data=data: say(target.inbound, data, close=True))
            kinds = {one.kind for one in replies(answer) if one.stream == 1 or one.kind == GOAWAY}
            assert kinds & {RST_STREAM, GOAWAY}, (name, replies(answer))
            assert HEADERS not in kinds, name
        assert await trio.to_thread.run_sync(target.heard) == []


async def test_malformed_messages(target: Target) -> None:
    """Row: malformed messages."""
    await all_refused(target, {name: one for name, one in MALFORMED.items() if not name.endswith(IN_H1_ONLY)})


async def test_lines_do_not_get_into_http1(target: Target) -> None:
    """Row: CR/LF or NUL carried from h2 into h1."""
    await all_refused(target, {name: one for name, one in MALFORMED.items() if name.endswith(IN_H1_ONLY)})


async def test_bodies_that_are_not_as_long_as_they_said(target: Target) -> None:
    """Row: malformed messages (content-length unequal to the body)."""
    async with target.under_attack("malformed"):
        for length, body in ((b"1", b"longer"), (b"10", b"shorter")):
            head = frames.block(frames.request(b"/evil", b"POST", [(b"content-length", length)]))
            data = frames.headers(1, head, end=False) + frames.frame(DATA, END_STREAM, 1, body)
            answer = await trio.to_thread.run_sync(
                lambda data=data: say(target.inbound, attacks.GREETING + data, close=True)
            )
            assert {RST_STREAM, GOAWAY} & {one.kind for one in replies(answer)}
            assert HEADERS not in {one.kind for one in replies(answer)}


async def test_a_header_block_that_does_not_end(target: Target) -> None:
    """Row: slowloris, slow body, slow read (a header block of HTTP/2)."""
    half = attacks.GREETING + frames.frame(HEADERS, 0, 1, frames.block(EVIL[:2]))
    async with target.under_attack("header_timeout"):
        await trio.to_thread.run_sync(lambda: say(target.inbound, half))  # until the proxy closes
