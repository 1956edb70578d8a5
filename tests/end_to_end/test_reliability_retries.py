"""What is tried again, how often, how soon and where: every test counts the tries that the server saw."""

from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from tests.end_to_end.asking import BOTH, ask, call, client
from tests.end_to_end.failing import Board, Order, clear, digest
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_raw import Raw, raw_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy
from tests.end_to_end.traffic_yaml import http_route, path, rule

REPLAYED = 64 * 1024
AMPLE = {"percent": 100, "perSecond": 1000}
NO_BREAKER = {"failures": 0}
RETRY = {"attempts": 2, "statuses": [500, 503], "backoff": "1ms"}
RETRIES = {
    "some": RETRY,
    "any": {**RETRY, "methods": ["*"]},
    "posts": {**RETRY, "methods": ["POST"]},
    "calls": {"attempts": 2, "grpc": ["UNAVAILABLE", 8], "backoff": "1ms"},
    "raw": {**RETRY, "reset": True},
    "stoic": {**RETRY, "reset": False},
    "pair": {**RETRY, "attempts": 1},
    "slowly": {**RETRY, "backoff": "200ms"},
}


@pytest.fixture(scope="module")
def servers() -> Iterator[dict[str, Web | Raw | Calls]]:
    """Hypercorn twice, the raw one, grpcio."""
    with ExitStack() as stack:
        webs = stack.enter_context(web_servers())
        yield {
            "web": webs.add("web"),
            "other": webs.add("other"),
            "raw": stack.enter_context(raw_serving("raw")),
            "calls": stack.enter_context(grpc_serving("calls")),
        }


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, servers: dict[str, Web | Raw | Calls], refused: int) -> Sidecar:
    """A service for each policy."""
    web = servers["web"].port
    services = {name: service(web) for name in RETRIES} | {
        "plain": service(web),
        "routed": service(web),
        "calls": service(servers["calls"].port),
        "raw": service(servers["raw"].port),
        "stoic": service(servers["raw"].port),
        "refusing": service(servers["raw"].port, protocol="http2"),
        "pair": service(web, servers["other"].port),
        "refused": service(refused, web),
    }
    policies = [
        traffic_policy(
            name,
            retry=retry,
            budget=AMPLE,
            breaker=NO_BREAKER,
            balancing={"kind": "roundRobin"},
            timeouts={"request": "5s"},
        )
        for name, retry in RETRIES.items()
    ]
    routes = [
        http_route(
            "routed",
            "routed",
            rule("plain", matches=[path("/thrice")], retry={"codes": [500], "attempts": 3, "backoff": "1ms"}),
            rule("plain", matches=[path("/once")]),
        )
    ]
    plain = traffic_policy("plain", breaker=NO_BREAKER, budget=AMPLE)
    return shared_proxy(services, resources=[*policies, plain, *routes])


@pytest.fixture(scope="module")
def refused(free_port) -> int:
    """A port where nobody listens."""
    return free_port()


@pytest.fixture
def web(servers: dict[str, Web | Raw | Calls]) -> Board:
    """Hypercorn's, fresh."""
    servers["web"].board.clear()
    return servers["web"].board


@pytest.fixture
def other(servers: dict[str, Web | Raw | Calls]) -> Board:
    """Of the second one."""
    servers["other"].board.clear()
    return servers["other"].board


@pytest.fixture
def raw(servers: dict[str, Web | Raw | Calls]) -> Board:
    """Of the raw one."""
    servers["raw"].board.clear()
    return servers["raw"].board


@pytest.fixture
def calls(servers: dict[str, Web | Raw | Calls]) -> Board:
    """grpcio's."""
    servers["calls"].board.clear()
    return servers["calls"].board


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(
    ("failures", "status", "tries"),
    [([503], 200, 2), ([500, 503], 200, 3), ([503] * 5, 503, 3), ([404], 404, 1), ([502], 502, 1)],
)
def test_statuses(sidecar: Sidecar, web: Board, version: str, failures: list[int], status: int, tries: int) -> None:
    """Those that are listed are tried again, as often as allowed; the last answer is passed on."""
    for failure in failures:
        web.next(Order(status=failure, body=b"broken"))
    answer = ask(sidecar, "some", version=version)
    assert (answer.status, answer.reason) == (status, "")
    assert answer.text == ("web" if status == 200 else "broken")
    assert web.count() == tries


@pytest.mark.parametrize(
    ("name", "method", "tries"),
    [
        *(("some", "POST", 1), ("some", "PATCH", 1), ("some", "PUT", 2), ("some", "DELETE", 2), ("some", "HEAD", 2)),
        *(("any", "POST", 2), ("any", "PATCH", 2), ("posts", "POST", 2), ("posts", "GET", 1)),
    ],
)
def test_methods(sidecar: Sidecar, web: Board, name: str, method: str, tries: int) -> None:
    """Only methods that are safe to repeat, unless the policy says otherwise."""
    web.next(Order(status=503))
    answer = ask(sidecar, name, method=method)
    assert answer.status == (200 if tries > 1 else 503)
    assert web.count() == web.count(method=method) == tries


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(("size", "tries"), [(0, 2), (1000, 2), (REPLAYED, 2), (REPLAYED + 1, 1)])
def test_bodies(sidecar: Sidecar, web: Board, version: str, size: int, tries: int) -> None:
    """A body of up to 64 KiB is sent again, byte for byte; of a longer one the answer is passed on."""
    web.next(Order(status=503))
    body = bytes(number % 251 for number in range(size))
    answer = ask(sidecar, "any", version=version, method="POST", body=body)
    assert answer.status == (200 if tries > 1 else 503)
    assert [(one.size, one.digest) for one in web.seen()] == [(size, digest(body))] * tries


