"""What is known of one proxy."""

import pytest

from mesh.control.cluster import ServiceKey
from mesh.control.link import Link
from mesh.control.speech import Malformed
from mesh.model.push import Hello


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
