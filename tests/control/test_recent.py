"""Requests that were tapped lately, by id."""

from msgspec.structs import replace

from mesh.control.cluster import ServiceKey
from mesh.control.recent import Recent
from mesh.model.reports import TapEvent

WEB, SHOP = ServiceKey("demo", "web"), ServiceKey("shop", "web")
REQ = TapEvent("req", "3:1", "out", "web", "127.0.0.1:5", "", "disabled", at=10.0)
END = replace(
    REQ, event="end", status=403, error="denied", outcome="denied", dst="10.0.0.1:80", policy="demo/p", at=11.0
)


def test_what_became_of_a_request():
    """Its head, and what its last event says."""
    recent = Recent()
    recent.add(WEB, REQ)
    assert recent.find("web", "3:1")[0].happened().status == 0
    recent.add(WEB, END)
    recent.add(WEB, REQ)  # from another tap
    [tapped] = recent.find("web.demo", "3:1")
    happened = tapped.happened()
    assert (happened.status, happened.policy, happened.endpoint, happened.at) == (403, "demo/p", "10.0.0.1:80", 10.0)
    assert tapped.head == REQ
    assert recent.find("web", "3:3") == recent.find("words", "3:1") == []


def test_an_id_that_is_used_again_is_the_new_request():
    """The old one's end is not taken for its own."""
    recent = Recent()
    recent.add(WEB, REQ)
    recent.add(WEB, END)
    recent.add(WEB, replace(REQ, path="/new", at=20.0))
    [tapped] = recent.find("web", "3:1")
    assert (tapped.head.path, tapped.happened().status) == ("/new", 0)


def test_namespaces_are_told_apart():
    """A bare name may mean several."""
    recent = Recent()
    recent.add(WEB, REQ)
    recent.add(SHOP, REQ)
    assert {tapped.workload for tapped in recent.find("web", "3:1")} == {WEB, SHOP}
    assert [tapped.workload for tapped in recent.find("web.shop", "3:1")] == [SHOP]


def test_the_oldest_goes():
    """Events of one that is forgotten are forgotten too."""
    recent = Recent(2)
    for number in range(3):
        recent.add(WEB, replace(REQ, id=f"1:{number}"))
    recent.add(WEB, replace(END, id="1:0"))
    assert repr(recent) == "<Recent 2 of 2>"
    assert recent.find("web", "1:0") == []
