"""Policies put together: for whom each is, which default counts, who is asked, and how a policy fares."""

import datetime

import pytest

from mesh.model.authorization import (
    Action,
    Authorization,
    Authorizer,
    Default,
    Egress,
    EgressRule,
    Operation,
    Strictness,
)
from mesh.model.compose_access import authorization, conditions, egress, inline, inline_egress, probes
from mesh.model.config import ControlLink, InboundListener, ProxyConfig, ProxyIdentity
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    EgressPolicy,
    EgressPolicySpec,
    EntryPoint,
    ExternalAuthorizer,
    Metadata,
    PolicyPlugin,
    PolicyPluginSpec,
    Target,
    TargetKind,
)
from mesh.model.traffic import HealthCheck, HealthKind

MESH, SHOP = Target(TargetKind.MESH), Target(TargetKind.NAMESPACE)
CART, V1 = Target(TargetKind.SERVICE, "cart"), Target(TargetKind.WORKLOAD, "cart-v1")


def meta(name: str, namespace: str = "shop", year: int = 0) -> Metadata:
    """`year` says when it was made."""
    created = datetime.datetime(year, 1, 1, tzinfo=datetime.UTC) if year else None
    return Metadata(name, namespace, created=created)


def policy(name: str, target: Target, namespace: str = "shop") -> AuthorizationPolicy:
    """One that allows everything."""
    return AuthorizationPolicy(meta(name, namespace), AuthorizationPolicySpec(target))


def word(name: str, target: Target, namespace: str = "shop", year: int = 0, **says) -> DefaultPolicy:
    """A DefaultPolicy."""
    return DefaultPolicy(meta(name, namespace, year), DefaultPolicySpec(target, **says))


def leaving(name: str, target: Target, namespace: str = "shop") -> EgressPolicy:
    """An EgressPolicy."""
    return EgressPolicy(meta(name, namespace), EgressPolicySpec(target))


def plugin(name: str, service: str, target: Target, namespace: str = "shop", **says) -> PolicyPlugin:
    """An external authoriser."""
    spec = PolicyPluginSpec(target, authorizer=ExternalAuthorizer(service, **says))
    return PolicyPlugin(meta(name, namespace), spec)


def told(namespace: str = "shop", service: str = "cart", workload: str = "cart-v1", **resources) -> Authorization:
    """What a proxy is told."""
    return authorization(namespace, service, workload, **resources)


@pytest.mark.parametrize(
    ("target", "home", "holds"),
    [
        (MESH, "conduit", True),
        (MESH, "shop", False),
        (SHOP, "shop", True),
        (SHOP, "conduit", False),
        (CART, "shop", True),
        (CART, "other", False),
        (Target(TargetKind.SERVICE, "cart-v1"), "shop", False),
        (V1, "shop", True),
        (V1, "other", False),
        (Target(TargetKind.WORKLOAD, "cart"), "shop", False),
    ],
)
def test_targets(target, home, holds):
    """A policy is for what it names, in its own namespace; the mesh's are of the namespace `conduit`."""
    assert bool(told(policies=[policy("p", target, home)]).rules) is holds
    assert bool(egress("shop", "cart-v1", ["cart"], policies=[leaving("p", target, home)]).rules) is holds
    assert (told(defaults=[word("p", target, home, inbound=Default.DENY)]).default is Default.DENY) is holds


def test_rules_are_sorted_by_name():
    """However near they aim, and in whatever order they come: the same state is told alike."""
    found = [policy("b", V1), policy("a", CART), policy("z", MESH, "conduit")]
    assert [each.name for each in told(policies=found).rules] == ["conduit/z", "shop/a", "shop/b"]
    assert told(policies=found) == told(policies=reversed(found))


def test_the_nearest_word_counts_field_by_field():
    """What the workload's does not say, the service's does; and so on."""
    found = [
        word(
            "m",
            MESH,
            "conduit",
            inbound=Default.DENY,
            tls=Strictness.STRICT,
            egress=Action.DENY,
            networks=("1.0.0.0/8",),
        ),
        word("n", SHOP, tls=Strictness.PERMISSIVE, egress=Action.AUDIT),
        word("s", CART, inbound=Default.AUDIT),
        word("w", V1, networks=("2.0.0.0/8",)),
    ]
    mine = told(defaults=found)
    assert (mine.default, mine.default_from, mine.strictness, mine.networks) == (
        Default.AUDIT,
        "shop/s",
        Strictness.PERMISSIVE,
        ("2.0.0.0/8",),
    )
    assert egress("shop", "cart-v1", ["cart"], defaults=found) == Egress(Action.AUDIT, "shop/n")
    others = told("other", "x", "y", defaults=found)
    assert (others.default, others.default_from, others.strictness) == (Default.DENY, "conduit/m", Strictness.STRICT)


