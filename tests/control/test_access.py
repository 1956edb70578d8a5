"""Who may ask: every way in and every way to be kept out."""

import pytest

from mesh.control.access import Access, hostname, is_loopback
from mesh.control.routes import Answer, Refusal, Request, Route
from mesh.control.tokens import Bearer, Role, proxy_token, role_token

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


TOKENS = {
    "view": role_token("secret", "view", "ann"),
    "tap": role_token("secret", "tap", "ann"),
    "admin": role_token("secret", "admin", "ann"),
    "proxy": proxy_token("secret", "web", "demo", "web"),
    "the secret": "secret",
}
GET, PUT, DELETE = (Route(method, "/", "", None) for method in ("GET", "PUT", "DELETE"))
ROUTES = {
    "view": GET,
    "tap": Route("GET", "/tap", "", None, role=Role.TAP),
    "put": PUT,
    "delete": DELETE,
    "post that looks": Route("POST", "/", "", None, role=Role.VIEW),
    "audit": Route("GET", "/audit", "", None, role=Role.ADMIN),
    "connect": Route("GET", "/connect", "", None, role=Role.PROXY),
}
MAY = {
    "view": {"view", "post that looks"},
    "tap": {"view", "post that looks", "tap"},
    "admin": set(ROUTES),
    "the secret": set(ROUTES),
    "proxy": {"connect"},
}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("token", TOKENS)
def test_what_each_role_opens(token, route):
    """Its own routes and those of the weaker ones; a proxy's token nothing but its stream. A refusal names the role."""
    request = Request("GET", "/", {}, {"host": "localhost", "authorization": f"Bearer {TOKENS[token]}"})
    bearer = ACCESS.check(request, websocket=False)
    assert isinstance(bearer, Bearer)
    request = Request("GET", "/", bearer=bearer)
    if route in MAY[token]:
        ACCESS.permit(request, ROUTES[route])
        return
    with pytest.raises(Refusal) as caught:
        ACCESS.permit(request, ROUTES[route])
    assert caught.value.status == 403
    assert f"role {ROUTES[route].needed.value} is needed" in str(caught.value)


@pytest.mark.parametrize("token", TOKENS)
def test_links_and_cookies_work_with_every_token(token):
    """The cookie is the token that the link had, and opens what that opens."""
    answer = ACCESS.check(Request("GET", "/", {"token": TOKENS[token]}, {"host": "localhost"}), websocket=False)
    assert isinstance(answer, Answer)
    cookie = dict(answer.headers)[b"set-cookie"].decode().partition(";")[0]
    bearer = ACCESS.check(Request("GET", "/", {}, {"host": "localhost", "cookie": cookie}), websocket=False)
    assert bearer == ACCESS.check(
        Request("GET", "/", {}, {"host": "localhost", "authorization": f"Bearer {TOKENS[token]}"}), websocket=False
    )


def test_an_expired_token_is_no_longer_one():
    """In the header, in the cookie and in a link."""
    now = 1000.0
    access = Access("secret", clock=lambda: now)
    token = role_token("secret", "admin", "ann", expires=2000.0)
    header = {"host": "localhost", "authorization": f"Bearer {token}"}
    assert isinstance(access.check(Request("GET", "/", {}, header), websocket=False), Bearer)
    now = 2000.0
    cookie = {"host": "localhost", "cookie": f"conduit_token={token}"}
    for request in (
        Request("GET", "/", {}, header),
        Request("GET", "/", {}, cookie),
        Request("GET", "/", {"token": token}, {"host": "localhost"}),
    ):
        with pytest.raises(Refusal) as caught:
            access.check(request, websocket=False)
        assert caught.value.status == 401


SECURE = Access("secret", {"control.example"}, tls=True)


@pytest.mark.parametrize(
    ("source", "secure", "wanted"),
    [
        ("127.0.0.1", False, 200),
        ("::1", False, 200),
        ("::ffff:127.0.0.1", False, 200),
        ("10.0.0.1", False, 403),
        ("::ffff:10.0.0.1", False, 403),
        ("", False, 403),
        ("10.0.0.1", True, 200),
        ("127.0.0.1", True, 200),
    ],
)
def test_plain_http_is_for_this_machine(source, secure, wanted):
    """Where there is TLS, others must use it, whatever Host they write and whatever token they have."""
    request = Request("GET", "/", {}, GOOD, source=source, secure=secure)
    try:
        SECURE.check(request, websocket=False)
        found = 200
    except Refusal as refusal:
        found = refusal.status
    assert found == wanted
    ACCESS.check(request, websocket=False)  # without TLS there is no other way in


def test_a_proxys_stream_is_never_plain():
    """Where there is TLS; a token that is read on the way is somebody else's."""
    bearer = Bearer(Role.PROXY, "web.demo", workload="web", namespace="demo", account="web")
    plain, secure = (Request("GET", "/", source="127.0.0.1", secure=s, bearer=bearer) for s in (False, True))
    SECURE.permit(secure, ROUTES["connect"])
    ACCESS.permit(plain, ROUTES["connect"])
    with pytest.raises(Refusal, match="never plain text"):
        SECURE.permit(plain, ROUTES["connect"])


@pytest.mark.parametrize(
    ("origin", "secure", "wanted"),
    [
        ("https://127.0.0.1:4190", True, 200),
        ("http://127.0.0.1:4190", True, 403),
        ("https://127.0.0.1:4190", False, 403),
        ("http://127.0.0.1:4190", False, 200),
    ],
)
def test_an_origin_has_the_scheme_that_the_request_came_by(origin, secure, wanted):
    """A page that anybody on the way could have written is not our own."""
    request = Request("PUT", "/", {}, GOOD | {"origin": origin}, source="127.0.0.1", secure=secure)
    try:
        SECURE.check(request, websocket=False)
        found = 200
    except Refusal as refusal:
        found = refusal.status
    assert found == wanted


def test_a_cookie_that_was_given_over_tls_stays_there():
    """It is marked so."""
    request = Request("GET", "/", {"token": "secret"}, {"host": "localhost"}, secure=True)
    answer = SECURE.check(request, websocket=False)
    assert dict(answer.headers)[b"set-cookie"].endswith(b"; Secure")


def test_an_open_route_needs_nobody():
    """And any other needs somebody."""
    ACCESS.permit(Request("GET", "/"), Route("GET", "/", "", None, open=True))
    with pytest.raises(Refusal, match="there is none"):
        ACCESS.permit(Request("GET", "/"), GET)


def test_loopback():
    """Addresses alone; a name may be anybody's."""
    assert [is_loopback(name) for name in ("127.1.2.3", "::1", "localhost", "1.1.1.1", "x")] == [True, True] + 3 * [
        False
    ]
