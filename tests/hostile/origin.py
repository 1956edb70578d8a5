"""The application behind the proxy, as a process of its own: `python origin.py PORT`. It says what it was asked.

/ok is answered at once; a path that ends in /hold, never; /big with BIG_BYTES; /seen with the heads of all requests
but those for /ok, as a JSON list, and then forgets them; /odd/KIND as ODD has it; /count with how many asked for /ok.
"""

import json
import sys

import trio

BIG_BYTES = 16 << 20
BLOCK = bytes(64 * 1024)
MOST = 10_000
OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
ODD = {
    b"head": b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n",
    b"head-and-body": b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
    b"informed": b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n" + OK,
    b"informed-with-length": b"HTTP/1.1 103 Early Hints\r\ncontent-length: 5\r\n\r\n" + OK,
    b"no-content": b"HTTP/1.1 204 No Content\r\n\r\n",
    b"no-content-but-some": b"HTTP/1.1 204 No Content\r\ncontent-length: 41\r\n\r\n" + OK,
    b"not-modified": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 700\r\n\r\n",
    b"not-modified-but-some": b"HTTP/1.1 304 Not Modified\r\ncontent-length: 41\r\n\r\n" + OK,
    b"two-answers": OK + b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nbad",
    b"spoofing": b"HTTP/1.1 503 No\r\nconduit-error: connect_failed\r\nl5d-error: x\r\ncontent-length: 2\r\n\r\nno",
}


class Origin:
    """What all its connections share."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.asked = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """One connection, to its end."""
        try:
            async with stream:
                rest = bytearray()
                while True:
                    while (end := rest.find(b"\r\n\r\n")) < 0:
                        data = await stream.receive_some(65536)
                        if not data:
                            return
                        rest += data
                    head = bytes(rest[:end])
                    del rest[: end + 4]
                    await self.answer(stream, head, rest)
        except trio.BrokenResourceError:
            return  # the proxy has gone

    async def answer(self, stream: trio.SocketStream, head: bytes, rest: bytearray) -> None:
        """One request; a body of known length is taken off `rest`, and off the stream."""
        path = head.split(b" ")[1]
        if path == b"/ok":
            self.asked += 1
            await stream.send_all(OK)
            return
        if path in (b"/seen", b"/count"):
            answer = json.dumps(self.seen if path == b"/seen" else self.asked).encode()
            if path == b"/seen":
                self.seen = []
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
            return
        if len(self.seen) < MOST:
            self.seen.append(head.decode("latin-1"))
        if path.endswith(b"/hold"):
            while await stream.receive_some(65536):
                pass
            raise trio.BrokenResourceError
        _, found, length = head.lower().partition(b"\r\ncontent-length: ")
        if b"\r\ntransfer-encoding: chunked" in head.lower():
            while not rest.endswith(b"0\r\n\r\n"):
                data = await stream.receive_some(65536)
                if not data:
                    raise trio.BrokenResourceError
                rest += data
                del rest[:-65536]
            rest.clear()
        elif found:
            left = int(length.split(b"\r\n")[0]) - len(rest)
            rest.clear()
            while left > 0:
                data = await stream.receive_some(min(left, 65536))
                if not data:
                    raise trio.BrokenResourceError
                left -= len(data)
        if path == b"/big":
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % BIG_BYTES)
            for _ in range(BIG_BYTES // len(BLOCK)):
                await stream.send_all(BLOCK)
        elif path.startswith(b"/odd/"):
            await stream.send_all(ODD[path[5:]])
        else:
            await stream.send_all(OK)


async def main(port: int) -> None:
    """Serve until killed."""
    await trio.serve_tcp(Origin().serve, port, host="127.0.0.1")


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]))
