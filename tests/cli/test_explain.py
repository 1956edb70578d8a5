"""conduit explain: the request that is asked about, how the answer is shown, and the exit status."""

import json
from collections.abc import Callable

import click
import msgspec
import pytest
import yaml

from mesh.cli import explain
from mesh.cli.client import Api
from mesh.cli.explain import asked, split, table
from mesh.model.explain import Ask, Happened, Question, Step, Trace

ALLOWED = (
    Step("name", "found", "votes is a service", where="web.demo"),
    Step("policy", "allowed", "its identity matches", "demo/only-web", "votes-v1.demo"),
    Step("end", "served", "the application gets it", where="votes-v1.demo"),
)
DENIED = (*ALLOWED[:1], Step("policy", "denied", "no rule matches", "demo/x", "votes-v1.demo", verdict="denied"))
QUESTION = Question("outbound", "votes")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What was asked of the API; it answers with `answers.trace`."""
    calls: list[tuple] = []

    def ask(self: Api, method: str, path: str, *, params: object = None, body: str = "", **rest: object) -> bytes:
        calls.append((method, path, params, body))
        return msgspec.json.encode(answers.trace)

    monkeypatch.setattr(explain.Api, "find", lambda control, token: Api("http://127.0.0.1:1", "x"))
    monkeypatch.setattr(explain.Api, "ask", ask)
    return calls


class answers:
    """Of the API above."""

    trace = Trace("allowed", ALLOWED, QUESTION)


@pytest.mark.parametrize(
    ("url", "authority", "path"),
    [
        ("http://votes/a?b=c", "votes", "/a?b=c"),
        ("votes.demo:8080", "votes.demo:8080", "/"),
        ("votes/a", "votes", "/a"),
        ("https://example.com/x", "example.com:443", "/x"),
        ("https://example.com:8443", "example.com:8443", "/"),
        ("[::1]:80/x", "[::1]:80", "/x"),
    ],
)
def test_urls(url: str, authority: str, path: str) -> None:
    """With a scheme or without."""
    assert split(url) == (authority, path)


@pytest.mark.parametrize("url", ["", "/a", "ftp://votes/"])
def test_what_is_no_url(url: str) -> None:
    """Wrong usage."""
    with pytest.raises(click.UsageError):
        split(url)


def test_requests() -> None:
    """Method before the URL; gRPC calls are POSTs."""
    plain = {"grpc": False, "tcp": False, "identity": "", "source": ""}
    assert asked(("post", "votes/a"), "web", ("X-User: ann",), **plain) == Ask(
        "votes", "web", "POST", "/a", (("x-user", "ann"),)
    )
    assert asked(("votes/p.S/M",), "", (), **plain | {"grpc": True}).method == "POST"
    assert asked(("votes:5432",), "", (), **plain | {"tcp": True}).protocol == "tcp"
    for words, headers in (((), ()), (("a", "b", "c"), ()), (("votes",), ("x",))):
        with pytest.raises(click.UsageError):
            asked(words, "", headers, **plain)


def test_allowed(conduit: Callable, api: list) -> None:
    """Numbered steps; what lets it through is marked."""
    answers.trace = Trace("allowed", ALLOWED, QUESTION)
    done = conduit("explain", "--from", "web", "http://votes/a")
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "  1  web.demo       name    found    votes is a service\n"
        "> 2  votes-v1.demo  policy  allowed  demo/only-web: its identity matches\n"
        "  3  votes-v1.demo  end     served   the application gets it\n"
        "verdict: allowed by demo/only-web\n"
    )
    [(method, path, _, body)] = api
    assert (method, path, json.loads(body)) == (
        *("POST", "/api/v1/explain"),
        {"to": "votes", "from": "web", "path": "/a"},
    )


def test_denied(conduit: Callable, api: list) -> None:
    """Exit status 1, in every format; programs get all of it."""
    answers.trace = Trace("denied", DENIED, QUESTION)
    done = conduit("explain", "votes")
    assert done.code == 1
    assert "> 2  votes-v1.demo  policy  denied" in done.out
    assert done.out.endswith("verdict: denied by demo/x\n")
    told = json.loads(conduit("explain", "votes", "-o", "json").out)
    assert (told["verdict"], told["steps"][1]["by"]) == ("denied", "demo/x")
    assert yaml.safe_load(conduit("explain", "votes", "-o", "yaml").out) == told


def test_a_request_that_was_tapped(conduit: Callable, api: list) -> None:
    """Beside what would be done now stands what was done."""
    happened = Happened(1_700_000_000.0, 403, -1, "denied", "denied", policy="demo/\x1bold")
    answers.trace = Trace("allowed", ALLOWED, QUESTION, happened)
    done = conduit("explain", "--tap", "web/3:1")
    assert done.code == 0
    assert "status 403, outcome denied, error denied, policy demo/\\x1bold\n" in done.out
    assert api == [("GET", "/api/v1/explain", {"tap": "web/3:1"}, "")]
    assert conduit("explain", "--tap", "web/3:1", "votes").code == 2


def test_what_proxies_say_moves_no_cursor() -> None:
    """Control characters are escaped, as everywhere."""
    shown = table(Trace("refused", (Step("a\x1b", "b\n", "c\x07", "d\r", "e\x00", verdict="refused"),), QUESTION))
    assert shown.count("\n") == 2
    assert shown.replace("\n", "").isprintable()


def test_a_control_plane_that_knows_nobody(conduit: Callable, control: str) -> None:
    """The error says whom it cannot ask."""
    done = conduit("explain", "--from", "nobody", "http://words/")
    assert (done.code, done.out) == (1, "")
    assert "there is no workload nobody" in done.err
    assert "no proxy beside words.demo is connected" in conduit("explain", "words.demo").err
    assert "no tap has shown a request 1:1 of web lately" in conduit("explain", "--tap", "web/1:1").err
