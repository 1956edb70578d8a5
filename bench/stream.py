"""Raw TCP load, both ends of it: `source PORT` serves bytes, `drain PORT CONNECTIONS BYTES` pulls them.

The drain says on each connection how many bytes it wants (8 bytes, big-endian), the source sends that
many and closes. The drain lets the kernel throw the bytes away (MSG_TRUNC), so that it costs little.
"""

import json
import socket
import struct
import sys
import time
from functools import partial

import trio

COUNT = struct.Struct("!Q")
CHUNK_BYTES = 1 << 20  # one send or receive: large enough that system calls do not dominate
DRAIN_SECONDS = 120


async def send_what_is_wanted(connection: trio.SocketStream) -> None:
    """Serve one connection of the source; a drain that goes away ends only this connection."""
    chunk = memoryview(bytes(CHUNK_BYTES))
    asked = b""
    try:
        async with connection:
            while len(asked) < COUNT.size:
                received = await connection.receive_some(COUNT.size - len(asked))
                if not received:
                    return  # a probe that only connected
                asked += received
            (left,) = COUNT.unpack(asked)
            while left:
                size = min(left, CHUNK_BYTES)
                await connection.send_all(chunk[:size])
                left -= size
    except trio.BrokenResourceError:
        return


async def pull(port: int, wanted: int) -> int:
    """Bytes received on one connection until the source closed it; `wanted` unless something broke."""
    buffer = bytearray(CHUNK_BYTES)
    received = 0
    connection = await trio.open_tcp_stream("127.0.0.1", port)
    async with connection:
        await connection.send_all(COUNT.pack(wanted))
        while size := await connection.socket.recv_into(buffer, CHUNK_BYTES, socket.MSG_TRUNC):
            received += size
    return received


async def drain(port: int, connections: int, wanted: int) -> dict[str, float]:
    """Pull `wanted` bytes on each of `connections` at once; returns `bytes` and `seconds`."""
    counts: list[int] = []

    async def one() -> None:
        counts.append(await pull(port, wanted))

    started = time.monotonic()
    with trio.fail_after(DRAIN_SECONDS):
        async with trio.open_nursery() as nursery:
            for _ in range(connections):
                nursery.start_soon(one)
    return {"bytes": sum(counts), "seconds": time.monotonic() - started}


def main(role: str, port: str, *rest: str) -> None:
    if role == "source":
        trio.run(partial(trio.serve_tcp, send_what_is_wanted, int(port), host="127.0.0.1"))
    else:
        connections, wanted = rest
        print(json.dumps(trio.run(drain, int(port), int(connections), int(wanted))))


if __name__ == "__main__":
    main(*sys.argv[1:])
