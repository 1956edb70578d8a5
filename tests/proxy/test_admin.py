"""The admin port: what it answers, to whom, and that nothing there changes anything."""

from __future__ import annotations

import pytest
import trio

from mesh.proxy.admin import CONNECTIONS, IDLE, Admin, tree
from mesh.proxy.report import Reports


def address_of(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()
    return f"{host}:{port}"


@pytest.fixture
async def admin(nursery: trio.Nursery):
    """An admin port that serves, its address, and the reason that it is unready for (a list, the last counts)."""
    why: list[str | None] = [None]
    made = Admin(Reports(10), lambda: why[-1], trio.lowlevel.current_task(), lambda *line: pytest.fail(str(line)))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(made.serve, listeners)
    return made, address_of(listeners[0]), why


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        (b"GET", b"/live", 200, b"live\n"),
        (b"GET", b"/ready", 200, b"ready\n"),
        (b"GET", b"/ready?verbose", 200, b"ready\n"),
        (b"HEAD", b"/ready", 200, b"ready\n"),
        (b"GET", b"/", 404, b"try /metrics, /ready, /live or /tasks\n"),
        (b"GET", b"/metrics/x", 404, b"try /metrics, /ready, /live or /tasks\n"),
        (b"POST", b"/live", 405, b"only GET\n"),
        (b"DELETE", b"/metrics", 405, b"only GET\n"),
        (b"PUT", b"/ready", 405, b"only GET\n"),
    ],
)
async def test_answers(admin, method: bytes, path: bytes, status: int, body: bytes) -> None:
    """GET and HEAD of what there is; nothing else."""
    found = admin[0].answer(method, path)
    assert (found[0], found[2]) == (status, body)


async def test_unready_says_why(admin) -> None:
    """503 with the reason, while it is alive all the same."""
    admin[2].append("draining")
    assert admin[0].answer(b"GET", b"/ready")[::2] == (503, b"not ready: draining\n")
    assert admin[0].answer(b"GET", b"/live")[0] == 200


async def test_metrics_are_prometheus_text(admin) -> None:
    """With the content type that scrapers want."""
    status, content_type, body = admin[0].answer(b"GET", b"/metrics")
    assert status == 200
    assert content_type.startswith("text/plain; version=0.0.4")
    assert b"# TYPE request_total counter" in body


async def test_tasks_shows_the_live_tree(nursery: trio.Nursery) -> None:
    """Each task a line, its children below it, indented and sorted by name."""
    async with trio.open_nursery() as inner:

        async def parent() -> None:
            async with trio.open_nursery() as nested:
                nested.start_soon(trio.sleep_forever, name="child b")
                nested.start_soon(trio.sleep_forever, name="child a")
                nested.start_soon(trio.sleep_forever, name="mesh.proxy.reactor.Reactor.run")

        inner.start_soon(parent, name="parent")
        await trio.testing.wait_all_tasks_blocked()
        lines = list(tree(trio.lowlevel.current_task()))
        at = lines.index(next(line for line in lines if line.strip() == "parent"))
        indent = len(lines[at]) - len("parent")
        assert lines[at + 1 : at + 4] == [" " * (indent + 2) + name for name in ("child a", "child b", "run")]
        inner.cancel_scope.cancel()


async def test_over_the_wire(admin, dialled, received) -> None:
    """Keep-alive and pipelined requests are answered in order; HEAD has no body; `Connection: close` ends it."""
    async with await dialled(admin[1]) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\nHEAD /live HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.send_all(b"GET /ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await received(client)
    assert answer.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert answer.count(b"live\n") == 1
    assert answer.endswith(b"ready\n")


async def test_a_post_with_a_body_is_refused_and_the_port_lives(admin, dialled, received) -> None:
    """Whatever it carries is not looked at."""
    async with await dialled(admin[1]) as client:
        await client.send_all(b"POST /live HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
        assert (await received(client, b"only GET\n")).startswith(b"HTTP/1.1 405 ")
    async with await dialled(admin[1]) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await received(client, b"live\n")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("data", [b"\x00\x01garbage\r\n\r\n", b"GET /live\r\n\r\n", b"GET /live HTTP/1.1\r\n\r\n"])
async def test_nonsense_is_400_and_the_port_lives(admin, dialled, received, data: bytes) -> None:
    """The connection ends, the port does not."""
    async with await dialled(admin[1]) as client:
        await client.send_all(data)
        assert (await received(client)).startswith(b"HTTP/1.1 400 ")
    async with await dialled(admin[1]) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await received(client, b"live\n")).startswith(b"HTTP/1.1 200 ")


async def test_many_silent_clients_do_not_keep_it_from_serving(autojump_clock, admin, dialled, received) -> None:
    """More than it serves at a time, all silent: after IDLE the next is served."""
    silent = [await dialled(admin[1]) for _ in range(CONNECTIONS + 4)]
    async with await dialled(admin[1]) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        with trio.fail_after(3 * IDLE):
            assert (await client.receive_some()).startswith(b"HTTP/1.1 200 ")
    for stream in silent:
        await stream.aclose()


async def test_a_client_that_resets_is_no_failure(admin, dialled, received) -> None:
    """It has gone: the port serves the next."""
    stream = await dialled(admin[1])
    stream.setsockopt(1, 13, b"\x01\x00\x00\x00\x00\x00\x00\x00")
    await stream.send_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    await stream.aclose()
    async with await dialled(admin[1]) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await received(client, b"live\n")).startswith(b"HTTP/1.1 200 ")


async def test_a_bug_of_ours_ends_that_connection_only(nursery: trio.Nursery, dialled, received) -> None:
    """It is logged and counted, and the port serves the next."""
    reports, logged = Reports(10), []
    broken = Admin(reports, lambda: 1 / 0, trio.lowlevel.current_task(), lambda *line: logged.append(line))
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    nursery.start_soon(broken.serve, listeners)
    address = address_of(listeners[0])
    async with await dialled(address) as client:
        await client.send_all(b"GET /ready HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await received(client) == b""
    async with await dialled(address) as client:
        await client.send_all(b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await received(client, b"live\n")).startswith(b"HTTP/1.1 200 ")
    assert reports.refusals == {("internal", "admin"): 1}
    assert len(logged) == 1
    assert "ZeroDivisionError" in logged[0][2]
