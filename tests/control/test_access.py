"""Who may ask: every way in and every way to be kept out."""

import pytest

from mesh.control.access import Access, hostname
from mesh.control.routes import Answer, Refusal, Request

ACCESS = Access("secret", {"control.example"})
GOOD = {"host": "127.0.0.1:4190", "authorization": "Bearer secret"}


def status(request, websocket=False):
    try:
        answer = ACCESS.check(request, websocket=websocket)
    except Refusal as refusal:
        return refusal.status
    return answer.status if isinstance(answer, Answer) else 200


@pytest.mark.parametrize(
    ("headers", "wanted"),
    [
        (GOOD, 200),
        (GOOD | {"host": "localhost:1"}, 200),
        (GOOD | {"host": "[::1]:1"}, 200),
        (GOOD | {"host": "127.9.9.9"}, 200),
        (GOOD | {"host": "CONTROL.example"}, 200),
        (GOOD | {"host": "evil.example"}, 403),
        (GOOD | {"host": "127.0.0.1.evil.example"}, 403),
        (GOOD | {"host": "localhost@evil.example"}, 403),
        (GOOD | {"host": "evil.example#localhost"}, 403),
        (GOOD | {"host": "10.0.0.1"}, 403),
        (GOOD | {"host": "localhost:x"}, 403),
        (GOOD | {"host": ""}, 403),
        ({"authorization": "Bearer secret"}, 403),
        ({"host": "localhost"}, 401),
        (GOOD | {"authorization": "Bearer wrong"}, 401),
        (GOOD | {"authorization": "Bearer "}, 401),
        (GOOD | {"authorization": "Basic secret"}, 401),
        (GOOD | {"authorization": "bearer  secret"}, 200),
        (GOOD | {"authorization": "Bearer sécret"}, 401),
        ({"host": "localhost", "cookie": "a=b; conduit_token=secret"}, 200),
        ({"host": "localhost", "cookie": "conduit_token=wrong"}, 401),
        ({"host": "localhost", "cookie": ";;=;conduit_token"}, 401),
        (GOOD | {"origin": "http://evil.example"}, 200),  # a GET has no effect, and its answer no CORS header
    ],
)
def test_gets(headers, wanted):
    """The right host and the right token, in either place."""
    assert status(Request("GET", "/", {}, headers)) == wanted


@pytest.mark.parametrize(
    ("origin", "wanted"),
    [
        (None, 200),
        ("http://127.0.0.1:4190", 200),
        ("http://127.0.0.1:9999", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
        ("file://", 403),
    ],
)
@pytest.mark.parametrize(("method", "websocket"), [("PUT", False), ("DELETE", False), ("GET", True)])
def test_what_changes_something_and_websockets_come_from_our_own_pages(method, websocket, origin, wanted):
    """Cross-site is refused even with the right cookie or token."""
    headers = GOOD | ({} if origin is None else {"origin": origin})
    assert status(Request(method, "/", {}, headers), websocket) == wanted


def test_a_browser_gets_the_cookie_once_and_is_sent_on():
    """The link with the token answers with the cookie, strict and not for scripts, and the same page without it."""
    request = Request("GET", "/page", {"token": "secret", "a": "b c"}, {"host": "localhost:1"})
    answer = ACCESS.check(request, websocket=False)
    assert answer.status == 303
    headers = dict(answer.headers)
    assert headers[b"location"] == b"/page?a=b+c"
    assert headers[b"set-cookie"] == b"conduit_token=secret; Path=/; HttpOnly; SameSite=Strict"


@pytest.mark.parametrize(
    ("method", "websocket", "token", "host", "wanted"),
    [
        ("GET", False, "wrong", "localhost", 401),
        ("GET", False, "", "localhost", 401),
        ("PUT", False, "secret", "localhost", 401),
        ("GET", True, "secret", "localhost", 401),
        ("GET", False, "secret", "evil.example", 403),
    ],
)
def test_the_token_in_a_link_opens_nothing_else(method, websocket, token, host, wanted):
    """It is for a browser's first page alone, and the host is judged before."""
    assert status(Request(method, "/", {"token": token}, {"host": host}), websocket) == wanted


def test_there_is_no_access_without_a_token():
    """An empty token would be matched by an empty one."""
    with pytest.raises(ValueError, match="without a token"):
        Access("")


@pytest.mark.parametrize(
    ("host", "name"), [("A.b:1", "a.b"), ("[::1]:1", "::1"), ("a.", "a"), ("a/b", ""), ("[::1", ""), ("a b", "")]
)
def test_hostname(host, name):
    """The name alone, or nothing for what is no Host field."""
    assert hostname(host) == name
