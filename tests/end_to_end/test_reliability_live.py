"""Policies, faults and endpoints that come and go over the control plane while requests flow: none fails for that."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial

import pytest

from tests.end_to_end.asking import Answer, ask, client, together
from tests.end_to_end.conftest import processes_in
from tests.end_to_end.failing import Order, clear, counts
from tests.end_to_end.failing_web import Web, Webs, web_servers
from tests.end_to_end.live import Live, living
from tests.end_to_end.mesh_load import http1, http2, load_of
from tests.end_to_end.sidecar import Sidecar, traffic_policy, wait_until
from tests.end_to_end.traffic_yaml import changed, http_route, pairs, path, rule

FAULT_SECONDS = 2
SLOW_START_SECONDS = 1.5


@pytest.fixture(scope="module")
def webs() -> Iterator[Webs]:
    """Hypercorn."""
    with web_servers() as webs:
        yield webs


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Live]:
    """A control plane."""
    folder = tmp_path_factory.mktemp("live")
    with ExitStack() as stack:
        yield stack.enter_context(living(stack.enter_context(processes_in(folder)), free_port, folder))


@pytest.fixture(scope="module")
def shop(live: Live, webs: Webs) -> list[Web]:
    """The two servers of one service."""
    shop = [webs.add(name) for name in ("one", "two")]
    for web in shop:
        live.add(web.board.name, "shop", web.port)
    return shop


@pytest.fixture(scope="module")
def grown(live: Live, webs: Webs) -> Web:
    """The only server of a service that is to grow slowly."""
    grown = webs.add("old")
    live.apply(
        traffic_policy("growing", balancing={"kind": "roundRobin", "slowStart": f"{SLOW_START_SECONDS * 1000:.0f}ms"})
    )
    live.add("old", "growing", grown.port)
    return grown


@pytest.fixture(scope="module")
def sidecar(live: Live, shop: list[Web], grown: Web) -> Sidecar:
    """The caller's proxy."""
    sidecar = live.proxy("client", "shop", "growing", "late", "tapped")
    assert [ask(sidecar, name).status for name in ("shop", "growing")] == [200, 200]
    return sidecar


@pytest.fixture(autouse=True)
def fresh(shop: list[Web]) -> None:
    """Both answer well and have seen nothing."""
    clear(*(web.board for web in shop))


def test_faults_come_and_lift(live: Live, sidecar: Sidecar, shop: list[Web]) -> None:
    """`conduit fault add` is in force, is listed, and lifts by itself or by `clear`."""
    for end in ("time", "clear"):
        seconds = FAULT_SECONDS if end == "time" else 600
        done = live.conduit("fault", "add", "shop", "--abort", 503, "--path", "/x", "--for", f"{seconds}s")
        assert done.code == 0, done.err
        wait_until(lambda: ask(sidecar, "shop", "/x/y").reason == "fault", "it is in force")
        assert ask(sidecar, "shop", "/other").status == 200
        assert "shop" in live.conduit("fault", "list").out
        if end == "clear":
            done = live.conduit("fault", "clear", "--all")
            assert done.code == 0, done.err
        wait_until(lambda: ask(sidecar, "shop", "/x/y").status == 200, "it has lifted")
    assert sum(web.board.count("/x/y") for web in shop) == 2


