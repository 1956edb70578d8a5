"""Rows, watches, taps and the rest over HTTP and websockets, with a proxy that speaks the stream by hand."""

import msgspec
import pytest
import trio
from trio_websocket import ConnectionRejected

from mesh.control.tokens import proxy_token, role_token
from mesh.model.api import EndpointInfo, Stat, VersionInfo
from mesh.model.push import FromControl, Hello, Report, Tapped, TapStart, TapStop, Welcome
from mesh.model.reports import SeriesDelta, SeriesKey, TapEvent

STREAM = "/api/v1/proxies/connect"


def series(direction, service, requests, success=True):
    peer = "words-v1" if direction == "outbound" else ""
    key = SeriesKey(direction, service, peer, "http1", 200, -1, "completed", "", success, "disabled")
    return SeriesDelta(key, requests, 1.0, {7: requests})


async def say(websocket, message):
    await websocket.send_message(msgspec.json.encode(message).decode())


async def hear(websocket, kind):
    with trio.fail_after(30):
        while True:
            message = msgspec.json.decode(await websocket.get_message(), type=FromControl)
            if isinstance(message, kind):
                return message


async def join(websocket, workload="words-v1"):
    await say(websocket, Hello(workload, "demo", f"{workload}/h/1", "0.1"))
    return await hear(websocket, Welcome)


def rows(stat):
    return {row["name"]: row for row in stat["rows"]}


async def test_what_proxies_report_is_what_stat_and_edges_show(plane, until):
    """Requests, success, quantiles and edges, for services and for workloads; the same in the watch."""
    async with plane.websocket(STREAM) as words, plane.websocket(STREAM) as web:
        await join(words)
        await join(web, "web")
        await say(words, Report(0.0, 1.0, (series("inbound", "words", 9), series("inbound", "words", 1, False))))
        await say(web, Report(0.0, 1.0, (series("outbound", "words.demo", 10),)))

        async def counted():
            found = rows(await plane.get("/api/v1/stat?window=60"))
            return found if found["words"]["requests"] == 10 and await plane.get("/api/v1/edges") else None

        row = (await until(counted))["words"]
        assert (row["success_rate"], row["kind"], row["namespace"]) == (0.9, "service", "demo")
        assert row["p50_ms"] == pytest.approx(0.9)
        found = rows(await plane.get("/api/v1/stat?kind=workload&window=0"))
        assert (found["words-v1"]["requests"], found["web"]["requests"]) == (10, 0)
        [edge] = await plane.get("/api/v1/edges?window=0")
        assert (edge["source"], edge["to"], edge["requests"]) == ("web", "words", 10)
        assert (edge["workload"], edge["secured"]) == ("words-v1", False)
        assert await plane.get("/api/v1/edges?window=0&namespace=demo") == [edge]
        assert await plane.get("/api/v1/edges?window=0&namespace=other") == []
        async with plane.websocket("/api/v1/stat/watch?window=60") as watch:
            for _ in range(2):
                with trio.fail_after(30):
                    message = msgspec.json.decode(await watch.get_message(), type=Stat)
                assert {row.name: row.requests for row in message.rows} == {"words": 10, "web": 0}


async def test_a_tap_reaches_the_proxy_and_back(plane):
    """A watcher's filter goes to the proxy, its events come to the watcher; when that leaves, the tap stops."""
    async with plane.websocket(STREAM) as proxy:
        await join(proxy)
        async with plane.websocket("/api/v1/tap/watch?to=words&method=GET&max_rps=4") as watcher:
            start = await hear(proxy, TapStart)
            assert (start.match.to, start.match.method, start.match.max_rps) == ("words", "GET", 4.0)
            events = [
                TapEvent(kind, f"0:{n}", "in", "words-v1", "a", "b", "true", service="words")
                for n in range(3)
                for kind in ("req", "end")
            ]
            await say(proxy, Tapped(start.session, tuple(events), dropped=5))
            heard = []
            with trio.fail_after(30):
                while len(heard) < 3:
                    heard.append(msgspec.json.decode(await watcher.get_message()))
            assert [(m["event"], m.get("id")) for m in heard] == [("req", "0:0"), ("end", "0:0"), ("dropped", None)]
            assert heard[-1]["count"] == 5 + 2
        assert (await hear(proxy, TapStop)).session == start.session


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/v1/tap/watch?max_rps=0", 400),
        ("/api/v1/tap/watch?max_rps=x", 400),
        ("/api/v1/tap/watch?nonsense=1", 400),
        ("/api/v1/tap/watch?path=" + "x" * 2000, 400),
        ("/api/v1/stat/watch?kind=pod", 400),
        ("/api/v1/stat/watch?window=901", 400),
        ("/api/v1/stat", 405),
    ],
)
async def test_a_watch_that_cannot_be_is_refused_with_a_status(plane, path, status):
    """Before the websocket is accepted, so that the client sees why."""
    with pytest.raises(ConnectionRejected) as caught:
        async with plane.websocket(path):
            pass
    assert caught.value.status_code == status


