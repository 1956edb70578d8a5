"""HTTP/1.1 under attack: every row of that table."""

import itertools

import pytest
import trio

from tests.hostile import attacks
from tests.hostile.asking import say
from tests.hostile.conftest import Target
from tests.hostile.honest import Honest1

SECONDS = 0.4
LONG = 1.5
HOST = b"host: web\r\n"
INSIDE = b"GET /evil/smuggled HTTP/1.1\r\nhost: web\r\n\r\n"
CHUNKS = b"transfer-encoding: chunked\r\n"


def post(fields: bytes, body: bytes = b"", version: bytes = b"HTTP/1.1") -> bytes:
    return b"POST /evil " + version + b"\r\n" + HOST + fields + b"\r\n" + body


def get(fields: bytes = b"", target: bytes = b"/evil", host: bytes = HOST, version: bytes = b"HTTP/1.1") -> bytes:
    return b"GET " + target + b" " + version + b"\r\n" + host + fields + b"\r\n"


SMUGGLING = {
    "length and coding": post(b"content-length: 4\r\n" + CHUNKS, b"0\r\n\r\n" + INSIDE),
    "coding and length": post(CHUNKS + b"content-length: 4\r\n", b"0\r\n\r\n" + INSIDE),
    "coding twice": post(CHUNKS + CHUNKS, b"0\r\n\r\n" + INSIDE),
    "coding, then identity": post(CHUNKS + b"transfer-encoding: identity\r\n", b"0\r\n\r\n" + INSIDE),
    "space before the colon": post(b"transfer-encoding : chunked\r\n", b"0\r\n\r\n" + INSIDE),
    "tab before the colon": post(b"transfer-encoding\t: chunked\r\n", b"0\r\n\r\n" + INSIDE),
    "xchunked": post(b"transfer-encoding: xchunked\r\n", b"0\r\n\r\n" + INSIDE),
    "chunked in quotes": post(b'transfer-encoding: "chunked"\r\n', b"0\r\n\r\n" + INSIDE),
    "chunked, chunked": post(b"transfer-encoding: chunked, chunked\r\n", b"0\r\n\r\n" + INSIDE),
    "chunked, gzip": post(b"transfer-encoding: chunked, gzip\r\n", b"0\r\n\r\n" + INSIDE),
    "vertical tab": post(b"transfer-encoding: \x0bchunked\r\n", b"0\r\n\r\n" + INSIDE),
    "coding folded": post(b"transfer-encoding:\r\n chunked\r\n", b"0\r\n\r\n" + INSIDE),
    "coding in HTTP/1.0": post(CHUNKS, b"0\r\n\r\n" + INSIDE, b"HTTP/1.0"),
    "coding with an underscore": post(b"transfer_encoding: chunked\r\n", b"0\r\n\r\n" + INSIDE),
    "lengths that differ": post(b"content-length: 4\r\ncontent-length: 5\r\n", b"abcde" + INSIDE),
    "lengths alike": post(b"content-length: 4\r\ncontent-length: 4\r\n", b"abcd" + INSIDE),
    "length list": post(b"content-length: 4, 4\r\n", b"abcd" + INSIDE),
    "length with a sign": post(b"content-length: +4\r\n", b"abcd" + INSIDE),
    "negative length": post(b"content-length: -4\r\n", b"abcd" + INSIDE),
    "length in hex": post(b"content-length: 0x4\r\n", b"abcd" + INSIDE),
    "length too large": post(b"content-length: 99999999999999999999\r\n", INSIDE),
    "empty length": post(b"content-length:\r\n", INSIDE),
    "length with an underscore": post(b"content_length: 4\r\n", b"abcd" + INSIDE),
    "folded field": get(b"x: y\r\n z\r\n"),
    "space at the first field": b"GET /evil HTTP/1.1\r\n x: y\r\n" + HOST + b"\r\n",
    "bare LF": b"GET /evil HTTP/1.1\n" + b"host: web\n\n",
    "bare LF in a field": get(b"x: y\nevil: 1\r\n"),
    "bare CR in a field": get(b"x: y\revil: 1\r\n"),
    "NUL in a field": get(b"x: y\0z\r\n"),
    "NUL in a name": get(b"x\0: y\r\n"),
    "field without a colon": get(b"evil\r\n"),
    "name with a space": get(b"x y: z\r\n"),
    "empty name": get(b": z\r\n"),
}
CHUNKED = {
    "size with a sign": b"+1\r\na\r\n0\r\n\r\n",
    "negative size": b"-1\r\na\r\n0\r\n\r\n",
    "size with 0x": b"0x1\r\na\r\n0\r\n\r\n",
    "size with a space": b" 1\r\na\r\n0\r\n\r\n",
    "size too large": b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "no size": b"\r\na\r\n0\r\n\r\n",
    "bare LF after the size": b"1\na\r\n0\r\n\r\n",
    "bare LF after the data": b"1\r\na\n0\r\n\r\n",
    "bare CR after the size": b"1\ra\r\n0\r\n\r\n",
    "more data than was said": b"1\r\nabc\r\n0\r\n\r\n",
    "bare LF in an extension": b"1;x\nevil\r\na\r\n0\r\n\r\n",
    "host in the trailers": b"0\r\nhost: other\r\n\r\n",
    "length in the trailers": b"0\r\ncontent-length: 5\r\n\r\n",
    "coding in the trailers": b"0\r\ntransfer-encoding: chunked\r\n\r\n",
    "credentials in the trailers": b"0\r\nauthorization: x\r\n\r\n",
}
WRONG = {
    "no host": get(host=b""),
    "two hosts": get(host=HOST + HOST),
    "two hosts that differ": get(host=HOST + b"host: other\r\n"),
    "host with a path": get(host=b"host: web/evil\r\n"),
    "host with userinfo": get(host=b"host: a@web\r\n"),
    "host list": get(host=b"host: web, other\r\n"),
    "absolute form unequal to host": get(target=b"http://other/evil"),
    "absolute form with userinfo": get(target=b"http://a@web/evil"),
    "absolute form of another scheme": get(target=b"ftp://web/evil"),
    "HTTP/2.0": get(version=b"HTTP/2.0"),
    "HTTP/3.0": get(version=b"HTTP/3.0"),
    "HTTP/1.2": get(version=b"HTTP/1.2"),
    "HTTP/01.1": get(version=b"HTTP/01.1"),
    "http/1.1": get(version=b"http/1.1"),
    "HTTP/0.9": b"GET /evil\r\n\r\n",
    "RTSP": b"DESCRIBE /evil RTSP/1.0\r\n" + HOST + b"\r\n",
    "method of RTSP": b"DESCRIBE /evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "method of ICE": b"SOURCE /evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "fragment": get(target=b"/evil#frag"),
    "GET *": get(target=b"*"),
    "space in the target": get(target=b"/evil x"),
    "high byte in the target": get(target=b"/evil\xff"),
    "two spaces": b"GET  /evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "method with a colon": b"GE:T /evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "connect with a path": b"CONNECT /evil HTTP/1.1\r\n" + HOST + b"\r\n",
    "upgrade to h2 with a preface": b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
}