def test_policies_change_under_load(live: Live, sidecar: Sidecar, shop: list[Web]) -> None:
    """Routes, retries, limits and balancing change while requests flow, and none fails."""
    shop[0].board.always(Order(headers=(("x-who", "one"),)))
    with load_of(
        ("http1", partial(http1, sidecar.forward, "shop", "/page"), 2),
        ("http2", partial(http2, sidecar.forward, "shop", "/page"), 2),
    ) as load:
        load.more(20)
        retry = {"attempts": 1, "statuses": [503]}
        live.apply(
            traffic_policy("shop", retry=retry, balancing={"kind": "roundRobin"}, rateLimits=[{"perSecond": 10_000}]),
            http_route(
                "shop",
                "shop",
                rule("shop", matches=[path("/page")]),
                rule(
                    "shop",
                    matches=[path("/new")],
                    filters=[changed("ResponseHeaderModifier", set=pairs(("x-new", "1")))],
                ),
            ),
        )
        wait_until(lambda: ask(sidecar, "shop", "/new").headers.get("x-new") == "1", "the route is in force")
        assert ask(sidecar, "shop", "/nowhere").status == 404
        load.more(20)
        done = live.conduit("delete", "httproute", "shop")
        assert done.code == 0, done.err
        wait_until(lambda: ask(sidecar, "shop", "/nowhere").status == 200, "the route is gone")
        load.more(20)
    assert load.failures == []


def test_tap_shows_the_route_and_the_retries(live: Live, sidecar: Sidecar, webs: Webs) -> None:
    """A request that the server turned away once is one request, with the route that it took and one retry."""
    web = webs.add("tapped")
    live.add("tapped", "tapped", web.port)
    live.apply(
        traffic_policy("tapped", retry={"attempts": 1, "statuses": [503]}),
        http_route("tapped", "tapped", rule("tapped", matches=[path("/t")])),
    )
    wait_until(lambda: ask(sidecar, "tapped", "/nowhere").status == 404, "the route is in force")
    with live.begin("tap", "--to", "tapped", "--path", "/t", "--count", 1, "-o", "json") as tap:
        try:

            def shown() -> bool:
                web.board.next(Order(status=503))
                assert ask(sidecar, "tapped", "/t/1").status == 200
                return tap.poll() is not None

            wait_until(shown, "the tap has seen one")
            assert tap.stdout is not None
            events = [json.loads(line) for line in tap.stdout]
        finally:
            tap.kill()
    (end,) = [event for event in events if event["event"] == "end"]
    assert (end["service"], end["route"], end["retries"], end["status"]) == ("tapped", "tapped/0", 1, 200)


def test_requests_wait_for_the_first_endpoint(live: Live, sidecar: Sidecar, webs: Webs) -> None:
    """Requests for a service without endpoints are held, and answered when one appears; the service is known before."""
    late = webs.add("late")
    live.apply(traffic_policy("late", timeouts={"request": "10s"}))
    live.add("gone", "late", late.port)
    wait_until(lambda: ask(sidecar, "late").status == 200, "it is known")
    live.remove("gone")
    wait_until(lambda: ask(sidecar, "late", headers={"conduit-timeout-ms": "200"}).status != 200, "it has no endpoint")
    clear(late.board)
    answers: list[Answer] = []

    def one() -> Answer:
        if len(answers) == 0:
            answers.append(Answer(0, {}, "", ""))
            live.add("come", "late", late.port)
        return ask(sidecar, "late", "/waited")

    assert {answer.status for answer in together(6, one)} == {200}
    assert late.board.count("/waited") == 6


def test_slow_start(live: Live, sidecar: Sidecar, webs: Webs, grown: Web) -> None:
    """An endpoint that is new gets less than its share at first, and all of it in the end."""
    wait_until(lambda: ask(sidecar, "growing").status == 200, "the first one serves")
    warm = time.monotonic() + SLOW_START_SECONDS
    new = webs.add("new")
    boards = [grown.board, new.board]
    wait_until(lambda: time.monotonic() > warm, "the first one has its whole share")
    with client("http2") as session:
        began = time.monotonic()
        live.add("new", "growing", new.port)
        wait_until(lambda: ask(sidecar, "growing", by=session).text == "new", "the new one is asked")

        def share() -> float:
            clear(*boards)
            for _ in range(40):
                assert ask(sidecar, "growing", by=session).status == 200
            old, young = counts(*boards)
            return young / (old + young)

        first, took = share(), time.monotonic() - began
        wait_until(lambda: share() >= 0.45, "it has its whole share")
    assert first < 0.4 or took > SLOW_START_SECONDS / 2