def test_of_equals_the_oldest_counts():
    """Then the first by name."""
    young, old = word("a", SHOP, inbound=Default.DENY, year=2020), word("b", SHOP, inbound=Default.AUDIT, year=2010)
    assert told(defaults=[young, old]).default_from == "shop/b"
    assert told(
        defaults=[word("b", SHOP, inbound=Default.DENY), word("a", SHOP, inbound=Default.AUDIT)]
    ).default_from == ("shop/a")


def test_nothing_said():
    """Then everything is as the mesh has it, or as proxy.yaml says."""
    assert told() == Authorization()
    assert told(otherwise=Default.DENY, trust_domain="x") == Authorization(Default.DENY, trust_domain="x")
    written = Egress(Action.DENY, rules=(EgressRule("here"),))
    assert egress("shop", "w", otherwise=written) == written


@pytest.mark.parametrize(
    ("health", "operations"),
    [
        (None, ()),
        (HealthCheck(kind=HealthKind.TCP), ()),
        (HealthCheck(path="/h?x=1"), (Operation(("GET", "HEAD"), ("/h",)),)),
        (HealthCheck(path="/h*"), (Operation(("GET", "HEAD"), ("/h%2A",)),)),
        (HealthCheck(kind=HealthKind.GRPC), (Operation(grpc_methods=("grpc.health.v1.Health/Check",)),)),
    ],
)
def test_probes(health, operations):
    """What the mesh asks of an application is what it may be asked, and no more."""
    assert probes(health) == told(health=health).probes == operations


# --- authorisers -------------------------------------------------------------------------------------------------


def test_an_authorizer_is_named_as_the_asking_namespace_does():
    """`authz` of the namespace `ops` is `authz.ops` to others; an address stays one."""
    external = plugin("p", "authz", MESH, "conduit", headers=("X-A", "x-a", "B"), cache=1.0, fail_open=True)
    assert told(plugins=[external]).authorizers == (
        Authorizer("conduit/p", "authz.conduit", fail_open=True, headers=("x-a", "b"), cache=1.0),
    )
    assert told(plugins=[plugin("p", "authz.shop.svc.cluster.local", SHOP)]).authorizers[0].service == "authz"
    assert told(plugins=[plugin("p", "authz.ops", SHOP)]).authorizers[0].service == "authz.ops"
    assert told(plugins=[plugin("p", "127.0.0.1:9", SHOP)]).authorizers[0].service == "127.0.0.1:9"


def test_a_plugin_in_python_is_nobody_to_ask():
    """It has written its policies already."""
    python = PolicyPlugin(meta("p"), PolicyPluginSpec(SHOP, python=EntryPoint("a:b")))
    assert told(plugins=[python]).authorizers == ()


def test_an_authorizer_does_not_guard_itself():
    """To ask it whether it may be asked has no end; others of its namespace are guarded."""
    guard = plugin("p", "authz", SHOP)
    assert told(service="authz", workload="authz", plugins=[guard]).authorizers == ()
    assert len(told(plugins=[guard]).authorizers) == 1


def test_authorizers_do_not_guard_each_other():
    """Nor over others; one that is guarded by a third, which nobody guards, is."""
    ring = [plugin("p", "a", SHOP), plugin("q", "b", SHOP)]
    assert told(service="a", plugins=ring).authorizers == told(service="b", plugins=ring).authorizers == ()
    assert len(told(plugins=ring).authorizers) == 2
    chain = [plugin("p", "a", CART), plugin("q", "b.other", Target(TargetKind.SERVICE, "a"))]
    assert [each.name for each in told(service="a", workload="a", plugins=chain).authorizers] == ["shop/q"]
    back = plugin("r", "a.shop", Target(TargetKind.WORKLOAD, "b-v1"), "other")
    assert told(service="a", workload="a", plugins=[*chain, back]).authorizers == ()


