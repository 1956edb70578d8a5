"""Which route takes a request: HTTPRoute and GRPCRoute with a Service as parent, in Gateway API's order of precedence.

Backends answer with their names, and the parent has an endpoint of its own that no request may reach.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.end_to_end.asking import BOTH, Answer, ask, call
from tests.end_to_end.failing import clear, counts
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service
from tests.end_to_end.traffic_yaml import grpc_route, http_route, pairs, path, rule

NAMES = ("parent", "a", "b", "c", "d")
RULES = [
    rule("b", matches=[path("/exact")]),
    rule("a", matches=[path("/exact", "Exact")]),
    rule("c", matches=[path("/exact/deeper")]),
    rule("d", matches=[path("/re/[0-9]+", "RegularExpression")]),
    rule("b", matches=[path("/m")]),
    rule("a", matches=[path("/m", method="POST")]),
    rule("b", matches=[path("/h")]),
    rule("a", matches=[path("/h", headers=pairs(("X-A", "1")))]),
    rule("c", matches=[path("/h", headers=pairs(("x-a", "1"), ("x-b", "2")))]),
    rule("d", matches=[path("/h", headers=pairs(("x-v", "v[12]"), kind="RegularExpression"))]),
    rule("b", matches=[path("/q")]),
    rule("a", matches=[path("/q", queryParams=pairs(("k", "v")))]),
    rule("c", matches=[path("/q", queryParams=pairs(("k", "v"), ("l", "w")))]),
    rule("a", matches=[path("/either"), path("/or", method="PUT")]),
    rule("a", matches=[path("/order", headers=pairs(("x-a", "1")))]),
    rule("b", matches=[path("/order", headers=pairs(("x-b", "1")))]),
    rule("c", matches=[path("/order", method="DELETE")]),
    rule("d", matches=[path("/order/x")]),
]
CASES = [
    ("GET", "/exact", {}, "a"),
    ("GET", "/exact?x=1", {}, "a"),
    ("GET", "/exact/", {}, "b"),
    ("GET", "/exact/more", {}, "b"),
    ("GET", "/exact/deeper/x", {}, "c"),
    ("GET", "/exactly", {}, ""),
    ("GET", "/re/123", {}, "d"),
    ("GET", "/re/123x", {}, ""),
    ("POST", "/m/x", {}, "a"),
    ("GET", "/m/x", {}, "b"),
    ("GET", "/h", {}, "b"),
    ("GET", "/h", {"x-a": "1"}, "a"),
    ("GET", "/h", {"X-A": "1", "X-B": "2"}, "c"),
    ("GET", "/h", {"x-a": "2"}, "b"),
    ("GET", "/h", {"x-v": "v2"}, "d"),
    ("GET", "/h", {"x-v": "v3"}, "b"),
    ("GET", "/q?k=v", {}, "a"),
    ("GET", "/q?l=w&k=v", {}, "c"),
    ("GET", "/q?k=w", {}, "b"),
    ("GET", "/either/x", {}, "a"),
    ("PUT", "/or", {}, "a"),
    ("GET", "/or", {}, ""),
    ("GET", "/order", {"x-a": "1", "x-b": "1"}, "a"),
    ("DELETE", "/order", {"x-a": "1"}, "c"),
    ("DELETE", "/order/x", {"x-a": "1"}, "d"),
    ("GET", "/nowhere", {}, ""),
]
CALLS = [
    ("/test.Calls/One", {}, "g1"),
    ("/test.Calls/Two", {}, "g2"),
    ("/test.Calls/One", {"x-a": "1"}, "g2"),
    ("/test.Others/One", {}, ""),
]


@pytest.fixture(scope="module")
def webs() -> Iterator[dict[str, Web]]:
    """Five of them."""
    with web_servers() as webs:
        yield {name: webs.add(name) for name in NAMES}


@pytest.fixture(scope="module")
def calls() -> Iterator[dict[str, Calls]]:
    """Two, and the parent's own."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(grpc_serving(name)) for name in ("gparent", "g1", "g2")}


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: dict[str, Web], calls: dict[str, Calls]) -> Sidecar:
    """All routes."""
    services = {name: service(server.port) for name, server in [*webs.items(), *calls.items()]}
    routes = [
        http_route("all", "parent", *RULES),
        grpc_route(
            "calls",
            "gparent",
            rule("g1", matches=[{"method": {"service": "test.Calls", "method": "One"}}]),
            rule("g2", matches=[{"method": {"service": "test.Calls"}}]),
            rule(
                "g2",
                matches=[{"method": {"service": "test.Calls", "method": "One"}, "headers": pairs(("x-a", "1"))}],
            ),
        ),
    ]
    return shared_proxy(services, resources=routes)


@pytest.mark.parametrize("version", BOTH)
def test_requests_find_their_route(sidecar: Sidecar, webs: dict[str, Web], version: str) -> None:
    """Each request reaches exactly the backend that it should, or is answered 404 by the proxy."""
    boards = [webs[name].board for name in NAMES]
    wrong = []
    for method, target, headers, wanted in CASES:
        clear(*boards)
        answer = ask(sidecar, "parent", target, version=version, method=method, headers=headers)
        expected = [int(name == wanted) for name in NAMES]
        good = answer.text == wanted if wanted else (answer.status, answer.reason) == (404, "no_route")
        if not good or counts(*boards) != expected:
            wrong.append((method, target, headers, wanted, answer, counts(*boards)))
    assert wrong == []


def test_calls_find_their_route(sidecar: Sidecar, calls: dict[str, Calls]) -> None:
    """A GRPCRoute goes by service, method and metadata; what none matches is UNIMPLEMENTED."""
    boards = [server.board for server in calls.values()]
    for method, metadata, wanted in CALLS:
        clear(*boards)
        got = call(sidecar.ports["gparent"], method, metadata=list(metadata.items()))
        if wanted:
            assert (got.code, got.message) == ("OK", wanted.encode())
        else:
            assert (got.code, got.reason) == ("UNIMPLEMENTED", "no_route")
        assert counts(*boards) == [int(name == wanted) for name in calls]


def test_what_no_route_takes_is_told(sidecar: Sidecar) -> None:
    """The 404 is one line that names the service."""
    answer: Answer = ask(sidecar, "parent", "/nowhere")
    assert answer.status == 404
    assert "parent" in answer.text
    assert answer.text.count("\n") == 1


def test_services_without_routes_are_as_ever(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """A backend that is asked by its own name takes everything."""
    webs["a"].board.clear()
    assert ask(sidecar, "a", "/nowhere").text == "a"
    assert webs["a"].board.count("/nowhere") == 1