async def refused(target: Target, cases: dict[str, bytes], statuses: tuple[int, ...] = (400,)) -> None:
    """Each is answered with a 4xx, if it can be, and the connection closed; nothing of it reaches the application."""
    async with target.under_attack():
        before = await trio.to_thread.run_sync(lambda: sum(target.refused().values()))
        for name, data in cases.items():
            answer = await trio.to_thread.run_sync(say, target.inbound, data)
            assert answer == b"" or int(answer[9:12]) in statuses, (name, answer)
            assert answer.count(b"conduit-error") <= 1, (name, answer)
            assert b"connection: close" in answer or not answer
        after = await trio.to_thread.run_sync(lambda: sum(target.refused().values()))
        assert after - before >= len(cases)
    heard = target.heard()
    assert [head for head in heard if "smuggled" in head] == []


async def test_smuggling(plain: Target) -> None:
    """Row: request smuggling (lengths, codings, line ends)."""
    await refused(plain, SMUGGLING, (400, 501))
    assert plain.heard() == []


async def test_smuggling_by_chunks(plain: Target) -> None:
    """Row: request smuggling (bad chunks)."""
    await refused(plain, {name: post(CHUNKS, body + INSIDE) for name, body in CHUNKED.items()})


async def test_what_is_forwarded_is_framed_anew(plain: Target) -> None:
    """Row: request smuggling (forwarded messages are always re-framed by us)."""
    async with plain.under_attack(versions=(Honest1,)):
        odd = post(b"Transfer-Encoding: Chunked\r\nConnection: close, x-y\r\nX-Y: 1\r\n", b"2;a=b\r\nhi\r\n0\r\n\r\n")
        answer = await trio.to_thread.run_sync(say, plain.inbound, odd)
        assert answer.startswith(b"HTTP/1.1 200")
    (head,) = plain.heard()
    assert "\r\ntransfer-encoding: chunked" in head
    assert "x-y" not in head.lower()
    assert "close" not in head


