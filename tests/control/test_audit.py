"""The audit log: what is in it, that it is bounded, and that it never holds anybody up."""

import json
import stat

import pytest
import trio

from mesh.control import audit
from mesh.control.audit import Audit, append
from mesh.control.routes import Answer, Refusal, Request, Route
from mesh.control.tokens import Bearer, Role
from mesh.model.api import Problem, ResourceStatus

ANN = Bearer(Role.ADMIN, "ann")
PUT = Route("PUT", "/r", "", None, audit="apply")
GET = Route("GET", "/r", "", None)
TAP = Route("GET", "/tap", "", None, audit="tap")
REQUEST = Request("PUT", "/r", source="127.0.0.1", bearer=ANN)


class Clock:
    """Seconds since the epoch, when the test says so."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def kept(tmp_path, log, clock):
    return Audit(tmp_path, log, clock=clock)


def changed(*names, result="created"):
    return Answer(200, changes=tuple(ResourceStatus("Fault", "demo", name, result=result) for name in names))


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_changes_are_noted_with_who_and_what(kept):
    """One entry for each resource that is another now; what stayed as it was is no change, and a look is none."""
    kept.done(REQUEST, PUT, changed("a", "b"))
    kept.done(REQUEST, PUT, changed("c", result="unchanged"))
    kept.done(REQUEST, GET, changed("d"))
    kept.done(Request("GET", "/tap", bearer=Bearer(Role.TAP, "bob")), TAP)
    entries = kept.recent()
    assert [(e.action, e.who, e.role, e.name, e.result) for e in entries] == [
        ("apply", "ann", "admin", "a", "created"),
        ("apply", "ann", "admin", "b", "created"),
        ("tap", "bob", "tap", "", "opened"),
    ]
    assert (entries[0].at, entries[0].source, entries[0].request) == (1000.0, "127.0.0.1", "PUT /r")
    assert (entries[0].kind, entries[0].namespace) == ("Fault", "demo")


def test_refusals_are_noted(kept):
    """Of who asked, wherever; of what was asked, only where it would have changed something."""
    stranger = Request("GET", "/api", source="10.0.0.9")
    kept.refused(stranger, None, Refusal(401, Problem("a token is needed")))
    kept.refused(REQUEST, PUT, Refusal(422, Problem("wrong")))
    kept.refused(REQUEST, GET, Refusal(404, Problem("no such")))
    found = [(e.action, e.who, e.source, e.request, e.result) for e in kept.recent()]
    assert found == [
        ("refused", "", "10.0.0.9", "GET /api", "401: a token is needed"),
        ("apply", "ann", "127.0.0.1", "PUT /r", "422: wrong"),
    ]


def test_who_knocks_without_end_fills_nothing(kept, clock):
    """Refusals over the rate are left out; the next that is noted, or a change, says how many were."""
    for _ in range(1000):
        kept.refused(Request("GET", "/"), None, Refusal(401, Problem("no")))
    assert len(kept.recent()) == audit.REFUSALS_AT_ONCE
    kept.done(REQUEST, PUT, changed("a"))
    assert kept.recent()[-1].suppressed == 1000 - audit.REFUSALS_AT_ONCE
    clock.now += 1
    for _ in range(10):
        kept.refused(Request("GET", "/"), None, Refusal(401, Problem("no")))
    assert len(kept.recent()) == audit.REFUSALS_AT_ONCE + 1 + audit.REFUSALS_PER_SECOND


async def test_everything_is_in_the_file_also_what_came_last(kept, nursery):
    """One JSON object a line, in a file of ours alone; what was noted just before the end is there too."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as writers:
            writers.start_soon(kept.run)
            kept.done(REQUEST, PUT, changed("a\nb"))
            with trio.fail_after(30):
                while not kept.path.exists() or not kept.path.read_bytes():
                    await trio.sleep(0.01)
            kept.done(REQUEST, PUT, changed("last"))
            scope.cancel()
    assert [line["name"] for line in lines(kept.path)] == ["a\nb", "last"]
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert kept.dropped == 0


async def test_a_file_that_cannot_be_written_costs_nobody_anything(kept, log):
    """It is logged once, counted, and what is in memory is shown as ever."""
    kept.path.mkdir()
    for round_ in range(3):
        kept.done(REQUEST, PUT, changed(f"r{round_}"))
        with trio.move_on_after(0.2):
            await kept.run()
    assert kept.dropped == 3
    assert [event["event"] for event in log.kept] == ["audit log cannot be written"]
    assert [entry.name for entry in kept.recent()] == ["r0", "r1", "r2"]


def test_memory_is_bounded(kept, monkeypatch):
    """Both what is shown and what waits for the disk."""
    monkeypatch.setattr(audit, "MAX_UNWRITTEN", 5)
    kept.done(REQUEST, PUT, changed(*map(str, range(audit.MAX_SHOWN + 10))))
    assert len(kept.recent()) == audit.MAX_SHOWN
    assert kept.dropped == audit.MAX_SHOWN + 5
    kept.done(REQUEST, PUT, changed("x" * 10_000))
    assert len(kept.recent()[-1].name) == audit.MAX_TEXT


def test_the_file_is_rotated_once(tmp_path, monkeypatch):
    """At its bound it makes room, and takes the place of the one before: two files at most."""
    monkeypatch.setattr(audit, "MAX_FILE", 10)
    path = tmp_path / audit.NAME
    for line in (b"first\n", b"second\n", b"third, long enough\n", b"last\n"):
        assert append(path, [line]) == ""
    assert path.read_bytes() == b"last\n"
    assert (tmp_path / "audit.jsonl.1").read_bytes() == b"third, long enough\n"


def test_a_link_is_not_followed(tmp_path):
    """Somebody else's file is not ours to write to."""
    target = tmp_path / "target"
    target.write_text("")
    (tmp_path / audit.NAME).symlink_to(target)
    assert append(tmp_path / audit.NAME, [b"x\n"])
    assert target.read_text() == ""


async def test_what_happens_over_the_api_is_in_it(plane, until):
    """Applied, deleted, a tap, a stranger: each with who it was, for admins, and in the state folder."""
    policy = """{apiVersion: conduit.mesh/v1alpha1, kind: TrafficPolicy,
                 metadata: {name: p, namespace: demo}, spec: {service: words}}"""
    async with plane.client() as client:
        assert (await client.put("/api/v1/resources", content=policy)).status_code == 200
        assert (await client.put("/api/v1/resources", content="nonsense: [")).status_code == 422
        assert (await client.delete("/api/v1/resources/TrafficPolicy/demo/p")).status_code == 200
        assert (await client.get("/api/v1/stat", headers={"Authorization": "Bearer no"})).status_code == 401
    async with plane.websocket("/api/v1/tap/watch"):
        entries = await plane.get("/api/v1/audit")
    assert [(e["action"], e["who"], e["result"].partition(":")[0]) for e in entries] == [
        ("apply", "admin", "created"),
        ("apply", "admin", "422"),
        ("delete", "admin", "deleted"),
        ("refused", "", "401"),
        ("tap", "admin", "opened"),
    ]
    assert {e["source"] for e in entries} == {"127.0.0.1"}

    async def written():
        path = plane.state / audit.NAME
        return path.exists() and len(lines(path)) == len(entries)

    await until(written)
