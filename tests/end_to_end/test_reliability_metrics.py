"""What policies do is counted, once each, where operators look: in the metrics of the caller's proxy."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.asking import ask, client
from tests.end_to_end.failing import Board, Order
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, traffic_policy, wait_until
from tests.end_to_end.traffic_yaml import changed, http_route, path, rule

RETRY = {"attempts": 2, "statuses": [503], "backoff": "1ms"}
NO_BREAKER = {"failures": 0}
POLICIES = {
    "retried": {"retry": RETRY},
    "broke": {"retry": RETRY, "budget": {"percent": 0, "perSecond": 0}},
    "hedged": {"retry": {"attempts": 1, "hedge": {"quantile": 0.5, "minimum": "30ms"}}, "budget": {"perSecond": 100}},
    "ejecting": {"breaker": {"failures": 2, "probation": "60s"}, "balancing": {"kind": "roundRobin"}},
    "faulty": {"faults": [{"abort": {"status": 503}}]},
    "limited": {"rateLimits": [{"perSecond": 0.1, "burst": 2}]},
}


@pytest.fixture(scope="module")
def webs() -> Iterator[dict[str, Web]]:
    """One that everybody asks, and another one."""
    with web_servers() as webs:
        yield {name: webs.add(name) for name in ("web", "other")}


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: dict[str, Web]) -> Sidecar:
    """A service for each policy, and one with a route."""
    services = {name: service(webs["web"].port) for name in (*POLICIES, "web", "routed")}
    services["ejecting"] = service(*(web.port for web in webs.values()))
    services["mirror"] = service(webs["other"].port)
    policies = [traffic_policy(name, **{"breaker": NO_BREAKER, **told}) for name, told in POLICIES.items()]
    mirror = changed("RequestMirror", backendRef={"name": "mirror"})
    route = http_route("a-route", "routed", rule("web", matches=[path("/on")], filters=[mirror]))
    return shared_proxy(services, resources=[*policies, route])


@pytest.fixture
def board(webs: dict[str, Web]) -> Board:
    """Of the one that everybody asks, fresh."""
    webs["web"].board.clear()
    return webs["web"].board


def until_counted(sidecar: Sidecar, metric: str, count: int, **labels: str) -> None:
    """Returns when the metric has that value."""
    wait_until(lambda: sidecar.total(metric, **labels) == count, f"{metric} {labels} is {count}")


def test_retries(sidecar: Sidecar, board: Board) -> None:
    """Each further try is counted, with why; the request is counted once."""
    board.next(Order(status=503), 2)
    assert ask(sidecar, "retried").status == 200
    until_counted(sidecar, "conduit_retries_total", 2, service="retried")
    until_counted(sidecar, "request_total", 1, authority="retried", status_code="200")
    assert sidecar.total("request_total", authority="retried") == 1


def test_budget(sidecar: Sidecar, board: Board) -> None:
    """A retry that the budget refuses is counted as that."""
    board.next(Order(status=503))
    assert ask(sidecar, "broke").status == 503
    until_counted(sidecar, "conduit_retries_refused_total", 1, service="broke", reason="budget")
    assert sidecar.total("conduit_retries_total", service="broke") == 0


def test_hedges(sidecar: Sidecar, board: Board) -> None:
    """Hedges are counted, and those that won; servers saw as many more requests."""
    with client("http2") as session:
        for _ in range(40):
            ask(sidecar, "hedged", by=session)
        before = sidecar.total("conduit_hedges_total", service="hedged", result="won")
        board.next(Order(delay=0.5))
        ask(sidecar, "hedged", by=session)
    until_counted(sidecar, "conduit_hedges_total", int(before) + 1, service="hedged", result="won")
    assert board.count() == 41 + sidecar.total("conduit_hedges_total", service="hedged", result="started")


def test_ejections(sidecar: Sidecar, board: Board, webs: dict[str, Web]) -> None:
    """An ejection is counted, and the endpoint's state is shown."""
    board.always(Order(status=500))
    for _ in range(8):
        ask(sidecar, "ejecting")
    until_counted(sidecar, "conduit_ejections_total", 1, service="ejecting")
    bad, good = (f"127.0.0.1:{web.port}" for web in webs.values())
    until_counted(sidecar, "conduit_endpoint_state", 1, service="ejecting", endpoint=bad, state="ejected")
    until_counted(sidecar, "conduit_endpoint_state", 1, service="ejecting", endpoint=good, state="in_use")


def test_faults(sidecar: Sidecar, board: Board) -> None:
    """An injected fault is counted, and its answer is told apart from a server's."""
    assert ask(sidecar, "faulty").status == 503
    until_counted(sidecar, "conduit_faults_total", 1, service="faulty")
    until_counted(sidecar, "request_total", 1, authority="faulty", status_code="503", error="fault")
    assert board.count() == 0


def test_limits(sidecar: Sidecar, board: Board) -> None:
    """So is a refusal."""
    statuses = [ask(sidecar, "limited").status for _ in range(4)]
    assert statuses.count(429) == 4 - board.count() > 0
    until_counted(sidecar, "conduit_limited_total", statuses.count(429), service="limited")
    until_counted(
        sidecar, "request_total", statuses.count(429), authority="limited", status_code="429", error="rate_limited"
    )


def test_routes_and_mirrors(sidecar: Sidecar, board: Board, webs: dict[str, Web]) -> None:
    """A request is counted under the service that was asked, with its route; what no route takes, as that."""
    assert ask(sidecar, "routed", "/on").status == 200
    assert ask(sidecar, "routed", "/off").status == 404
    until_counted(sidecar, "request_total", 1, route="a-route/0", status_code="200")
    until_counted(sidecar, "request_total", 1, authority="routed", status_code="404", error="no_route")
    wait_until(lambda: sidecar.total("conduit_mirrored_total") == webs["other"].board.count("/on") == 1, "one copy")
