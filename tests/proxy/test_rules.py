"""Rules, compiled: peers and operations one at a time; what they come to together is in test_authorize.py."""

from ipaddress import ip_address

import pytest

from mesh.model.authorization import Action, Operation, Rule, Source
from mesh.model.identity import parse
from mesh.proxy.rules import CompiledOperation, CompiledRule, CompiledSource, Peer, address_of, networks, within

WEB = "web.shop.serviceaccount.identity.cluster.local"


def peer(name: str = WEB, address: str = "10.0.0.7") -> Peer:
    """Somebody who calls."""
    return Peer(parse(name), name, address_of(address), "")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        (Source(), "is anybody"),
        (Source(identities=("*",)), f"is {WEB}"),
        (Source(identities=("spiffe://cluster.local/ns/shop/sa/web",)), f"is {WEB}"),
        (Source(identities=(WEB.upper(),)), f"is {WEB}"),
        (Source(identities=("*.SHOP.serviceaccount.identity.cluster.local",)), f"is {WEB}"),
        (Source(identities=("*.op.serviceaccount.identity.cluster.local",)), ""),
        (Source(namespaces=("a", "shop")), "is of namespace shop"),
        (Source(namespaces=("sho",)), ""),
        (Source(networks=("10.0.0.0/8",)), "is in 10.0.0.0/8"),
        (Source(networks=("10.0.0.7",)), "is in 10.0.0.7/32"),
        (Source(networks=("11.0.0.0/8", "::/0")), ""),
        (Source(("*",), ("shop",), ("10.0.0.0/8",)), f"is {WEB} and is of namespace shop and is in 10.0.0.0/8"),
        (Source(("*",), ("other",), ("10.0.0.0/8",)), ""),
    ],
)
def test_sources(source, said):
    """All that is not empty must hold, of several values one; the phrase names what did."""
    assert CompiledSource(source).match(peer()) == said


def test_a_suffix_needs_something_in_front():
    """`*.shop...` is all below it: neither itself nor what merely ends with the same letters."""
    source = CompiledSource(Source(identities=(f"*.{WEB}",)))
    assert source.match(peer()) == ""
    assert CompiledSource(Source(identities=("*.hop.serviceaccount.identity.cluster.local",))).match(peer()) == ""


def test_without_identity():
    """Nobody is not `*`, nor of a namespace."""
    nobody = peer("", "10.0.0.7")
    assert CompiledSource(Source(identities=("*",))).match(nobody) == ""
    assert CompiledSource(Source(namespaces=("shop",))).match(nobody) == ""
    assert CompiledSource(Source(networks=("10.0.0.0/8",))).match(nobody) == "is in 10.0.0.0/8"


def test_a_rule_is_for_any_of_its_sources():
    """One is enough, the first that matches is told; none at all is everybody."""
    assert CompiledRule(Rule("a/b")).match(peer()) == "is anybody"
    several = Rule("a/b", sources=(Source(namespaces=("x",)), Source(networks=("10.0.0.0/8",)), Source(("*",))))
    assert CompiledRule(several).match(peer()) == "is in 10.0.0.0/8"


def test_who_asks_to_be_denied():
    """Operations of a Deny rule are wide, those of other rules are not."""
    operations = (Operation(methods=("PUT",)),)
    for action in Action:
        compiled = CompiledRule(Rule("a/b", action, operations=operations))
        assert compiled.operations[0].holds(b"put", b"/", False) is (action is Action.DENY)


@pytest.mark.parametrize(
    ("operation", "text"),
    [
        (Operation(("GET", "HEAD"), ("/a", "/b/*")), "GET, HEAD /a, /b/*"),
        (Operation(grpc_methods=("a.B/*",)), "gRPC a.B/*"),
        (Operation(), "all operations"),
    ],
)
def test_operations_in_words(operation, text):
    """As people write them."""
    assert CompiledOperation(operation, False).text == text


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("::1", "::1"),
        ("x", None),
        ("", None),
    ],
)
def test_address_of(text, address):
    """One address has one form."""
    assert address_of(text) == (ip_address(address) if address else None)


def test_within():
    """The first block that holds an address; none for an address that is not known."""
    blocks = networks(("10.0.0.0/8", "10.1.0.0/16", "::/0"))
    assert str(within(address_of("10.1.0.1"), blocks)) == "10.0.0.0/8"
    assert str(within(address_of("fd00::1"), blocks)) == "::/0"
    assert within(address_of("11.0.0.1"), blocks) is None
    assert within(None, blocks) is None
