"""What is known of one proxy."""

import pytest

from mesh.control.cluster import ServiceKey
from mesh.control.link import MAX_WAITING, Known, Link
from mesh.control.speech import Malformed
from mesh.model.push import Heartbeat, Hello


def test_subscriptions_and_what_is_due():
    """A name is due once when it is asked for, in the order of asking, and forgotten whole."""
    link = Link(Hello("web", "demo", "web/h/1", "0.1", admin="a", inbound=("i",), outbound=("o",)))
    for name in ("words", "votes.other", "words", "a.b.c"):
        link.subscribe(name)
    assert link.subscriptions == {
        "words": ServiceKey("demo", "words"),
        "votes.other": ServiceKey("other", "votes"),
        "a.b.c": None,
    }
    assert list(link.dirty) == ["words", "votes.other", "a.b.c"]
    assert link.wake.is_set()
    link.nacks["words"] = "no"
    link.unsubscribe("words")
    assert ("words" in link.dirty, "words" in link.nacks, "words" in link.subscriptions) == (False, False, False)
    info = link.info()
    assert (info.proxy, info.subscriptions, info.inbound, info.outbound) == (
        "web/h/1",
        ("a.b.c", "votes.other"),
        ("i",),
        ("o",),
    )


def test_an_overlong_name_is_malformed():
    """A name may be wrong, but not endless."""
    link = Link(Hello("web", "demo", "web/h/1", "0.1"))
    link.subscribe("x" * 1000)
    with pytest.raises(Malformed):
        link.subscribe("x" * 2000)


def test_what_waits_to_be_sent_is_bounded():
    """A proxy that takes nothing gets no more to take; who asked is told so."""
    link = Link(Hello("web", "demo", "web/h/1", "0.1"))
    assert all(link.send(Heartbeat(n)) for n in range(MAX_WAITING))
    assert link.wake.is_set()
    assert not link.send(Heartbeat(0))
    assert [message.version for message in link.waiting] == list(range(MAX_WAITING))


def test_certificates_come_at_a_rate():
    """A few at once and then two a second; to ask in vain costs nothing."""
    link = Link(Hello("web", "demo", "web/h/1", "0.1"))
    assert [link.may_sign(100.0) for _ in range(8)] == [True] * 5 + [False] * 3
    assert [link.may_sign(100.4), link.may_sign(100.6), link.may_sign(100.6)] == [False, True, False]
    assert sum(link.may_sign(1000.0) for _ in range(20)) == 5


def test_a_resync_makes_everything_due():
    """Names and settings, whatever was sent."""
    link = Link(Hello("web", "demo", "web/h/1", "0.1"))
    link.subscribe("words")
    link.dirty.clear()
    link.settings = Known("roots")
    link.resync()
    assert (list(link.dirty), link.settings) == (["words"], None)


def test_its_account_is_the_tokens_or_its_own():
    """Who comes by hand, with the admin's token, is its workload."""
    hello = Hello("web", "demo", "web/h/1", "0.1")
    assert [Link(hello, account).account for account in ("", "front")] == ["web", "front"]
