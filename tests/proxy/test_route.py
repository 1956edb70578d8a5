"""Which requests a match means, and which route comes first."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.traffic import Backend, FieldMatch, Match, Mirror, PathKind, PathMatch, Route
from mesh.proxy.route import ANYTHING, Compiled, Matcher, Routes, bare_path, query_parameters
from mesh.wire.head import Head
from mesh.wire.http1_memo import read_request

EXACT, PREFIX, REGEX = PathKind.EXACT, PathKind.PREFIX, PathKind.REGEX


def get(path: str, *fields: tuple[str, str], method: str = "GET", authority: str = "votes") -> Head:
    """A request as a codec would make it."""
    lines = [(name.encode(), value.encode()) for name, value in fields]
    return Head.request(method.encode(), path.encode(), authority=authority.encode(), fields=lines)


def on(value: str, kind: PathKind = PREFIX, **more: object) -> Match:
    """A match of a path, and of `more`."""
    return Match(path=PathMatch(value, kind), **more)  # type: ignore[arg-type]


def field(name: str, value: str) -> tuple[FieldMatch, ...]:
    """One field that must have this value."""
    return (FieldMatch(name, value),)


def pattern(name: str, value: str) -> tuple[FieldMatch, ...]:
    """One field that a regular expression must match."""
    return (FieldMatch(name, value, regex=True),)


# --- paths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "path", "holds"),
    [
        ("/one", EXACT, "/one", True),
        ("/one", EXACT, "/one?a=b", True),
        ("/one", EXACT, "/one/", False),
        ("/one/", EXACT, "/one/", True),
        ("/one/", EXACT, "/one", False),
        ("/one", EXACT, "/ONE", False),
        ("/one", EXACT, "/one/two", False),
        ("/", EXACT, "/", True),
        ("/", EXACT, "/?x", True),
        ("/", EXACT, "/one", False),
        ("/abc", PREFIX, "/abc", True),
        ("/abc", PREFIX, "/abc/", True),
        ("/abc", PREFIX, "/abc/def", True),
        ("/abc", PREFIX, "/abc?def", True),
        ("/abc", PREFIX, "/abcd", False),
        ("/abc", PREFIX, "/ab", False),
        ("/abc", PREFIX, "/Abc", False),
        ("/abc", PREFIX, "/x/abc", False),
        ("/abc/", PREFIX, "/abc", True),
        ("/abc/", PREFIX, "/abc/def", True),
        ("/abc/", PREFIX, "/abcd", False),
        ("/abc/def", PREFIX, "/abc/def/ghi", True),
        ("/abc/def", PREFIX, "/abc/de", False),
        ("/abc/def", PREFIX, "/abc?/def", False),
        ("/a?b", PREFIX, "/a?b", False),
        ("/", PREFIX, "/", True),
        ("/", PREFIX, "/anything/at?all", True),
        ("/", PREFIX, "*", True),
        ("/", PREFIX, "", True),
        ("/a%20b", EXACT, "/a%20b", True),
        ("/a b", EXACT, "/a%20b", False),
        ("/v[0-9]+/.*", REGEX, "/v12/x", True),
        ("/v[0-9]+", REGEX, "/v12/x", False),
        ("v[0-9]+", REGEX, "/v12", False),
        ("/v[0-9]+", REGEX, "/v12?q=/x", True),
        ("/a|/ab", REGEX, "/ab", True),
        ("/x$", REGEX, "/x\n", False),
        ("(?i)/one", REGEX, "/ONE", True),
    ],
)
def test_paths(value: str, kind: PathKind, path: str, holds: bool) -> None:
    """Exact ones to the letter, prefixes by whole segments, regular expressions of all of it; never the query."""
    assert Matcher(on(value, kind)).holds(get(path)) is holds


def test_a_match_of_nothing_holds_for_everything() -> None:
    """Without being looked at."""
    for matcher in (ANYTHING, Matcher(Match()), Matcher(on("/")), Matcher(on(""))):
        assert matcher.anything
        assert matcher.holds(get("/x"))
        assert matcher.holds(Head.request(b"CONNECT", b"", authority=b"a:1"))
    for match in (on("/a"), Match(method="GET"), on("/", EXACT), on(".*", REGEX)):
        assert not Matcher(match).anything


@pytest.mark.parametrize(
    ("match", "prefix"),
    [
        (Match(), b""),
        (on("/"), b""),
        (on("/a/"), b"/a"),
        (on("/a/b"), b"/a/b"),
        (on("/a", EXACT), None),
        (on("/a", REGEX), None),
    ],
)
def test_a_matcher_tells_its_prefix(match: Match, prefix: bytes | None) -> None:
    """What a rewrite of the prefix replaces; None where the match is of another kind."""
    assert Matcher(match).prefix == prefix


def test_a_bad_expression_is_an_error() -> None:
    """Whoever reads routes checks them; what comes past that does not come into force."""
    with pytest.raises(ValueError):
        Matcher(on("(", REGEX))
    with pytest.raises(ValueError):
        Matcher(Match(headers=pattern("a", "[")))


# --- method, headers, query ----------------------------------------------------------------------------------------


def test_methods_are_compared_to_the_letter() -> None:
    """A method's name has a case (RFC 9110 section 9.1)."""
    matcher = Matcher(Match(method="POST"))
    assert matcher.holds(get("/", method="POST"))
    assert not matcher.holds(get("/", method="GET"))
    assert not matcher.holds(get("/", method="post"))


