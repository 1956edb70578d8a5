"""Identities: two spellings of one name, what a certificate proves, and what a pattern means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.identity import Identity, matches, parse, proven

WEB = Identity("web", "demo")
DNS = "web.demo.serviceaccount.identity.cluster.local"
URI = "spiffe://cluster.local/ns/demo/sa/web"


def test_two_spellings():
    """Both name the same, and each is made of it."""
    assert parse(DNS) == parse(URI) == parse(DNS.upper()) == WEB
    assert (str(WEB), WEB.uri) == (DNS, URI)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "web.demo",
        "web.demo.serviceaccount.identity.",
        "a.web.demo.serviceaccount.identity.cluster.local",
        f"{DNS}.",
        f" {DNS}",
        f"{DNS}\n",
        f"*.{DNS}",
        "spiffe://cluster.local/ns/demo/sa/web/",
        "spiffe://cluster.local/ns/demo/sa/",
        "spiffe://Cluster.local/ns/demo/sa/web",
        "SPIFFE://cluster.local/ns/demo/sa/web",
        "spiffe://cluster.local/sa/web/ns/demo",
        f"web.demo.serviceaccount.identity.{'x.' * 120}local",
    ],
)
def test_what_is_none(text):
    """Neither spelling, or too long for a name of DNS."""
    assert parse(text) is None


def test_what_a_certificate_proves():
    """One identity, in one spelling or both; never one of several."""
    assert proven((DNS, URI, "localhost")) == WEB
    assert proven(("localhost", "127.0.0.1")) is None
    assert proven((DNS, "spiffe://cluster.local/ns/demo/sa/other")) is None


@pytest.mark.parametrize(
    ("pattern", "holds"),
    [
        ("*", True),
        (DNS, True),
        (DNS.upper(), True),
        (URI, True),
        ("*.cluster.local", True),
        ("*.DEMO.serviceaccount.identity.cluster.local", True),
        (f"*.{DNS}", False),
        ("*.emo.serviceaccount.identity.cluster.local", False),
        ("other.demo.serviceaccount.identity.cluster.local", False),
        ("", False),
    ],
)
def test_patterns(pattern, holds):
    """Anybody, all below a name, or one; in either spelling and any case."""
    assert matches(pattern, DNS) is holds
    assert not matches(pattern, "")


LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,20}[a-z0-9])?", fullmatch=True)


@given(LABELS, LABELS, st.lists(LABELS, min_size=1, max_size=3))
def test_every_identity_is_read_again(account, namespace, domain):
    """Whatever the names, as long as they are names."""
    identity = Identity(account, namespace, ".".join(domain))
    assert parse(identity.uri) == identity
    assert parse(str(identity)) == identity