@pytest.mark.parametrize(
    ("query", "shown"),
    [("", "/words?token=*&page=*"), ("&show=query", "/words?token=secret&page=2")],
)
async def test_a_tap_hides_values_unless_an_admin_asks(plane, query, shown):
    """Names stay. What a query holds may be somebody's key."""
    async with plane.websocket(STREAM) as proxy:
        await join(proxy)
        async with plane.websocket(f"/api/v1/tap/watch?to=words{query}") as watcher:
            start = await hear(proxy, TapStart)
            path = "/words?token=secret&page=2"
            event = TapEvent("req", "0:1", "in", "words-v1", "a", "b", "true", service="words", path=path)
            await say(proxy, Tapped(start.session, (event,)))
            with trio.fail_after(30):
                assert msgspec.json.decode(await watcher.get_message())["path"] == shown


@pytest.mark.parametrize(
    ("role", "path", "status"),
    [
        ("view", "/api/v1/tap/watch", 403),
        ("tap", "/api/v1/tap/watch?show=query", 403),
        ("tap", "/api/v1/tap/watch?path=/words?token=s", 400),
        ("admin", "/api/v1/tap/watch?path=/words?token=s", 400),
        ("admin", "/api/v1/tap/watch?show=body", 400),
        ("view", "/api/v1/proxies/connect", 403),
        ("tap", "/api/v1/proxies/connect", 403),
        ("tap", "/api/v1/tap/watch", 101),
        ("admin", "/api/v1/tap/watch?show=query&path=/words?token=s", 101),
        ("view", "/api/v1/stat/watch", 101),
    ],
)
async def test_what_a_role_may_watch(plane, role, path, status):
    """Taps are a right of their own; values in queries an admin's, also by feeling for them with a filter."""
    bearer = f"Bearer {role_token('secret', role, 'ann')}"
    try:
        async with plane.websocket(path, Authorization=bearer):
            found = 101
    except ConnectionRejected as refused:
        found = refused.status_code
    assert found == status


async def test_what_a_role_may_do(plane):
    """Who may look changes nothing, and a proxy's token opens none of it."""
    tokens = [role_token("secret", role, "ann") for role in ("view", "tap", "admin")]
    found = []
    for token in (*tokens, proxy_token("secret", "web", "demo", "web")):
        async with plane.client(Authorization=f"Bearer {token}") as client:
            asked = [
                await client.get("/api/v1/resources"),
                await client.get("/api/v1/identity"),
                await client.delete("/api/v1/resources/Fault/demo/none"),
                await client.put("/api/v1/resources", content="x: ["),
                await client.get("/api/v1/audit"),
            ]
        found.append([answer.status_code for answer in asked])
    view = [200, 200, 403, 403, 403]
    assert found == [view, view, [200, 200, 404, 422, 200], [403] * 5]


async def test_taps_are_bounded(plane, monkeypatch):
    """One too many is 503."""
    monkeypatch.setattr("mesh.control.tap.MAX_SESSIONS", 0)
    with pytest.raises(ConnectionRejected) as caught:
        async with plane.websocket("/api/v1/tap/watch"):
            pass
    assert caught.value.status_code == 503


async def test_version_proxies_and_endpoints(plane, until):
    """What runs, who is connected, and where requests go."""
    version = msgspec.convert(await plane.get("/api/v1/version"), VersionInfo)
    assert version.configuration == 1
    assert await plane.get("/api/v1/proxies") == []
    async with plane.websocket(STREAM) as proxy:
        assert (await join(proxy)).epoch == version.epoch
        [info] = await plane.get("/api/v1/proxies")
        assert (info["proxy"], info["workload"], info["namespace"]) == ("words-v1/h/1", "words-v1", "demo")
    plane.put_endpoint("words-v1-1", "words", "127.0.0.1:1", workload="words-v1")

    async def endpoints():
        return msgspec.convert(await plane.get("/api/v1/endpoints?service=words.demo"), list[EndpointInfo])

    [endpoint] = await until(endpoints)
    assert endpoint == EndpointInfo("demo", "words", "words-v1", "127.0.0.1:1", "", "http1", 1)
    assert await plane.get("/api/v1/endpoints?service=words") == msgspec.to_builtins([endpoint])
    assert await plane.get("/api/v1/endpoints?service=web") == []

    async def gone():
        return await plane.get("/api/v1/proxies") == []

    await until(gone)