async def test_requests_that_are_none(plain: Target) -> None:
    """Row: missing or duplicate Host and the like."""
    await refused(plain, WRONG, (400, 505))
    assert plain.heard() == []


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("giant_header", "header_bytes"),
        ("many_headers", "header_bytes"),
        ("chunk_extensions", "chunk_extension"),
        ("chunk_trailers", "trailer_fields"),
    ],
)
async def test_heads_without_end(plain: Target, name: str, reason: str) -> None:
    """Row: 8 MB header, 100,000 headers, 1 MB chunk extension."""
    async with plain.under_attack(reason):
        await attacks.ATTACKS[name](plain.inbound, SECONDS)
    if name in ("giant_header", "many_headers"):
        assert plain.heard() == []


async def test_a_dribbled_head_costs_what_it_is_long(plain: Target) -> None:
    """Row: 8 MB header, 100,000 headers, 1 MB chunk extension (a head dribbled 8 bytes at a time)."""
    head = b"GET /evil HTTP/1.1\r\nhost: web\r\n" + b"".join(b"x-%d: %s\r\n" % (one, b"y" * 640) for one in range(90))
    async with plain.under_attack(versions=(Honest1,)):
        before = plain.sidecar.cpu()
        stream = await attacks.connect(plain.inbound)
        try:
            for start in range(0, len(head), 8):
                await stream.send_all(head[start : start + 8])
                await trio.sleep(0)
            await stream.send_all(b"\r\n")
            answer = await stream.receive_some(100)
        except trio.BrokenResourceError:
            answer = b""  # it took too long
        finally:
            await attacks.drop(stream)
        used = (plain.sidecar.cpu() - before) / 100
    assert answer == b"" or answer.startswith(b"HTTP/1.1 200")
    assert used < 2.0  # 7,400 reads; to search all of it for each would take three times as long


async def test_dribbled_heads(plain: Target) -> None:
    """Row: slowloris, slow body, slow read (heads that come in pieces)."""
    async with plain.under_attack():
        await attacks.dribbled_heads(plain.inbound, LONG)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("slowloris", "header_timeout"), ("slow_body", "body_timeout"), ("slow_read_http1", "write_timeout")],
)
async def test_slowness(plain: Target, name: str, reason: str) -> None:
    """Row: slowloris, slow body, slow read."""
    await plain.outlasts(attacks.ATTACKS[name], reason)


async def test_a_slow_body_is_told(plain: Target) -> None:
    """Row: slowloris, slow body, slow read (a slow body is answered 408)."""
    data = b"POST /evil/hold HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\n1"
    answer = await trio.to_thread.run_sync(say, plain.inbound, data)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer


async def test_pipelining(plain: Target) -> None:
    """Row: pipelining."""
    async with plain.under_attack(versions=(Honest1,)):
        paths = [b"/evil/%d" % one if one % 3 else b"/nothing" for one in range(50)]
        data = b"".join(b"GET %b HTTP/1.1\r\nhost: web\r\n\r\n" % path for path in paths)
        answer = await trio.to_thread.run_sync(lambda: say(plain.inbound, data + get(b"connection: close\r\n")))
        assert answer.count(b"HTTP/1.1 200") == 51
        heard = [head.split(" ")[1].encode() for head in await trio.to_thread.run_sync(plain.heard)]
        assert heard == [*paths, b"/evil"]
        await attacks.pipelining(plain.inbound, LONG)


ODD = [
    *("head", "head-and-body", "informed", "informed-with-length", "no-content", "no-content-but-some"),
    *("not-modified", "not-modified-but-some", "two-answers"),
]


async def test_doubtful_answers(plain: Target) -> None:
    """Row: HEAD response with Content-Length, 1xx, 204, 304."""
    async with plain.under_attack(versions=(Honest1,)):
        for kind, method in itertools.product(ODD, ("HEAD", "GET")):
            if kind.startswith("head") and method == "GET":
                continue
            first = f"{method} /odd/{kind} HTTP/1.1\r\nhost: web\r\n\r\n".encode()
            after = b"GET /ok HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n"
            answer = await trio.to_thread.run_sync(say, plain.inbound, first + after)
            assert b"bad" not in answer, (kind, answer)
            assert answer.endswith(b"\r\n\r\nok"), (kind, method, answer)  # that of the second request
            assert answer.count(b"HTTP/1.1 200") == (1 if "content" in kind or "modified" in kind else 2), (
                kind,
                answer,
            )
