"""What routes change in heads, and where redirects lead."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.traffic import Edits, Match, PathEdit, PathKind, PathMatch, Redirect, Rewrite, Route
from mesh.proxy.edit import FRAMING, redirect, request_head, response_head
from mesh.proxy.route import Compiled
from mesh.wire.head import Head
from mesh.wire.http1_memo import read_request, request_bytes

RAW = b"GET /foo/bar?q=1 HTTP/1.1\r\nHost: votes:8080\r\nAccept: */*\r\nX-A: 1"


def get(path: str = "/foo/bar?q=1", authority: str = "votes:8080", scheme: str = "http", *fields: str) -> Head:
    """A request; `fields` as `name: value`."""
    lines = [(name.encode(), value.encode()) for name, _, value in (field.partition(": ") for field in fields)]
    return Head.request(b"GET", path.encode(), authority=authority.encode(), scheme=scheme.encode(), fields=lines)


def route(path: str = "/", kind: PathKind = PathKind.PREFIX, **parts: object) -> Compiled:
    """A route for a path that does these things."""
    return Compiled(Route("r", Match(path=PathMatch(path, kind)), **parts))  # type: ignore[arg-type]


# --- rewrites ------------------------------------------------------------------------------------------------------

PREFIXES = [
    ("/foo/bar", "/foo", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo", "/xyz/", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz", "/xyz/bar"),
    ("/foo/bar", "/foo/", "/xyz/", "/xyz/bar"),
    ("/foo", "/foo", "/xyz", "/xyz"),
    ("/foo/", "/foo", "/xyz", "/xyz/"),
    ("/foo/bar", "/foo", "", "/bar"),
    ("/foo/", "/foo", "", "/"),
    ("/foo", "/foo", "", "/"),
    ("/foo/", "/foo", "/", "/"),
    ("/foo", "/foo", "/", "/"),
    ("/bar", "/", "/xyz", "/xyz/bar"),
    ("/bar", "/", "/", "/bar"),
    ("/foo/bar?q=/foo", "/foo", "/xyz", "/xyz/bar?q=/foo"),
    ("/foo?q", "/foo", "", "/?q"),
    ("/foo?q", "/foo", "/xyz", "/xyz?q"),
    ("/foo//bar", "/foo", "/xyz", "/xyz//bar"),
    ("/foo/bar", "/foo", "xyz", "/xyz/bar"),
    ("/foo/bar", "/foo", "/a b?c#d/é", "/a%20b%3Fc%23d/%C3%A9/bar"),
    ("/foo/bar", "/foo", "/a%20b", "/a%20b/bar"),
]


@pytest.mark.parametrize(("path", "prefix", "replacement", "becomes"), PREFIXES)
def test_a_prefix_is_replaced(path: str, prefix: str, replacement: str, becomes: str) -> None:
    """By Gateway API's table: slashes neither get lost nor doubled, and the query stays."""
    compiled = route(prefix, rewrite=Rewrite(path=PathEdit(prefix=replacement)))
    changed = request_head(compiled, get(path))
    assert changed.path.decode() == becomes
    assert changed.get_all(b":path") == [becomes.encode()]


@pytest.mark.parametrize(
    ("path", "full", "becomes"),
    [
        ("/full/one", "/one", "/one"),
        ("/full/one?q=1", "/one", "/one?q=1"),
        ("/full/one?", "one", "/one?"),
        ("/full/one", "", "/"),
        ("/full/one", "/", "/"),
        ("/full/one?a", "/one?b", "/one%3Fb?a"),
    ],
)
def test_a_whole_path_is_replaced(path: str, full: str, becomes: str) -> None:
    """Whatever matched; the query stays."""
    for compiled in (
        route("/full", rewrite=Rewrite(path=PathEdit(full=full))),
        route("/full.*", PathKind.REGEX, rewrite=Rewrite(path=PathEdit(full=full))),
    ):
        assert request_head(compiled, get(path)).path.decode() == becomes


def test_a_prefix_is_only_replaced_where_one_was_matched() -> None:
    """Of an exact path or an expression there is none to replace: the request goes on as it is."""
    head = get("/foo")
    rewrite = Rewrite(path=PathEdit(prefix="/xyz"))
    assert request_head(route("/foo", PathKind.EXACT, rewrite=rewrite), head) is head
    assert request_head(route("/foo", PathKind.REGEX, rewrite=rewrite), head) is head
    anything = Compiled(Route("r", rewrite=rewrite))
    assert request_head(anything, head).path == b"/xyz/foo"


def test_what_has_no_path_gets_none() -> None:
    """CONNECT, and OPTIONS of the server as a whole."""
    compiled = route(rewrite=Rewrite(path=PathEdit(full="/one")))
    for head in (
        Head.request(b"CONNECT", b"", authority=b"votes:80"),
        Head.request(b"OPTIONS", b"*", authority=b"votes"),
    ):
        assert request_head(compiled, head) is head