@pytest.mark.parametrize(
    ("headers", "fields", "holds"),
    [
        (field("version", "one"), [("version", "one")], True),
        (field("version", "one"), [("version", "two")], False),
        (field("version", "one"), [("version", "ONE")], False),
        (field("version", "one"), [("other", "one")], False),
        (field("version", "one"), [], False),
        (field("version", ""), [], False),
        (field("version", ""), [("version", "")], True),
        (field("version", "one,two"), [("version", "one"), ("a", "b"), ("version", "two")], True),
        (field("version", "two"), [("version", "one"), ("version", "two")], False),
        (field("version", "one"), [("version", "one"), ("a", "b"), ("a", "c")], True),
        (field("cookie", "a=1; b=2"), [("cookie", "a=1"), ("cookie", "b=2")], True),
        (field("name", "café"), [("name", "café")], True),
        (pattern("name", "caf."), [("name", "café")], True),
        (pattern("version", "o.*"), [("version", "one")], True),
        (pattern("version", "o"), [("version", "one")], False),
        (pattern("version", ".*"), [], False),
        (pattern("version", "a,b|c"), [("version", "a"), ("version", "b")], True),
        (field("host", "votes"), [], True),
        (field("host", "other"), [], False),
        (pattern("host", "v.*"), [], True),
        ((*field("a", "1"), *field("b", "2")), [("a", "1"), ("b", "2")], True),
        ((*field("a", "1"), *field("b", "2")), [("a", "1")], False),
    ],
)
def test_headers(headers: tuple[FieldMatch, ...], fields: list[tuple[str, str]], holds: bool) -> None:
    """All must hold; a repeated one is one value, and one that is missing is never equal to anything."""
    assert Matcher(Match(headers=headers)).holds(get("/", *fields)) is holds


def test_a_request_without_authority_has_no_host() -> None:
    """HTTP/1.0 allows it."""
    assert not Matcher(Match(headers=field("host", ""))).holds(get("/", authority=""))


def test_octets_that_are_no_text_match_no_expression() -> None:
    """A value may hold any (RFC 9110 section 5.5): an expression, which is text, matches none, and nothing fails."""
    head = Head.request(b"GET", b"/", fields=[(b"a", b"\xff\xfe")])
    assert not Matcher(Match(headers=pattern("a", ".."))).holds(head)
    assert not Matcher(Match(headers=pattern("a", "[a-z]+"))).holds(head)
    assert not Matcher(Match(headers=field("a", "ÿþ"))).holds(head)


