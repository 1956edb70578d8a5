"""The servers that fail on command do fail, and count, before anything is said about a proxy by their word."""

import socket
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.end_to_end.asking import call, client
from tests.end_to_end.failing import Order, digest
from tests.end_to_end.failing_grpc import HEALTH, NOT_SERVING, SERVING, Calls, grpc_serving
from tests.end_to_end.failing_raw import Raw, raw_serving
from tests.end_to_end.failing_web import Web, Webs, web_servers
from tests.end_to_end.sidecar import wait_until

VERSIONS = ("http1", "http2")


@pytest.fixture(scope="module")
def webs() -> Iterator[Webs]:
    """Hypercorn."""
    with web_servers() as webs:
        yield webs


@pytest.fixture(scope="module")
def web(webs: Webs) -> Web:
    """One of them."""
    return webs.add("web")


@pytest.fixture
def raw() -> Iterator[Raw]:
    """The raw one."""
    with raw_serving("raw") as raw:
        yield raw


@pytest.fixture
def calls() -> Iterator[Calls]:
    """grpcio."""
    with grpc_serving("calls") as calls:
        yield calls


@pytest.mark.parametrize("version", VERSIONS)
def test_web_does_as_it_is_told(web: Web, version: str) -> None:
    """Orders for a path, for the next requests, for all; each request is noted with its body's digest."""
    web.board.clear()
    web.board.at("/healthz", Order(status=503))
    web.board.next(Order(status=429, headers=(("retry-after", "1"),)), 2)
    web.board.always(Order(body=b"usual"))
    with client(version) as session:
        answers = [session.post(f"http://127.0.0.1:{web.port}{path}?a=b", content=b"body") for path in ("/x",) * 3]
        assert session.get(f"http://127.0.0.1:{web.port}/healthz").status_code == 503
    assert [(answer.status_code, answer.text) for answer in answers] == [(429, "web"), (429, "web"), (200, "usual")]
    assert answers[0].headers["retry-after"] == "1"
    first = web.board.seen("/x")[0]
    assert (first.method, first.query, first.size, first.digest) == ("POST", "a=b", 4, digest(b"body"))
    assert web.board.paths() == {"/x": 3, "/healthz": 1}
    assert len(web.board.connections()) == 1
    assert first.version == {"http1": "1.1", "http2": "2"}[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_web_notes_who_leaves(web: Web, version: str) -> None:
    """A client that gives a hanging request up is counted."""
    web.board.clear()
    web.board.always(Order(hang=True))
    with client(version, seconds=0.2) as session, pytest.raises(httpx.ReadTimeout):
        session.get(f"http://127.0.0.1:{web.port}/")
    wait_until(lambda: len(web.board.left) == 1 and not web.board.active, "it is seen to leave")


def test_web_refuses_when_it_has_stopped(webs: Webs) -> None:
    """A server that is stopped refuses; the others go on."""
    late = webs.add("late")
    with client() as session:
        assert session.get(f"http://127.0.0.1:{late.port}/").text == "late"
    webs.stop(late)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", late.port))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("cut", ["reset", "close", "body", "garbage"])
def test_raw_breaks_off(raw: Raw, version: str, cut: str) -> None:
    """Each way to break off is an error for the client, and the next request is answered well."""
    raw.board.next(Order(cut=cut))
    with client(version) as session, pytest.raises(httpx.HTTPError):
        session.get(f"http://127.0.0.1:{raw.port}/x")
    with client(version) as session:
        answer = session.post(f"http://127.0.0.1:{raw.port}/x", content=iter([b"a", b"b"]))
    assert (answer.status_code, answer.text) == (200, "raw")
    assert raw.board.seen(method="POST")[0].digest == digest(b"ab")
    assert raw.board.count() == 2


def test_calls_do_as_they_are_told(calls: Calls) -> None:
    """Statuses without and with a head before them, deadlines that are seen, health."""
    calls.board.next(Order(grpc="UNAVAILABLE"))
    calls.board.next(Order(grpc="DATA_LOSS", early=True))
    assert [call(calls.port, seconds=5).code for _ in range(3)] == ["UNAVAILABLE", "DATA_LOSS", "OK"]
    assert 0 < float(calls.board.seen("/test.Calls/One")[0].headers["time-remaining"]) < 6
    assert call(calls.port, HEALTH, b"").message == SERVING
    calls.healthy = False
    assert call(calls.port, HEALTH, b"").message == NOT_SERVING


def test_calls_note_who_leaves(calls: Calls) -> None:
    """A client whose deadline passes is counted."""
    calls.board.always(Order(hang=True))
    assert call(calls.port, seconds=0.2).code == "DEADLINE_EXCEEDED"
    wait_until(lambda: len(calls.board.left) == 1 and not calls.board.active, "it is seen to leave")


def test_boards_count_what_is_in_hand(web: Web) -> None:
    """`most` is how many requests were in hand at a time."""
    web.board.clear()
    web.board.always(Order(hang=True))

    def one() -> None:
        with client(seconds=1.0) as session, pytest.raises(httpx.ReadTimeout):
            session.get(f"http://127.0.0.1:{web.port}/")

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: web.board.most == 3, "three are in hand")
    for thread in threads:
        thread.join()
    wait_until(lambda: web.board.active == 0, "none is")
