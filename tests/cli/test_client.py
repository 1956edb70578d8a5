"""Talking to a control plane that is away, strict or strange: what people are told."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trio_websocket
import trustme

from mesh.cli.client import Api, problem
from mesh.model.errors import ConfigError, ControlError


@pytest.fixture
async def server(nursery: trio.Nursery) -> Callable:
    """Call it with an async function of a websocket request for the URL of a server that runs it."""

    async def start(handle: Callable) -> str:
        serving = await nursery.start(trio_websocket.serve_websocket, handle, "127.0.0.1", 0, None)
        return f"http://127.0.0.1:{serving.port}"

    return start


async def test_watch_until_taken_enough(server: Callable) -> None:
    """The path, the query and the token arrive; messages are handed over until `take` has enough."""
    asked = {}

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        asked["path"] = request.path
        asked["authorization"] = dict(request.headers)[b"authorization"]
        socket = await request.accept()
        for n in range(3):
            await socket.send_message(str(n))
        with pytest.raises(trio_websocket.ConnectionClosed):
            await socket.get_message()

    taken: list[str] = []

    def take(message: str) -> bool:
        taken.append(message)
        return len(taken) < 3

    with trio.fail_after(30):
        await Api(await server(handle), "secret").watch("/watch", {"to": "a b", "n": 1.5}, take)
    assert taken == ["0", "1", "2"]
    assert asked == {"path": "/watch?to=a+b&n=1.5", "authorization": b"Bearer secret"}


async def test_stream_that_ends_is_an_error(server: Callable) -> None:
    """Its reason is told."""

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        socket = await request.accept()
        await socket.aclose(code=1001, reason="it is stopping")

    with pytest.raises(ControlError, match=r"ended the stream \(it is stopping\)"), trio.fail_after(30):
        await Api(await server(handle), "secret").watch("/watch", {}, lambda _: True)


async def test_refused_watch_is_explained(server: Callable) -> None:
    """A status instead of a websocket carries a Problem."""

    async def handle(request: trio_websocket.WebSocketRequest) -> None:
        await request.reject(401, body=b'{"error": "a token is needed"}')

    with pytest.raises(ControlError, match="refused the token: a token is needed"), trio.fail_after(30):
        await Api(await server(handle), "wrong").watch("/watch", {}, lambda _: True)


async def test_nobody_there(free_port: Callable[[], int]) -> None:
    """Both ways of asking name the address and ask the right question."""
    api = Api(f"http://127.0.0.1:{free_port()}", "t")
    with pytest.raises(ControlError, match=rf"no control plane answers at {api.url}: .*is the mesh still running"):
        api.ask("GET", "/api/v1/stat")
    with pytest.raises(ControlError, match=rf"no control plane answers at {api.url}: .*is the mesh still running"):
        await api.watch("/watch", {}, lambda _: True)


def test_wrong_token_is_told(conduit: Callable, control: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real control plane's refusal, as a command shows it; proxy variables are not used on the way."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    result = conduit("stat", "--token", "wrong")
    assert result.code == 1
    assert result.err.startswith(f"conduit: the control plane at {control} refused the token: ")
    assert conduit("stat").code == 0


@pytest.mark.parametrize(
    ("status", "body", "kind", "told"),
    [
        (422, b'{"error": "bad", "file": "a.yaml", "line": 2, "field": "spec"}', ConfigError, "a.yaml:2: spec: bad"),
        (404, b'{"error": "there is none"}', ControlError, "the control plane at http://c: there is none"),
        (502, b"<html>", ControlError, "the control plane at http://c: it answered 502"),
        (403, b"", ControlError, "the control plane at http://c refused the token: it answered 403"),
    ],
)
def test_problems(status: int, body: bytes, kind: type[Exception], told: str) -> None:
    """What each answer becomes."""
    error = problem(status, body, "http://c")
    assert (type(error), str(error)) == (kind, told)


@pytest.mark.parametrize("url", ["127.0.0.1:4190", "ftp://x", "http://", "control"])
def test_url_that_is_none(url: str) -> None:
    """Told with an example."""
    with pytest.raises(ControlError, match="is not a URL of a control plane"):
        Api(url, "t")


def test_https_is_vouched_for(conduit: Callable, secure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the roots of CONDUIT_CA or --ca; who is not vouched for is not shown the token, and the error says what to
    do."""
    assert conduit("stat").code == 0
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    refused = conduit("stat", "--ca", tmp_path / "other.pem")
    assert refused.code == 1
    assert re.match(f"conduit: who answers at {secure} is not vouched for by .*other.pem: .*; --ca names", refused.err)
    good = os.environ["CONDUIT_CA"]
    monkeypatch.setenv("CONDUIT_CA", str(tmp_path / "other.pem"))
    assert conduit("stat").code == 1
    assert conduit("stat", "--ca", good).code == 0
    monkeypatch.delenv("CONDUIT_CA")
    assert "is not vouched for by this system's roots" in conduit("stat").err


async def test_watch_over_https_is_vouched_for(secure: str, tmp_path: Path) -> None:
    """As any other question."""
    taken: list[str] = []

    def take(message: str) -> bool:
        taken.append(message)
        return False

    with trio.fail_after(30):
        await Api(secure, "secret", os.environ["CONDUIT_CA"]).watch("/api/v1/stat/watch", {}, take)
    assert len(taken) == 1
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(ControlError, match=f"who answers at {secure} is not vouched for"), trio.fail_after(30):
        await Api(secure, "secret", str(tmp_path / "other.pem")).watch("/api/v1/stat/watch", {}, take)