def test_a_hostname_becomes_the_authority() -> None:
    """All of it, the port too, in the attribute and in the block."""
    head = get()
    changed = request_head(route(rewrite=Rewrite(hostname="one.example.org")), head)
    assert changed.authority == b"one.example.org"
    assert changed.get_all(b":authority") == [b"one.example.org"]
    assert changed.path == head.path
    assert head.authority == b"votes:8080"


def test_hostname_and_path_are_rewritten_together() -> None:
    """And what is edited beside them comes with it."""
    compiled = route(
        "/foo",
        rewrite=Rewrite(hostname="one", path=PathEdit(prefix="/two")),
        request=Edits(add=(("x-b", "2"),)),
    )
    changed = request_head(compiled, get())
    assert changed == Head.request(b"GET", b"/two/bar?q=1", authority=b"one", fields=[(b"x-b", b"2")])


@given(st.sampled_from(["/", "/foo", "/foo/"]), st.text(max_size=12), st.text("/a?%", max_size=12))
def test_a_rewritten_path_is_always_one(prefix: str, replacement: str, rest: str) -> None:
    """It begins with a slash and has only what a request line may hold, whatever is configured."""
    for edit in (PathEdit(prefix=replacement), PathEdit(full=replacement)):
        changed = request_head(route(prefix, rewrite=Rewrite(path=edit)), get("/foo/" + rest))
        assert request_bytes(changed, True)[0].startswith(b"GET /")


# --- fields --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edits", "fields", "become"),
    [
        (Edits(set=(("x-set", "new"),)), [], ["x-set: new"]),
        (Edits(set=(("x-set", "new"),)), ["x-set: old", "a: b", "x-set: older"], ["a: b", "x-set: new"]),
        (Edits(add=(("x-add", "2"),)), [], ["x-add: 2"]),
        (Edits(add=(("x-add", "2"),)), ["x-add: 1"], ["x-add: 1", "x-add: 2"]),
        (Edits(add=(("x-add", "2"), ("x-add", "3"))), ["x-add: 1"], ["x-add: 1", "x-add: 2", "x-add: 3"]),
        (Edits(remove=("x-a",)), ["x-a: 1", "b: 2", "x-a: 3"], ["b: 2"]),
        (Edits(remove=("x-a",), set=(("x-a", "1"),), add=(("x-a", "2"),)), ["x-a: 0"], ["x-a: 1", "x-a: 2"]),
        (Edits(set=(("x-a", " 1\t"), ("x-b", "é"))), [], ["x-a: 1", "x-b: é"]),
    ],
)
def test_fields_are_edited(edits: Edits, fields: list[str], become: list[str]) -> None:
    """Removed, then set, then added, in requests and responses alike."""
    expected = get("/", "votes", "http", *become)
    assert request_head(route(request=edits), get("/", "votes", "http", *fields)) == expected
    answer = Head.response(200, get("/", "votes", "http", *fields).block[4:])
    assert response_head(route(response=edits), answer) == Head.response(200, expected.block[4:])


@pytest.mark.parametrize("name", [*sorted(name.decode() for name in FRAMING), ":path", ":status", ":other"])
def test_framing_is_not_edited(name: str) -> None:
    """What a codec writes, and what says whom a message is for, is not a matter of fields."""
    edits = Edits(set=((name, "1"),), add=((name, "2"),), remove=(name,))
    answer = Head.response(200, [(b"content-length", b"5"), (b"te", b"trailers")])
    assert response_head(route(response=edits), answer) is answer
    if name != "host":
        head = get("/", "votes", "http", "content-length: 5", "te: trailers")
        assert request_head(route(request=edits), head) is head


def test_host_is_the_authority() -> None:
    """It can be set, over a rewrite too, and not removed; no field of that name is made."""
    head = get()
    changed = request_head(route(request=Edits(set=(("host", "other:1"),)), rewrite=Rewrite("one")), head)
    assert changed == get(authority="other:1")
    assert changed.authority == b"other:1"
    assert request_head(route(request=Edits(remove=("host",))), head) is head


def test_nothing_to_change_changes_nothing() -> None:
    """The very object goes on: what the codec knows of it still holds."""
    head, answer = get(), Head.response(200, [(b"a", b"b")])
    same = Rewrite(hostname="votes:8080", path=PathEdit(full="/foo/bar"))
    for compiled in (route(), route(rewrite=same, request=Edits(remove=("x-b",)), response=Edits(remove=("x-b",)))):
        assert request_head(compiled, head) is head
        assert response_head(compiled, answer) is answer


def test_a_head_that_is_given_does_not_change() -> None:
    """An HTTP/1 codec remembers its fields: the next request with the same has them as they came."""
    compiled = route(
        "/foo",
        request=Edits(set=(("x-a", "2"),), remove=("accept",)),
        rewrite=Rewrite("one", PathEdit(prefix="/two")),
    )
    for _ in range(3):  # read, remembered, and written from memory
        head = read_request(RAW, 100)[0]
        changed = request_head(compiled, head)
        assert request_bytes(changed, True)[0] == b"GET /two/bar?q=1 HTTP/1.1\r\nhost: one\r\nx-a: 2\r\n\r\n"
        assert request_bytes(head, True)[0] == (
            b"GET /foo/bar?q=1 HTTP/1.1\r\nhost: votes:8080\r\naccept: */*\r\nx-a: 1\r\n\r\n"
        )


