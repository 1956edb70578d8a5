"""What routes do to the requests that they take: filters, weights, mirrors, backends that lead nowhere."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.asking import BOTH, ask, call, client
from tests.end_to_end.failing import Order, clear, counts, digest
from tests.end_to_end.failing_grpc import Calls, grpc_serving
from tests.end_to_end.failing_web import Web, web_servers
from tests.end_to_end.sidecar import Sidecar, Starter, service, wait_until
from tests.end_to_end.traffic_yaml import changed, grpc_route, http_route, pairs, path, rule

MANY = 300
TO_FULL = {"type": "ReplaceFullPath", "replaceFullPath": "/new"}
TO_PREFIX = {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}
EDITS = {"set": pairs(("X-Set", "new")), "add": pairs(("x-add", "more")), "remove": ["X-Gone"]}
RULES = [
    rule("a", matches=[path("/request")], filters=[changed("RequestHeaderModifier", **EDITS)]),
    rule("a", matches=[path("/response")], filters=[changed("ResponseHeaderModifier", **EDITS)]),
    rule(
        matches=[path("/moved")],
        filters=[changed("RequestRedirect", scheme="https", hostname="other.test", path=TO_PREFIX, statusCode=301)],
    ),
    rule(
        matches=[path("/elsewhere")],
        filters=[changed("RequestRedirect", port=8443, hostname="other.test", path=TO_FULL)],
    ),
    rule("a", matches=[path("/prefix")], filters=[changed("URLRewrite", hostname="new.test", path=TO_PREFIX)]),
    rule("a", matches=[path("/full")], filters=[changed("URLRewrite", path=TO_FULL)]),
    rule("a", matches=[path("/mirror")], filters=[changed("RequestMirror", backendRef={"name": "b"})]),
    rule("a", matches=[path("/half")], filters=[changed("RequestMirror", backendRef={"name": "b"}, percent=50)]),
    rule(
        *({"name": "a", "weight": 3}, {"name": "b", "weight": 1}, {"name": "c", "weight": 0}),
        matches=[path("/weights")],
    ),
    rule({"name": "a", "weight": 1}, {"name": "nothing", "weight": 1}, matches=[path("/astray")]),
    rule({"name": "c", "weight": 0}, matches=[path("/none")]),
]


@pytest.fixture(scope="module")
def webs() -> Iterator[dict[str, Web]]:
    """The parent's and three backends."""
    with web_servers() as webs:
        yield {name: webs.add(name) for name in ("parent", "a", "b", "c")}


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    """The backend of gRPC calls."""
    with grpc_serving("g") as calls:
        yield calls


@pytest.fixture(scope="module")
def sidecar(shared_proxy: Starter, webs: dict[str, Web], calls: Calls) -> Sidecar:
    """All routes."""
    services = {name: service(web.port) for name, web in webs.items()} | {"g": service(calls.port)}
    modified = rule("g", filters=[changed("RequestHeaderModifier", set=pairs(("x-set", "new")))])
    return shared_proxy(services, resources=[http_route("all", "parent", *RULES), grpc_route("calls", "g", modified)])


@pytest.fixture(autouse=True)
def fresh(webs: dict[str, Web], calls: Calls) -> None:
    """All servers answer well and have seen nothing."""
    clear(calls.board, *(web.board for web in webs.values()))


@pytest.mark.parametrize("version", BOTH)
def test_request_headers(sidecar: Sidecar, webs: dict[str, Web], version: str) -> None:
    """RequestHeaderModifier sets, adds and removes what the server sees."""
    ask(sidecar, "parent", "/request", version=version, headers={"x-set": "old", "x-add": "one", "x-gone": "1"})
    [seen] = webs["a"].board.seen()
    assert seen.headers["x-set"] == "new"
    assert "x-gone" not in seen.headers
    assert seen.headers["x-add"].endswith("more")


@pytest.mark.parametrize("version", BOTH)
def test_response_headers(sidecar: Sidecar, webs: dict[str, Web], version: str) -> None:
    """ResponseHeaderModifier does it to what the client sees."""
    webs["a"].board.always(Order(headers=(("x-set", "old"), ("x-add", "one"), ("x-gone", "1"))))
    answer = ask(sidecar, "parent", "/response", version=version)
    assert answer.headers["x-set"] == "new"
    assert answer.headers["x-add"] == "one, more"
    assert "x-gone" not in answer.headers