@pytest.mark.parametrize(
    ("query", "path", "holds"),
    [
        (field("animal", "whale"), "/?animal=whale", True),
        (field("animal", "whale"), "/?animal=dolphin", False),
        (field("animal", "whale"), "/?color=blue&animal=whale", True),
        (field("animal", "whale"), "/", False),
        (field("animal", "whale"), "/?", False),
        (field("animal", "whale"), "/?Animal=whale", False),
        (field("animal", "whale"), "/?animal=whale&animal=dolphin", True),
        (field("animal", "dolphin"), "/?animal=whale&animal=dolphin", False),
        (field("animal", ""), "/?animal", True),
        (field("animal", ""), "/?animal=", True),
        (field("animal", ""), "/?x", False),
        (field("a", "1=2"), "/?a=1=2", True),
        (field("a", "1?2"), "/?a=1?2", True),
        (field("a b", "ü&c"), "/?a%20b=%C3%BC%26c", True),
        (field("a", "1+1"), "/?a=1+1", True),
        (field("a", "%zz"), "/?a=%zz", True),
        (pattern("animal", "wh.*"), "/?animal=whale", True),
        (pattern("animal", "wh"), "/?animal=whale", False),
        ((*field("a", "1"), *field("b", "2")), "/?b=2&&a=1", True),
        ((*field("a", "1"), *field("b", "2")), "/?b=2", False),
    ],
)
def test_query_parameters(query: tuple[FieldMatch, ...], path: str, holds: bool) -> None:
    """All must hold, percent-decoded; the first of those with one name counts."""
    assert Matcher(Match(query=query)).holds(get(path)) is holds


def test_all_of_a_match_must_hold() -> None:
    """Path, method, header and query parameter: without any one of them it is another request."""
    matcher = Matcher(on("/a", method="PUT", headers=field("h", "1"), query=field("q", "2")))
    assert matcher.holds(get("/a/b?q=2", ("h", "1"), method="PUT"))
    assert not matcher.holds(get("/b?q=2", ("h", "1"), method="PUT"))
    assert not matcher.holds(get("/a?q=2", ("h", "1")))
    assert not matcher.holds(get("/a?q=2", method="PUT"))
    assert not matcher.holds(get("/a?q=3", ("h", "1"), method="PUT"))


def test_heads_of_the_codec_are_matched_as_those_of_our_own() -> None:
    """Whether the head was read or remembered."""
    matcher = Matcher(on("/a", headers=(*field("x-a", "1,2"), *field("host", "votes:80"))))
    raw = b"GET /a?b HTTP/1.1\r\nHost: votes:80\r\nX-A: 1\r\nX-A: 2"
    assert matcher.holds(read_request(raw, 100)[0])
    assert matcher.holds(read_request(raw, 100)[0])


@given(st.binary(max_size=40))
def test_any_query_can_be_read(query: bytes) -> None:
    """Whatever a client sends after the `?`; and there is no query in the bare path."""
    path = b"/a?" + query
    assert bare_path(path) == b"/a"
    assert all(isinstance(value, bytes) for value in query_parameters(path).values())


# --- tables --------------------------------------------------------------------------------------------------------


def table(*matches: Match) -> Routes:
    """Routes that are named by their place."""
    return Routes(tuple(Route(name=str(rank), match=match) for rank, match in enumerate(matches)))


def found(routes: Routes, head: Head) -> int | None:
    """The place of the route that is taken."""
    route = routes.find(head)
    return None if route is None else int(route.name)


PATH_ORDER = table(
    *(on("/match/exact/one", EXACT), on("/match/exact", EXACT), on("/match", EXACT)),
    *(on("/match/prefix/one/"), on("/match/prefix/"), on("/match/")),
)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/match/exact/one", 0),
        ("/match/exact", 1),
        ("/match", 2),
        ("/match/prefix/one/any", 3),
        ("/match/prefix/any", 4),
        ("/match/any", 5),
        ("/match/exact/", 5),
        ("/match/exact/one/", 5),
        ("/match/prefix/one", 3),
        ("/match/prefix/one?x=/y", 3),
        ("/match?x", 2),
        ("/matched", None),
        ("/", None),
        ("*", None),
    ],
)
def test_exact_paths_come_before_prefixes_and_long_ones_before_short(path: str, place: int | None) -> None:
    """In the order that is given here, which is that of Gateway API."""
    assert found(PATH_ORDER, get(path)) == place