@pytest.mark.parametrize("early", [False, True])
@pytest.mark.parametrize(
    ("codes", "code", "tries"),
    [
        (["UNAVAILABLE"], "OK", 2),
        (["RESOURCE_EXHAUSTED", "UNAVAILABLE"], "OK", 3),
        (["UNAVAILABLE"] * 5, "UNAVAILABLE", 3),
        (["NOT_FOUND"], "NOT_FOUND", 1),
    ],
)
def test_grpc_codes(sidecar: Sidecar, calls: Board, early: bool, codes: list[str], code: str, tries: int) -> None:
    """Codes that are listed, in a trailers-only answer or in trailers that follow a head at once."""
    for one in codes:
        calls.next(Order(grpc=one, early=early))
    got = call(sidecar.ports["calls"])
    assert (got.code, got.reason) == (code, "")
    assert calls.count() == tries


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_connect_failures(sidecar: Sidecar, web: Board, version: str, method: str) -> None:
    """A connect that fails is tried elsewhere without any policy, whatever the method."""
    for _ in range(6):
        assert ask(sidecar, "refused", version=version, method=method).status == 200
    assert web.count() == 6


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize("cut", ["reset", "close"])
@pytest.mark.parametrize(("method", "tries"), [("GET", 2), ("POST", 1)])
def test_resets_before_the_answer(
    sidecar: Sidecar, raw: Board, version: str, cut: str, method: str, tries: int
) -> None:
    """An endpoint that resets or closes instead of answering is asked again where the method allows it."""
    raw.next(Order(cut=cut))
    answer = ask(sidecar, "raw", version=version, method=method)
    if tries > 1:
        assert (answer.status, answer.text) == (200, "raw")
    else:
        assert (answer.status, answer.reason) == (502, "upstream_reset")
    assert raw.count() == tries


@pytest.mark.parametrize(("version", "cut"), [("http1", "reset"), ("http1", "close"), ("http2", "reset")])
def test_resets_that_the_policy_does_not_name(sidecar: Sidecar, raw: Board, version: str, cut: str) -> None:
    """Without `reset` they are not, on a connection that is new, and for one stream of many on any connection."""
    raw.next(Order(headers=(("connection", "close"),) if version == "http1" else ()))
    assert ask(sidecar, "stoic", version=version).status == 200
    raw.next(Order(cut=cut))
    answer = ask(sidecar, "stoic", version=version)
    assert (answer.status, answer.reason) == (502, "upstream_reset")
    assert raw.count() == 2


@pytest.mark.parametrize("version", BOTH)
def test_streams_that_are_refused(sidecar: Sidecar, raw: Board, version: str) -> None:
    """REFUSED_STREAM says that the application has not seen the request: it is sent again whatever its method."""
    raw.next(Order(cut="refuse"), 2)
    assert ask(sidecar, "refusing", version=version, method="POST", body=b"words").text == "raw"
    assert raw.count() == 3


def test_nothing_after_the_answer_began(sidecar: Sidecar, raw: Board) -> None:
    """A body that breaks off is not asked for again: the client has seen some of it."""
    raw.next(Order(cut="body"))
    with client() as session, pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        ask(sidecar, "raw", by=session)
    assert raw.count() == 1


@pytest.mark.parametrize("version", BOTH)
def test_another_endpoint_is_preferred(sidecar: Sidecar, web: Board, other: Board, version: str) -> None:
    """With one retry and one of two endpoints always failing, no request fails."""
    web.always(Order(status=503))
    with client(version) as session:
        answers = [ask(sidecar, "pair", by=session) for _ in range(20)]
    assert {answer.text for answer in answers} == {"other"}
    assert other.count() == 20
    assert web.count() >= 5


def test_backoff(sidecar: Sidecar, web: Board) -> None:
    """It doubles, and is jittered down to half at most."""
    web.next(Order(status=503), 2)
    assert ask(sidecar, "slowly").status == 200
    first, second, third = (one.at for one in web.seen())
    assert second - first >= 0.09
    assert third - second >= 0.19


def test_retry_after(sidecar: Sidecar, web: Board) -> None:
    """A wait that the server asks for is kept; one beyond the request's deadline is not waited for."""
    web.next(Order(status=503, headers=(("retry-after", "1"),)))
    assert ask(sidecar, "some").status == 200
    first, second = (one.at for one in web.seen())
    assert second - first >= 0.95
    clear(web)
    web.next(Order(status=503, headers=(("retry-after", "60"),)))
    assert ask(sidecar, "some").status == 503
    assert web.count() == 1


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(("target", "tries", "status"), [("/thrice", 4, 200), ("/once", 1, 500)])
def test_retries_of_routes(sidecar: Sidecar, web: Board, version: str, target: str, tries: int, status: int) -> None:
    """HTTPRoute's `retry`: codes, attempts, backoff; a rule without it has the service's."""
    web.next(Order(status=500), 3)
    assert ask(sidecar, "routed", target, version=version).status == status
    assert web.count() == tries