@pytest.mark.parametrize("version", BOTH)
@pytest.mark.parametrize(
    ("target", "status", "location"),
    [
        ("/moved/on?a=b", 301, "https://other.test/new/on?a=b"),
        ("/elsewhere/on?a=b", 302, "http://other.test:8443/new?a=b"),
    ],
)
def test_redirects(
    sidecar: Sidecar, webs: dict[str, Web], version: str, target: str, status: int, location: str
) -> None:
    """RequestRedirect is the proxy's own answer; no server sees the request."""
    answer = ask(sidecar, "parent", target, version=version)
    assert (answer.status, answer.headers["location"]) == (status, location)
    assert counts(*(web.board for web in webs.values())) == [0, 0, 0, 0]


@pytest.mark.parametrize("version", BOTH)
def test_rewrites(sidecar: Sidecar, webs: dict[str, Web], version: str) -> None:
    """URLRewrite changes path and host, and leaves the query."""
    ask(sidecar, "parent", "/prefix/on?a=b", version=version)
    ask(sidecar, "parent", "/full/on?a=b", version=version)
    first, second = webs["a"].board.seen()
    assert (first.path, first.query, first.headers["host"]) == ("/new/on", "a=b", "new.test")
    assert (second.path, second.query, second.headers["host"]) == ("/new", "a=b", "parent")


@pytest.mark.parametrize("version", BOTH)
def test_mirrors(sidecar: Sidecar, webs: dict[str, Web], version: str) -> None:
    """A copy, body and all, goes to the mirror, whose answer nobody sees."""
    body = bytes(20_000)
    webs["b"].board.next(Order(status=500))
    for _ in range(5):
        answer = ask(sidecar, "parent", "/mirror", version=version, method="POST", body=body)
        assert (answer.status, answer.text) == (200, "a")
    wait_until(lambda: counts(webs["a"].board, webs["b"].board) == [5, 5], "all copies arrive")
    assert {(one.path, one.size, one.digest) for one in webs["b"].board.seen()} == {("/mirror", 20_000, digest(body))}


def test_mirrors_hold_nobody_up(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """A mirror that hangs is not waited for, nor is the next request's."""
    webs["b"].board.always(Order(hang=True))
    for _ in range(3):
        assert ask(sidecar, "parent", "/mirror").text == "a"
    wait_until(lambda: webs["b"].board.count() == 3, "the mirror has all of them")


def test_shares_of_mirrors(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """`percent` is the share of requests that are copied."""
    with client("http2") as session:
        for _ in range(MANY):
            assert ask(sidecar, "parent", "/half", by=session).text == "a"
    assert webs["a"].board.count() == MANY
    wait_until(lambda: MANY * 0.35 < webs["b"].board.count() < MANY * 0.65, "about half is copied")


def test_weights(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """Backends get shares as their weights are; one of weight 0 gets nothing."""
    with client("http2") as session:
        for _ in range(MANY):
            assert ask(sidecar, "parent", "/weights", by=session).status == 200
    a, b, c = counts(*(webs[name].board for name in "abc"))
    assert (a + b, c) == (MANY, 0)
    assert MANY * 0.6 < a < MANY * 0.9


def test_backends_that_lead_nowhere(sidecar: Sidecar, webs: dict[str, Web]) -> None:
    """The share of a backend that does not exist is answered 500, as is a rule all of whose weights are 0."""
    with client("http2") as session:
        answers = [ask(sidecar, "parent", "/astray", by=session) for _ in range(60)]
        none = ask(sidecar, "parent", "/none", by=session)
    good = [answer for answer in answers if answer.status == 200]
    bad = [answer for answer in answers if (answer.status, answer.reason) == (500, "bad_backend")]
    assert len(good) + len(bad) == 60
    assert len(good) == webs["a"].board.count()
    assert min(len(good), len(bad)) > 5
    assert (none.status, none.reason) == (500, "bad_backend")


def test_filters_of_calls(sidecar: Sidecar, calls: Calls) -> None:
    """GRPCRoute's filters change the metadata."""
    assert call(sidecar.ports["g"], metadata=[("x-set", "old")]).code == "OK"
    [seen] = calls.board.seen()
    assert seen.headers["x-set"] == "new"