def test_the_order_given_decides() -> None:
    """Whatever kinds the paths are of: nothing is sorted here."""
    routes = table(on("/a"), on("/a/b", EXACT), on("/a/b/c"), on("/x.*", REGEX), on("/xy", EXACT), Match())
    assert found(routes, get("/a/b")) == 0
    assert found(routes, get("/a/b/c")) == 0
    assert found(routes, get("/xy")) == 3
    assert found(routes, get("/y")) == 5
    assert found(table(Match(), on("/a", EXACT)), get("/a")) == 0


def test_a_route_that_does_not_hold_lets_the_next_try() -> None:
    """Of the same path, and of less specific ones."""
    routes = table(
        on("/a", EXACT, headers=field("v", "1")),
        on("/a", EXACT, method="PUT"),
        on("/a", headers=field("v", "2")),
        on("/.*", REGEX, headers=field("v", "3")),
        Match(headers=field("v", "4")),
    )
    assert found(routes, get("/a", ("v", "1"), method="PUT")) == 0
    assert found(routes, get("/a", method="PUT")) == 1
    assert found(routes, get("/a", ("v", "2"))) == 2
    assert found(routes, get("/a", ("v", "3"))) == 3
    assert found(routes, get("/a", ("v", "4"))) == 4
    assert found(routes, get("/a")) is None


def test_no_routes_find_none() -> None:
    """Not even for what has no path."""
    assert Routes(()).find(get("/")) is None
    assert Routes(()).find(Head.request(b"CONNECT", b"", authority=b"a:1")) is None


PIECES = st.sampled_from(["", "/", "a", "b", "/a", "/b", "/a/", "//", "/a/b", "?", "/ab", "/a/b/c", "*"])
PATHS = st.one_of(st.just("*"), st.just(""), st.lists(PIECES, max_size=6).map(lambda parts: "/" + "".join(parts)))
MATCHES = st.builds(
    Match,
    path=st.one_of(
        st.none(),
        st.builds(PathMatch, PATHS, st.sampled_from([EXACT, PREFIX])),
        st.builds(PathMatch, st.sampled_from(["/a.*", "/[ab]/?", ".*", "/a/b"]), st.just(REGEX)),
    ),
    method=st.sampled_from(["", "", "", "PUT"]),
    headers=st.sampled_from([(), (), field("v", "1")]),
    query=st.sampled_from([(), (), field("a", "")]),
)
HEADS = st.builds(
    lambda path, method, fields: get(path, *fields, method=method),
    PATHS,
    st.sampled_from(["GET", "PUT"]),
    st.sampled_from([[], [("v", "1")]]),
)


@settings(max_examples=500)
@given(st.lists(MATCHES, max_size=12), st.lists(HEADS, min_size=1, max_size=5))
def test_lookup_is_the_same_as_trying_one_after_the_other(matches: list[Match], heads: list[Head]) -> None:
    """For any routes in any order, and any request."""
    routes = table(*matches)
    matchers = [Matcher(match) for match in matches]
    for head in heads:
        expected = next((rank for rank, matcher in enumerate(matchers) if matcher.holds(head)), None)
        assert found(routes, head) == expected


@given(PATHS, PATHS)
def test_prefixes_hold_segment_by_segment(value: str, path: str) -> None:
    """As a comparison of the lists of segments would say."""
    wanted = value.rstrip("/").split("/")
    seen = path.partition("?")[0].split("/")
    expected = wanted in ([""], seen[: len(wanted)])
    assert Matcher(on(value)).holds(get(path)) is expected


class Counting(dict[bytes, list[Compiled]]):
    """Counts how often it is asked."""

    asked = 0

    def get(self, key: bytes, default: object = None) -> list[Compiled] | None:  # type: ignore[override]
        """As a dict does."""
        self.asked += 1
        return super().get(key)