# --- proxy.yaml --------------------------------------------------------------------------------------------------


def test_inline():
    """Resources hold for the listener that names their service, in the namespace `default`."""
    mine = [policy("p", CART, "default"), policy("q", Target(TargetKind.SERVICE, "till"), "default")]
    listener = InboundListener("127.0.0.1:0", "127.0.0.1:1", service="cart", policy=Default.DENY)
    link = ControlLink("https://x:1", "t", "cart-v1")
    config = ProxyConfig(inbound=(listener,), control=link, identity=ProxyIdentity("a", trust_domain="mesh.example"))
    found = inline(config, listener, mine, HealthCheck(path="/h"))
    assert [each.name for each in found.rules] == ["default/p"]
    assert (found.default, found.trust_domain, found.probes) == (
        Default.DENY,
        "mesh.example",
        probes(HealthCheck(path="/h")),
    )
    elsewhere = InboundListener("127.0.0.1:0", "127.0.0.1:1", service="cart.shop")
    assert inline(ProxyConfig(), elsewhere, [policy("p", CART)]).rules
    nameless = InboundListener("127.0.0.1:0", "127.0.0.1:1")
    everything = [*mine, policy("n", SHOP, "default"), policy("w", V1, "default")]
    assert [each.name for each in inline(config, nameless, everything).rules] == ["default/n", "default/w"]


def test_inline_egress():
    """What `egress` says and what the resources say add up."""
    listener = InboundListener("127.0.0.1:0", "127.0.0.1:1", service="cart")
    config = ProxyConfig(inbound=(listener,), egress=Egress(Action.DENY, rules=(EgressRule("here"),)), name="cart-v1")
    found = [leaving("a", CART, "default"), leaving("b", V1, "default"), leaving("c", SHOP)]
    assert inline_egress(config, found) == Egress(
        Action.DENY, rules=(EgressRule("here"), EgressRule("default/a"), EgressRule("default/b"))
    )
    assert inline_egress(ProxyConfig(), [leaving("n", SHOP, "default")]).rules == (EgressRule("default/n"),)


# --- conditions --------------------------------------------------------------------------------------------------


def fares(resource, defaults=()) -> list[tuple[str, bool, str]]:
    """Its conditions, where there are a service `cart` and a workload `cart-v1`."""
    found = conditions(
        resource,
        defaults=defaults,
        exists=lambda *key: key == ("shop", "cart"),
        works=lambda *key: key == ("shop", "cart-v1"),
    )
    return [(each.type, each.status, each.reason) for each in found]


def test_conditions():
    """A target must be there; an authoriser too."""
    fine = ("Accepted", True, "Accepted")
    for target in (CART, V1, SHOP):
        assert fares(policy("p", target)) == fares(leaving("p", target)) == [fine]
    for target in (Target(TargetKind.SERVICE, "till"), Target(TargetKind.WORKLOAD, "cart")):
        assert fares(policy("p", target)) == [("Accepted", False, "TargetNotFound")]
    assert fares(policy("p", CART, "other")) == [("Accepted", False, "TargetNotFound")]
    assert fares(plugin("p", "cart", SHOP)) == [fine, ("ResolvedRefs", True, "ResolvedRefs")]
    assert fares(plugin("p", "127.0.0.1:9", SHOP)) == [fine, ("ResolvedRefs", True, "ResolvedRefs")]
    assert fares(plugin("p", "authz", SHOP)) == [fine, ("ResolvedRefs", False, "BackendNotFound")]


def test_a_default_that_does_not_count_says_so():
    """The older one is named, and what both say; saying other things is no conflict."""
    old, young = word("a", SHOP, inbound=Default.DENY, year=2010), word("b", SHOP, inbound=Default.AUDIT, year=2020)
    assert fares(young, [old, young]) == [("Accepted", False, "Conflicted")]
    assert fares(old, [old, young]) == [("Accepted", True, "Accepted")]
    assert fares(word("c", SHOP, tls=Strictness.STRICT, year=2020), [old]) == [("Accepted", True, "Accepted")]
    assert fares(word("c", CART, inbound=Default.DENY, year=2020), [old]) == [("Accepted", True, "Accepted")]
