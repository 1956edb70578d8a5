"""The table, and how requests find their row."""

import pytest

from mesh.control.routes import Query, Refusal, Request, Route, Router, check_known, number, parse_target, text


async def handler(request):
    """Never called."""


async def socket(request, websocket):
    """Never called."""


ROUTER = Router(
    [
        Route("GET", "/a", "", None, handler=handler, query=(Query("x", ""),)),
        Route("PUT", "/a", "", None, handler=handler),
        Route("GET", "/a/{name}", "", None, handler=handler),
        Route("GET", "/watch", "", None, socket=socket),
        Route("GET", "/open", "", None, handler=handler, open=True),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "websocket", "found"),
    [
        ("GET", "/a", False, ("/a", {})),
        ("PUT", "/a", False, ("/a", {})),
        ("GET", "/a/b", False, ("/a/{name}", {"name": "b"})),
        ("GET", "/a/b%2Fc", False, ("/a/{name}", {"name": "b/c"})),
        ("GET", "/watch", True, ("/watch", {})),
        ("DELETE", "/a", False, 405),
        ("GET", "/a", True, 405),
        ("GET", "/watch", False, 426),
        ("GET", "/a/", False, 404),
        ("GET", "/", False, 404),
        ("GET", "/a/b/c", False, 404),
        ("GET", "/A", False, 404),
    ],
)
def test_find(method, path, websocket, found):
    """A row is found by method, path and kind; else the status says what was wrong."""
    if isinstance(found, tuple):
        route, parameters = ROUTER.find(method, path, websocket=websocket)
        assert (route.path, parameters) == found
        return
    with pytest.raises(Refusal) as caught:
        ROUTER.find(method, path, websocket=websocket)
    assert caught.value.status == caught.value.answer().status == found


def test_is_open():
    """Only what is marked so."""
    assert ROUTER.is_open("/open")
    assert not ROUTER.is_open("/a")
    assert not ROUTER.is_open("/nowhere")


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [("/a", "/a", {}), ("/a?x=1&y=", "/a", {"x": "1", "y": ""}), ("/a?x=%20b+c", "/a", {"x": " b c"})],
)
def test_parse_target(target, path, query):
    """Path and query, the latter decoded."""
    parsed = parse_target(target)
    assert (parsed.path, dict(parsed.query)) == (path, query)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "a",
        "*",
        "//evil.example/",
        "/\\evil",
        "http://h/",
        "/a?x=1&x=2",
        "/a?x=%ff",
        "/a?" + "&".join("abcdefghijklmnopqrstuvwxyzABCDEFGHIJ"),
    ],
)
def test_bad_targets_are_refused(target):
    """What is no path, could send a browser elsewhere, or is ambiguous, is 400."""
    with pytest.raises(Refusal) as caught:
        parse_target(target)
    assert caught.value.status == 400


WINDOW = Query("window", "", kind=float, default=60.0, most=900.0)
KIND = Query("kind", "", default="a", choices=("a", "b"))


@pytest.mark.parametrize(("given", "value"), [({}, 60.0), ({"window": ""}, 60.0), ({"window": "0"}, 0.0)])
def test_number(given, value):
    """A number within its bounds, or the default."""
    assert number(Request("GET", "/", given), WINDOW) == value


@pytest.mark.parametrize("given", ["x", "-1", "901", "nan", "inf", "1_0_0_0"])
def test_bad_numbers_are_refused(given):
    """Out of bounds, or no number: 400 that names the parameter."""
    with pytest.raises(Refusal) as caught:
        number(Request("GET", "/", {"window": given}), WINDOW)
    assert (caught.value.status, caught.value.problem.field) == (400, "window")


def test_text_and_unknown_parameters():
    """A word of the choices, or the default; another word or another parameter is refused."""
    assert text(Request("GET", "/", {}), KIND) == "a"
    assert text(Request("GET", "/", {"kind": "b"}), KIND) == "b"
    with pytest.raises(Refusal):
        text(Request("GET", "/", {"kind": "c"}), KIND)
    route = ROUTER.find("GET", "/a", websocket=False)[0]
    check_known(Request("GET", "/a", {"x": "1"}), route)
    with pytest.raises(Refusal):
        check_known(Request("GET", "/a", {"y": "1"}), route)