def test_a_long_path_costs_no_more_than_the_deepest_prefix() -> None:
    """A client that sends thousands of slashes has as many looked at as there are in the routes."""
    routes = table(on("/a/b/c"), on("/a"))
    counting = Counting(routes._prefixes)
    routes._prefixes = counting
    assert found(routes, get("/" + "x/" * 5000)) is None
    assert counting.asked == 3
    assert found(routes, get("/a/b/c" + "/x" * 5000)) == 0


# --- backends ------------------------------------------------------------------------------------------------------


def split(*weights: int) -> Compiled:
    """A route to backends of these weights, named by their place."""
    return Compiled(Route("r", backends=tuple(Backend(str(at), weight) for at, weight in enumerate(weights))))


@pytest.mark.parametrize("weights", [(), (0,), (0, 0)])
def test_without_weight_there_is_no_backend(weights: tuple[int, ...]) -> None:
    """The request fails; nothing is made up for it."""
    assert split(*weights).pick(0.5) is None


@pytest.mark.parametrize(
    ("weights", "random", "place"),
    [
        ((1,), 0.0, "0"),
        ((1,), 0.999, "0"),
        ((90, 10), 0.0, "0"),
        ((90, 10), 0.8999, "0"),
        ((90, 10), 0.9, "1"),
        ((90, 10), 0.9999, "1"),
        ((0, 1, 0), 0.0, "1"),
        ((0, 1, 0), 0.9999, "1"),
        ((1, 0, 1), 0.5, "2"),
        ((1_000_000,) * 16, 1 - 2**-53, "15"),
        ((3, 1_000_000, 0), 1 - 2**-53, "1"),
    ],
)
def test_a_backend_is_picked_by_weight(weights: tuple[int, ...], random: float, place: str) -> None:
    """The weights in order share out 0 to 1; one of 0 gets nothing, at neither end."""
    backend = split(*weights).pick(random)
    assert backend is not None
    assert backend.service == place


def test_weights_are_shares_in_the_long_run() -> None:
    """70, 30 and 0 of 10,000 requests, within 2 percent."""
    route, random = split(70, 30, 0), Random(1)
    counts = {"0": 0, "1": 0, "2": 0}
    for _ in range(10_000):
        backend = route.pick(random.random())
        assert backend is not None
        counts[backend.service] += 1
    assert abs(counts["0"] - 7000) < 200
    assert counts["2"] == 0


@given(st.lists(st.integers(0, 1_000_000), max_size=5), st.floats(0, 1, exclude_max=True))
def test_what_is_picked_has_a_weight(weights: list[int], random: float) -> None:
    """Whatever is drawn."""
    backend = split(*weights).pick(random)
    assert (backend is None) == (not any(weights))
    assert backend is None or backend.weight > 0


def test_a_backend_with_a_problem_gets_its_share() -> None:
    """Which fails: a typo does not send everything to the other."""
    route = Compiled(Route("r", backends=(Backend("a", 1), Backend("b", 1, problem="no service b"))))
    backend = route.pick(0.7)
    assert backend is not None
    assert backend.problem == "no service b"


def test_mirrors_are_drawn_each_for_itself() -> None:
    """All of the requests without a draw, none at 0, a share else."""
    route = Compiled(Route("r", mirrors=(Mirror("all"), Mirror("none", 0), Mirror("half", 50), Mirror("some", 10))))
    drawn = [0.0, 0.49, 0.1, 0.0, 0.5, 0.0999]
    draw = iter(drawn).__next__
    assert route.mirrors(draw) == ["all", "half"]
    assert route.mirrors(draw) == ["all", "some"]
    assert Compiled(Route("r")).mirrors(draw) == []


def test_a_route_says_who_it_is() -> None:
    """By its name, its place and what it was made of."""
    routes = Routes((Route("votes/0"), Route("votes/1")))
    first, second = routes.compiled
    assert repr(second) == "<Route votes/1>"
    assert (first.rank, second.rank) == (0, 1)
    assert second.route == Route("votes/1")