def test_an_upgrade_survives_edits() -> None:
    """A websocket's handshake is still one."""
    compiled = route(request=Edits(set=(("x-a", "2"),)), rewrite=Rewrite("one"), response=Edits(add=(("x-b", "1"),)))
    asked = Head.request(b"GET", b"/", authority=b"votes", upgrade=b"websocket")
    agreed = Head.response(101, upgrade=b"websocket")
    assert request_head(compiled, asked).upgrade == b"websocket"
    assert response_head(compiled, agreed).upgrade == b"websocket"
    assert response_head(compiled, agreed).status == 101


# --- redirects -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "head", "location"),
    [
        (Redirect(), get(), "http://votes:8080/foo/bar?q=1"),
        (Redirect(hostname="one.example"), get(authority="votes"), "http://one.example/foo/bar?q=1"),
        (Redirect(hostname="one.example"), get(), "http://one.example:8080/foo/bar?q=1"),
        (Redirect(scheme="https"), get(), "https://votes/foo/bar?q=1"),
        (Redirect(scheme="http"), get(scheme="https"), "http://votes/foo/bar?q=1"),
        (Redirect(scheme="http"), get(), "http://votes/foo/bar?q=1"),
        (Redirect(scheme="HTTPS", port=443), get(), "https://votes/foo/bar?q=1"),
        (Redirect(scheme="https", port=8443), get(), "https://votes:8443/foo/bar?q=1"),
        (Redirect(scheme="http", port=443), get(), "http://votes:443/foo/bar?q=1"),
        (Redirect(port=80), get(), "http://votes/foo/bar?q=1"),
        (Redirect(port=443), get(), "http://votes:443/foo/bar?q=1"),
        (Redirect(port=443), get(scheme="https"), "https://votes/foo/bar?q=1"),
        (Redirect(port=80), get(scheme="https"), "https://votes:80/foo/bar?q=1"),
        (Redirect(), get(authority="votes:80"), "http://votes/foo/bar?q=1"),
        (Redirect(), get(authority="votes:443", scheme="https"), "https://votes/foo/bar?q=1"),
        (Redirect(), get(authority="[::1]"), "http://[::1]/foo/bar?q=1"),
        (Redirect(), get(authority="[::1]:81"), "http://[::1]:81/foo/bar?q=1"),
        (Redirect(port=82), get(authority="[::1]:81"), "http://[::1]:82/foo/bar?q=1"),
        (Redirect(path=PathEdit(full="/new")), get(), "http://votes:8080/new?q=1"),
        (Redirect(path=PathEdit(prefix="/new")), get(), "http://votes:8080/new/bar?q=1"),
        (Redirect(hostname="x", path=PathEdit(prefix="")), get("/foo//y", "votes"), "http://x//y"),
        (Redirect(), get("/foo", ""), "/foo"),
        (Redirect(path=PathEdit(prefix="")), get("/foo//evil.example", ""), "/evil.example"),
        (Redirect(hostname="one"), get("/foo", ""), "http://one/foo"),
        (Redirect(), Head.request(b"OPTIONS", b"*", authority=b"votes"), "http://votes"),
    ],
)
def test_redirects_lead_where_the_specification_says(to: Redirect, head: Head, location: str) -> None:
    """Scheme, host, port and path are the request's where nothing is said; a scheme's own port is left out."""
    answer = redirect(route("/foo", redirect=to), head)
    assert answer.get_all(b"location") == [location.encode()]
    assert answer.get(b"content-length") == b"0"
    assert answer.status == 302


@pytest.mark.parametrize(("path", "prefix", "replacement", "becomes"), PREFIXES)
def test_redirects_replace_prefixes_as_rewrites_do(path: str, prefix: str, replacement: str, becomes: str) -> None:
    """By the same table."""
    answer = redirect(route(prefix, redirect=Redirect(path=PathEdit(prefix=replacement))), get(path, "votes"))
    assert answer.get(b"location") == b"http://votes" + becomes.encode()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_has_the_status_of_the_route(status: int) -> None:
    """And its edits of responses."""
    compiled = route(redirect=Redirect(status=status), response=Edits(set=(("cache-control", "no-store"),)))
    answer = redirect(compiled, get())
    assert answer.status == status
    assert answer.block[0] == (b":status", b"%d" % status)
    assert answer.get(b"cache-control") == b"no-store"


def test_only_a_route_that_redirects_does() -> None:
    """Asking another one is a mistake of ours."""
    with pytest.raises(ValueError, match="r does not redirect"):
        redirect(route(), get())
