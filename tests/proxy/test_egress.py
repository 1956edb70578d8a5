"""What may be called outside of the mesh: names, addresses in all spellings, ports, and which rule decides."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.authorization import Action, Destination, Egress, EgressRule
from mesh.proxy.egress import Gate, called

EVERYTHING = (Destination(),)


def gate(*rules: tuple[Action, Destination], default: Action = Action.DENY, default_from: str = "") -> Gate:
    """A gate with rules named n/0, n/1, ..."""
    told = tuple(EgressRule(f"n/{index}", action, (to,)) for index, (action, to) in enumerate(rules))
    return Gate(Egress(default, default_from, told))


@pytest.mark.parametrize(
    ("destination", "host", "port", "matches"),
    [
        (Destination(), "x.example", 443, True),
        (Destination(), "10.0.0.1", 443, True),
        (Destination(hosts=("x.example",)), "x.example", 443, True),
        (Destination(hosts=("X.example.",)), "x.EXAMPLE", 443, True),
        (Destination(hosts=("x.example",)), "x.example.", 443, True),
        (Destination(hosts=("x.example",)), "y.x.example", 443, False),
        (Destination(hosts=("*.x.example",)), "y.x.example", 443, True),
        (Destination(hosts=("*.x.example",)), "z.y.x.example", 443, True),
        (Destination(hosts=("*.x.example",)), "x.example", 443, False),
        (Destination(hosts=("*.x.example",)), "yx.example", 443, False),
        (Destination(hosts=("x.example",)), "10.0.0.1", 443, False),
        (Destination(networks=("10.0.0.0/8",)), "10.0.0.1", 443, True),
        (Destination(networks=("10.0.0.0/8",)), "11.0.0.1", 443, False),
        (Destination(networks=("10.0.0.0/8",)), "x.example", 443, False),
        (Destination(networks=("10.0.0.0/8",)), "::ffff:10.0.0.1", 443, True),
        (Destination(networks=("fd00::/8",)), "[fd00::1]", 443, True),
        (Destination(networks=("127.0.0.0/8",)), "2130706433", 443, True),
        (Destination(networks=("127.0.0.0/8",)), "0x7f.1", 443, True),
        (Destination(networks=("127.0.0.0/8",)), "0177.0.0.1", 443, True),
        (Destination(networks=("127.0.0.0/8",)), "127.1", 443, True),
        (Destination(hosts=("x.example",), networks=("10.0.0.0/8",)), "x.example", 443, True),
        (Destination(hosts=("x.example",), networks=("10.0.0.0/8",)), "10.0.0.1", 443, True),
        (Destination(ports=(443,)), "x.example", 443, True),
        (Destination(ports=(443,)), "x.example", 80, False),
        (Destination(hosts=("x.example",), ports=(443, 8443)), "x.example", 8443, True),
        (Destination(hosts=("x.example",), ports=(443, 8443)), "y.example", 8443, False),
    ],
)
def test_destinations(destination, host, port, matches):
    """By name or by address, and by port."""
    assert gate((Action.ALLOW, destination)).judge(host, port).allowed is matches
    assert gate((Action.DENY, destination), default=Action.ALLOW).judge(host, port).allowed is not matches


@pytest.mark.parametrize("host", ["x.example", "beef.cafe", "1.example", "0xg", "", "a..b", "1.2.3.4.5", "999.1.1.1"])
def test_names_are_no_addresses(host):
    """Only what resolvers take for an address is one."""
    assert called(host)[1] is None


@pytest.mark.parametrize("default", Action)
@pytest.mark.parametrize("source", ["", "shop/word"])
def test_the_default(default, source):
    """It decides where no rule does, and is named by its resource where that says so."""
    decision = gate(default=default, default_from=source).judge("x.example", 443)
    by = source or f"default:{default}"
    noted = by if default is Action.AUDIT else ""
    assert (decision.allowed, decision.by, decision.audited) == (default is not Action.DENY, by, noted)
    assert "x.example:443" in decision.why


def test_the_order():
    """Deny goes before the others, wherever it stands; what is noted is noted whatever is decided."""
    both = gate((Action.AUDIT, Destination()), (Action.ALLOW, Destination()), (Action.DENY, Destination(ports=(25,))))
    allowed, denied = both.judge("x.example", 443), both.judge("x.example", 25)
    assert (allowed.allowed, allowed.by, allowed.audited) == (True, "n/0", "n/0")
    assert (denied.allowed, denied.by, denied.audited) == (False, "n/2", "n/0")
    assert denied.why == "n/2 denies x.example:25, which is outside of the mesh"


def test_an_audit_rule_allows():
    """Outside of the mesh it is a rule like Allow, that is noted as well."""
    decision = gate((Action.AUDIT, Destination(hosts=("x.example",)))).judge("x.example", 443)
    assert (decision.allowed, decision.by, decision.audited) == (True, "n/0", "n/0")


def test_a_rule_without_destinations_is_for_everything():
    """An EgressPolicy without `to`."""
    assert not Gate(Egress(rules=(EgressRule("n/all", Action.DENY),))).judge("x.example", 1).allowed


def test_trivial():
    """Only with no rule and the default Allow may it be skipped."""
    assert gate(default=Action.ALLOW).trivial
    assert not gate(default=Action.AUDIT).trivial
    assert not gate((Action.ALLOW, Destination()), default=Action.ALLOW).trivial


def test_what_cannot_be_compiled():
    """A network that is none."""
    with pytest.raises(ValueError, match="nonsense"):
        gate((Action.DENY, Destination(networks=("nonsense",))))


@given(st.text(max_size=30), st.integers(1, 65535))
def test_any_host_is_decided(host, port):
    """Nothing that a client may write as a host makes it fail, and a gate that denies everything does."""
    assert not gate((Action.ALLOW, Destination(hosts=("x.example",)))).judge(host.replace("x", ""), port).allowed
