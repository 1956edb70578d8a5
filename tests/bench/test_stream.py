"""The raw TCP load: exactly the wanted bytes, and a source that survives its clients."""

from functools import partial

import trio

from bench.stream import drain, pull, send_what_is_wanted


async def start_source(nursery: trio.Nursery) -> int:
    """The port of a source that lives as long as the test."""
    serve = partial(trio.serve_tcp, send_what_is_wanted, 0, host="127.0.0.1")
    (listener,) = await nursery.start(serve)
    return listener.socket.getsockname()[1]


async def test_drain_gets_what_it_asked_for(nursery: trio.Nursery) -> None:
    """Each connection receives exactly the bytes it wanted, also when that is no multiple of a chunk."""
    port = await start_source(nursery)
    with trio.fail_after(30):
        answer = await drain(port, 3, (1 << 20) + 17)
    assert answer["bytes"] == 3 * ((1 << 20) + 17)
    assert answer["seconds"] > 0


async def test_source_survives_a_probe_and_a_quitter(nursery: trio.Nursery) -> None:
    """A connection that only probes, and one that leaves half-way, do not stop the source."""
    port = await start_source(nursery)
    with trio.fail_after(30):
        await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
        quitter = await trio.open_tcp_stream("127.0.0.1", port)
        await quitter.send_all((1 << 30).to_bytes(8, "big"))
        assert await quitter.receive_some(100)
        await quitter.aclose()
        assert await pull(port, 5) == 5
