"""Seen traffic: rows that add up, in bounded room, told with their filters."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.cluster import ServiceKey
from mesh.control.routes import Refusal, Request
from mesh.control.seen import MAX_NAMES, OTHERS, SeenApi, SeenTraffic
from mesh.model.api import SeenRow
from mesh.model.reports import Seen

VOTES = ServiceKey("demo", "votes")
WEB = "web.demo.serviceaccount.identity.cluster.local"


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def seen(path="/things", *, allowed=True, by="demo/web", audited="", count=1, identity=WEB, method="GET", example=""):
    return Seen("votes", identity, "", "http", method, path, example or path, allowed, by, audited, count)


def test_a_kind_is_one_row_that_adds_up():
    """Whichever proxy tells of it, whatever was decided: who, what and where make the row."""
    clock = Clock()
    traffic = SeenTraffic(clock=clock)
    traffic.add(VOTES, "votes-v1", seen(count=3, example="/things"))
    clock.now = 1010.0
    traffic.add(VOTES, "votes-v2", seen(count=2, audited="demo/watch", example="/else"))
    traffic.add(VOTES, "votes-v1", seen(count=4, allowed=False, by="default:deny"))
    assert list(traffic.rows()) == [
        SeenRow(
            namespace="demo",
            service="votes",
            identity=WEB,
            source="",
            protocol="http",
            method="GET",
            path="/things",
            example="/things",
            requests=9,
            allowed={"demo/web": 5},
            denied={"default:deny": 4},
            audited={"demo/watch": 2},
            workloads={"votes-v1": 7, "votes-v2": 2},
            first=1000.0,
            last=1010.0,
        )
    ]


def test_rows_are_found_by_service_namespace_and_time():
    """A service by its name or in full; `since` looks at when it was seen last."""
    clock = Clock()
    traffic = SeenTraffic(clock=clock)
    traffic.add(VOTES, "v", seen("/old"))
    clock.now = 2000.0
    traffic.add(ServiceKey("other", "votes"), "v", seen("/new"))
    traffic.add(ServiceKey("demo", "words"), "w", seen("/words"))
    assert [row.path for row in traffic.rows(service="votes")] == ["/old", "/new"]
    assert [row.path for row in traffic.rows(service="votes.demo")] == ["/old"]
    assert [row.path for row in traffic.rows(namespace="demo")] == ["/old", "/words"]
    assert [row.path for row in traffic.rows(since=1500.0)] == ["/words", "/new"]


def test_what_was_silent_for_longest_makes_room():
    """Beyond the bound the oldest row goes; one that is seen again is not old."""
    traffic = SeenTraffic(max_rows=3)
    for path in ("/a", "/b", "/c", "/a", "/d"):
        traffic.add(VOTES, "v", seen(path))
    assert [row.path for row in traffic.rows()] == ["/a", "/c", "/d"]
    assert traffic.forgotten == 1


def test_a_scanned_service_pushes_nobody_out():
    """One service fills its own share alone."""
    traffic = SeenTraffic(max_rows=10, max_of_service=4)
    traffic.add(ServiceKey("demo", "words"), "w", seen("/words"))
    for number in range(50):
        traffic.add(VOTES, "v", seen(f"/{number}"))
    assert [row.path for row in traffic.rows()] == ["/46", "/47", "/48", "/49", "/words"]


def test_a_row_has_bounded_names():
    """Policies come and go by the thousand; their counts are kept together beyond the bound."""
    traffic = SeenTraffic()
    for number in range(MAX_NAMES + 5):
        traffic.add(VOTES, f"w{number}", seen(by=f"demo/p{number}", count=2))
    [row] = traffic.rows()
    assert len(row.allowed) == len(row.workloads) == MAX_NAMES + 1
    assert row.allowed[OTHERS] == row.workloads[OTHERS] == 10
    assert row.requests == 2 * (MAX_NAMES + 5)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 8), st.integers(0, 5), st.booleans()), max_size=80),
)
def test_bounds_hold_whatever_comes(adds):
    """Never more rows than allowed, in all and of a service; what is kept has what was counted since it was kept."""
    traffic = SeenTraffic(max_rows=6, max_of_service=3)
    for service, path, count, allowed in adds:
        traffic.add(ServiceKey("demo", service), "w", seen(f"/{path}", count=count, allowed=allowed))
        rows = list(traffic.rows())
        assert len(rows) <= 6
        assert all(sum(row.service == name for row in rows) <= 3 for name in "abc")
        newest = next(row for row in rows if (row.service, row.path) == (service, f"/{path}"))
        assert newest.requests >= count
        assert sorted(traffic._of) == sorted({ServiceKey("demo", row.service) for row in rows})


async def test_the_api_answers_rows():
    """All filters, and what is no number is refused."""
    clock = Clock()
    traffic = SeenTraffic(clock=clock)
    traffic.add(VOTES, "v", seen("/old"))
    clock.now = 2000.0
    traffic.add(VOTES, "v", seen("/new"))
    api = SeenApi(traffic, clock=clock)
    [route] = api.routes()
    assert (route.method, route.path) == ("GET", "/api/v1/seen")

    async def ask(**query):
        body = (await api.seen(Request("GET", route.path, query))).body
        return [row.path for row in msgspec.json.decode(body, type=list[SeenRow])]

    assert await ask() == ["/new", "/old"]
    assert await ask(since="60") == ["/new"]
    assert await ask(service="words") == await ask(namespace="other") == []
    assert await ask(service="votes.demo", namespace="demo", since="60") == ["/new"]
    with pytest.raises(Refusal):
        await ask(since="soon")
