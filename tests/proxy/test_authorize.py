"""Who may do what: the tables, the order of rules, and what holds for all policies there could be."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.model import identity as identities
from mesh.model.authorization import (
    Action,
    Authorization,
    Authorizer,
    Default,
    Operation,
    Rule,
    Source,
)
from mesh.proxy.authorize import Compiled, Decision, Judge
from tests.proxy.access_table import ASKINGS, CALLERS, CASES, Asking, Case

TRUST = "cluster.local"
WEB = f"web.shop.serviceaccount.identity.{TRUST}"
OPS = f"ops.shop.serviceaccount.identity.{TRUST}"


def ask(judge: Judge, asking: Asking) -> Decision:
    """What is decided about one row's request."""
    if asking.protocol == "tcp":
        return judge.connection()
    return judge.decide(asking.method.encode(), asking.path.encode(), asking.protocol == "grpc")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_tables(case: Case) -> None:
    """Each row of each case is decided as the table says, by whom it says, with a sentence."""
    compiled = Compiled(case.authorization())
    for row in case.rows:
        decision = ask(compiled.judge(*CALLERS[row.caller]), ASKINGS[row.asking])
        assert (decision.allowed, decision.by, decision.audited) == (row.allowed, row.by, row.audited), row
        assert decision.why


def rule(action: Action = Action.ALLOW, name: str = "shop/r", **fields) -> Rule:
    """A rule about everybody and everything unless it says otherwise."""
    return Rule(name, action, **fields)


def judge(authorization: Authorization, identity: str = WEB, address: str = "127.0.0.1") -> Judge:
    """Who decides about a peer."""
    return Compiled(authorization).judge(identity, address)


# --- what callers may skip ---------------------------------------------------------------------------------------


def test_trivial():
    """Only where everybody may do everything, unnoted and unasked, may all of it be skipped."""
    assert Compiled(Authorization()).trivial
    assert Compiled(Authorization(probes=(Operation(paths=("/h",)),))).trivial
    assert not Compiled(Authorization(default=Default.AUDIT)).trivial
    assert not Compiled(Authorization(rules=(rule(),))).trivial
    assert not Compiled(Authorization(authorizers=(Authorizer("a/b", "c"),))).trivial


def test_by_path():
    """Paths matter where a rule names some, or gRPC methods, or where somebody else is asked who may look at them."""
    assert not Compiled(Authorization(rules=(rule(operations=(Operation(methods=("GET",)),)),))).by_path
    assert not Compiled(Authorization(rules=(rule(operations=(Operation(paths=("*",)),)),))).by_path
    assert not Compiled(Authorization(rules=(rule(operations=(Operation(grpc_methods=("*",)),)),))).by_path
    assert Compiled(Authorization(rules=(rule(operations=(Operation(paths=("/a",)),)),))).by_path
    assert Compiled(Authorization(rules=(rule(operations=(Operation(grpc_methods=("a.B/*",)),)),))).by_path
    assert Compiled(Authorization(authorizers=(Authorizer("a/b", "c"),))).by_path


@pytest.mark.parametrize(
    ("authorization", "fixed"),
    [
        (Authorization(), True),
        (Authorization(rules=(rule(sources=(Source(identities=(WEB,)),)),)), True),
        (Authorization(rules=(rule(operations=(Operation(methods=("GET",)),)),)), False),
        (Authorization(rules=(rule(sources=(Source(identities=(OPS,)),), operations=(Operation(("GET",)),)),)), True),
        (Authorization(rules=(rule(Action.DENY, operations=(Operation(("GET",)),)), rule())), False),
        (Authorization(rules=(rule(Action.DENY), rule(operations=(Operation(("GET",)),)))), True),
        (Authorization(rules=(rule(), rule(Action.AUDIT, operations=(Operation(("GET",)),)))), False),
        (Authorization(rules=(rule(Action.AUDIT),)), True),
        (Authorization(rules=(rule(Action.DENY),), probes=(Operation(paths=("/h",)),)), False),
        (Authorization(rules=(rule(),), probes=(Operation(paths=("/h",)),)), True),
        (Authorization(default=Default.AUDIT, probes=(Operation(paths=("/h",)),)), True),
    ],
)
def test_fixed(authorization, fixed):
    """A decision is fixed exactly where no operation changes it for this peer, and then it is what `decide` says."""
    found = judge(authorization).fixed
    assert (found is not None) is fixed
    if found is not None:
        assert judge(authorization).decide(b"GET", b"/h", False) == found


# --- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "holds"),
    [
        ("/a", b"/a", True),
        ("/a", b"/a?x=1", True),
        ("/a", b"/a/", False),
        ("/a", b"/A", False),
        ("/a/*", b"/a/", True),
        ("/a/*", b"/a/b/c", True),
        ("/a/*", b"/a", False),
        ("/a*", b"/abc", True),
        ("*.css", b"/x/y.css", True),
        ("*.css", b"/x/y.css?v=1", True),
        ("*.css", b"/x/y.csss", False),
        ("*", b"", True),
        ("*", b"*", True),
        ("/u/@me", b"/u/%40me", True),
        ("/u/%40me", b"/u/@me", True),
        ("/%C3%A9", b"/%c3%a9", True),
        ("/a%2A", b"/a*", True),
        ("/a%2A", b"/ab", False),
        ("/a%20b", b"/a%20b", True),
        ("/", b"/", True),
        ("/", b"", False),
    ],
)
@pytest.mark.parametrize("action", [Action.ALLOW, Action.DENY])
def test_paths(pattern, path, holds, action):
    """A pattern is a path, a beginning or an end; what a path may hold unescaped is compared as such."""
    decided = judge(Authorization(rules=(rule(action, operations=(Operation(paths=(pattern,)),)),)))
    assert decided.decide(b"GET", path, False).allowed is (holds if action is Action.ALLOW else not holds)


# --- who asks to be denied ---------------------------------------------------------------------------------------


def test_a_denied_method_is_denied_in_any_case():
    """There are applications to which `delete` is DELETE: a Deny rule holds for it, an Allow rule does not."""
    only = (Operation(methods=("DELETE",)),)
    assert not judge(Authorization(rules=(rule(Action.DENY, operations=only),))).decide(b"delete", b"/", False).allowed
    assert not judge(Authorization(rules=(rule(operations=only),))).decide(b"delete", b"/", False).allowed


def test_a_denied_grpc_method_is_denied_whatever_the_content_type():
    """There are gRPC servers that do not look at it: a Deny rule holds for the path, an Allow rule wants gRPC."""
    call = (Operation(grpc_methods=("a.B/C",)),)
    assert (
        not judge(Authorization(rules=(rule(Action.DENY, operations=call),))).decide(b"POST", b"/a.B/C", False).allowed
    )
    assert not judge(Authorization(rules=(rule(operations=call),))).decide(b"POST", b"/a.B/C", False).allowed
    assert judge(Authorization(rules=(rule(operations=call),))).decide(b"POST", b"/a.B/C", True).allowed


# --- peers -------------------------------------------------------------------------------------------------------


def test_an_ipv4_address_in_ipv6_is_that():
    """A listener for both families sees IPv4 peers as mapped addresses; policies speak of IPv4."""
    policy = Authorization(rules=(rule(sources=(Source(networks=("10.0.0.0/8",)),)),))
    assert judge(policy, "", "::ffff:10.1.2.3").connection().allowed
    assert not judge(policy, "", "::ffff:11.1.2.3").connection().allowed


@pytest.mark.parametrize("address", ["", "nonsense", "10.0.0.1:80", "256.0.0.1"])
def test_an_unknown_address_is_in_no_network(address):
    """What is not known to be allowed is not."""
    policy = Authorization(rules=(rule(sources=(Source(networks=("0.0.0.0/0", "::/0")),)),))
    assert not judge(policy, WEB, address).connection().allowed


@pytest.mark.parametrize(
    ("address", "allowed"),
    [("127.0.0.1", True), ("192.168.3.4", True), ("::1", True), ("fd00::1", True), ("8.8.8.8", False), ("", False)],
)
def test_the_meshs_own_networks(address, allowed):
    """Where nobody says otherwise they are the private ones and loopback."""
    policy = Authorization(default=Default.CLUSTER_AUTHENTICATED)
    assert judge(policy, WEB, address).connection().allowed is allowed
    assert not judge(policy, "", address).connection().allowed


@pytest.mark.parametrize("who", ["web", "web.shop", f"web.shop.serviceaccount.identity.{TRUST}.x", "*", "*.shop"])
def test_what_is_no_identity_of_ours_is_none(who):
    """A certificate that proves something else proves nothing."""
    assert not judge(Authorization(default=Default.ALL_AUTHENTICATED), who).connection().allowed


def test_the_trust_domain_is_the_applications():
    """The same name in another trust domain is somebody else, also where a pattern would hold for it."""
    policy = Authorization(rules=(rule(sources=(Source(identities=("*", WEB, "*.local")),)),), trust_domain="a.local")
    assert not judge(policy, WEB).connection().allowed
    assert judge(policy, "web.shop.serviceaccount.identity.a.local").connection().allowed


# --- what people are told ----------------------------------------------------------------------------------------


def test_sentences():
    """They name what matched, or what was missing and where."""
    policy = Authorization(
        rules=(
            rule(name="shop/get", sources=(Source(identities=(WEB,)),), operations=(Operation(("GET",), ("/a/*",)),)),
            rule(name="shop/ops", sources=(Source(namespaces=("ops",)),)),
        )
    )
    assert (
        judge(policy).decide(b"GET", b"/a/b", False).why
        == f"shop/get allows it: the caller is {WEB}, and it is one of GET /a/*"
    )
    assert (
        judge(policy).decide(b"PUT", b"/a/b", False).why == f"no policy that allows something allows this to {WEB} at "
        "127.0.0.1: shop/get (for other operations), shop/ops"
    )
    assert "a caller without identity" in judge(policy, "").connection().why
    foreign = "web.shop.serviceaccount.identity.b.c"
    assert f"{foreign} (of another trust domain) at 127.0.0.1" in judge(policy, foreign).connection().why


def test_a_refusal_is_told_by_the_rule_that_came_nearest():
    """Of what allows, one that is for this caller but for other operations says more than one for others."""
    policy = Authorization(
        rules=(
            rule(name="shop/a", sources=(Source(identities=(OPS,)),)),
            rule(name="shop/b", sources=(Source(identities=(WEB,)),), operations=(Operation(("GET",)),)),
        )
    )
    assert judge(policy).decide(b"PUT", b"/", False).by == "shop/b"
    assert judge(policy, "").decide(b"PUT", b"/", False).by == "shop/a"


# --- authorisers -------------------------------------------------------------------------------------------------


def test_authorizers_are_asked_about_their_operations():
    """One without operations is asked about everything; whether one is to be asked is not a matter of spelling."""
    everything = Authorizer("a/all", "all")
    some = Authorizer("a/some", "some", operations=(Operation(methods=("DELETE",)), Operation(grpc_methods=("a.B/C",))))
    decided = judge(Authorization(authorizers=(everything, some)))
    assert decided.authorizers(b"GET", b"/", False) == (everything,)
    assert decided.authorizers(b"delete", b"/", False) == (everything, some)
    assert decided.authorizers(b"POST", b"/a.B/C?x", False) == (everything, some)
    assert judge(Authorization()).authorizers(b"GET", b"/", False) == ()


# --- what cannot be ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        Authorization(rules=(rule(sources=(Source(identities=("web.shop",)),)),)),
        Authorization(rules=(rule(sources=(Source(networks=("10.0.0.1/8",)),)),)),
        Authorization(rules=(rule(sources=(Source(networks=("x",)),)),)),
        Authorization(rules=(rule(operations=(Operation(paths=("/a*b",)),)),)),
        Authorization(rules=(rule(operations=(Operation(grpc_methods=("a*/b",)),)),)),
        Authorization(networks=("x",)),
    ],
)
def test_what_cannot_be_compiled(wrong):
    """A policy that would silently match nothing is refused, so that the one before it stays."""
    with pytest.raises(ValueError, match=r"."):
        Compiled(wrong)


# --- all policies there could be ---------------------------------------------------------------------------------

WHO = st.sampled_from(
    ["", WEB, OPS, f"web.other.serviceaccount.identity.{TRUST}", "web.shop.serviceaccount.identity.x"]
)
WHERE = st.sampled_from(["127.0.0.1", "10.1.2.3", "8.8.8.8", "::1", "::ffff:10.1.2.3", ""])
sources = st.builds(
    Source,
    identities=st.lists(
        st.sampled_from(["*", WEB, OPS, f"*.{TRUST}", "*.shop.serviceaccount.identity.x"]), max_size=2
    ).map(tuple),
    namespaces=st.lists(st.sampled_from(["shop", "other"]), max_size=1).map(tuple),
    networks=st.lists(st.sampled_from(["10.0.0.0/8", "127.0.0.1", "::1/128", "0.0.0.0/0"]), max_size=2).map(tuple),
)
operations = st.builds(
    Operation,
    methods=st.lists(st.sampled_from(["GET", "POST"]), max_size=1).map(tuple),
    paths=st.lists(st.sampled_from(["/a", "/a/*", "*.css", "*", "/p.S/M"]), max_size=2).map(tuple),
    grpc_methods=st.lists(st.sampled_from(["*", "p.S/*", "p.S/M", "q.S/M"]), max_size=1).map(tuple),
)
rules = st.builds(
    Rule,
    name=st.sampled_from(["n/1", "n/2", "n/3", "n/4"]),
    action=st.sampled_from(Action),
    sources=st.lists(sources, max_size=2).map(tuple),
    operations=st.lists(operations, max_size=2).map(tuple),
)
policies = st.builds(
    Authorization,
    default=st.sampled_from(Default),
    default_from=st.sampled_from(["", "n/d"]),
    rules=st.lists(rules, max_size=5).map(tuple),
    probes=st.lists(operations, max_size=1).map(tuple),
    networks=st.sampled_from([(), ("10.0.0.0/8",)]),
)
requests = st.tuples(
    st.sampled_from([b"GET", b"POST", b"post"]),
    st.sampled_from([b"/a", b"/a/b?c", b"/x.css", b"/", b"*", b"", b"/p.S/M", b"/p.S/N"]),
    st.booleans(),
)


def naive_operation(operation: Operation, method: str, path: str, grpc: bool, wide: bool) -> bool:
    """What the documentation of `Operation` says, word by word."""
    methods = (method, method.upper()) if wide else (method,)
    if operation.methods and not any(each in operation.methods for each in methods):
        return False

    def path_holds(pattern: str) -> bool:
        if pattern == "*":
            return True
        if pattern.endswith("*"):
            return path.startswith(pattern[:-1])
        return path.endswith(pattern[1:]) if pattern.startswith("*") else path == pattern

    if operation.paths and not any(path_holds(pattern) for pattern in operation.paths):
        return False
    if not operation.grpc_methods:
        return True
    return any(grpc if name == "*" else (grpc or wide) and path_holds(f"/{name}") for name in operation.grpc_methods)


def naive_source(source: Source, who: str, where: str) -> bool:
    """What the documentation of `Source` says, word by word."""
    if source.identities and not any(identities.matches(pattern, who) for pattern in source.identities):
        return False
    named = identities.parse(who)
    if source.namespaces and (named is None or named.namespace not in source.namespaces):
        return False
    where = where.removeprefix("::ffff:")
    return not source.networks or any(
        where and ipaddress.ip_address(where) in ipaddress.ip_network(block) for block in source.networks
    )


def naive(policy: Authorization, who: str, where: str, request) -> tuple[bool, str]:
    """Whether it is allowed, and by whom it is noted: the rules at the top of authorize.py, word by word."""
    named = identities.parse(who)
    who = who if named is not None and named.trust_domain == policy.trust_domain else ""

    def matches(each: Rule) -> bool:
        if each.sources and not any(naive_source(source, who, where) for source in each.sources):
            return False
        if not each.operations:
            return True
        if request is None:
            return each.action is not Action.ALLOW
        method, path, grpc = request
        wide = each.action is Action.DENY
        bare = path.decode().partition("?")[0]
        return any(naive_operation(one, method.decode(), bare, grpc, wide) for one in each.operations)

    noted = [each.name for each in policy.rules if each.action is Action.AUDIT and matches(each)]
    audited = noted[0] if noted else ""
    allows = [each for each in policy.rules if each.action is Action.ALLOW]
    if any(each.action is Action.DENY and matches(each) for each in policy.rules):
        allowed = False
    elif allows:
        allowed = any(matches(each) for each in allows)
    elif policy.default is Default.AUDIT:
        allowed = True
        if not who and not audited:
            audited = policy.default_from or "default:audit"
    else:
        own = policy.networks or ("127.0.0.0/8", "10.0.0.0/8", "::1")
        near = naive_source(Source(networks=own), who, where)
        allowed = {
            Default.ALL_UNAUTHENTICATED: True,
            Default.ALL_AUTHENTICATED: bool(who),
            Default.CLUSTER_AUTHENTICATED: bool(who) and near,
            Default.DENY: False,
        }[policy.default]
    if request is not None and (not allowed or audited):
        method, path, grpc = request
        bare = path.decode().partition("?")[0]
        if any(naive_operation(probe, method.decode(), bare, grpc, False) for probe in policy.probes):
            return True, ""
    return allowed, audited


@given(policies, WHO, WHERE, requests)
def test_as_the_documentation_says(policy, who, where, request):
    """Whatever the policy and whoever asks for whatever: the decision is that of a plain evaluation."""
    decided = judge(policy, who, where)
    decision = decided.decide(*request)
    assert (decision.allowed, decision.audited) == naive(policy, who, where, request)
    connection = decided.connection()
    assert (connection.allowed, connection.audited) == naive(policy, who, where, None)


@given(policies, WHO, WHERE, requests)
def test_a_denial_always_wins(policy, who, where, request):
    """With a rule that denies everything to everybody, wherever it stands, nothing but health checks gets past."""
    for index in range(len(policy.rules) + 1):
        placed = (*policy.rules[:index], rule(Action.DENY), *policy.rules[index:])
        closed = judge(Authorization(rules=placed, default=policy.default), who, where)
        assert not closed.decide(*request).allowed
        assert not closed.connection().allowed


@given(policies, rules, WHO, WHERE, requests)
def test_allowing_more_never_lifts_a_denial(policy, more, who, where, request):
    """What a Deny rule denies stays denied, whichever Allow rule is added."""
    names = {each.name for each in policy.rules if each.action is Action.DENY}
    names -= {each.name for each in policy.rules if each.action is Action.ALLOW}
    added = Rule("n/more", Action.ALLOW, more.sources, more.operations)
    wider = Authorization(
        default=policy.default, rules=(*policy.rules, added), probes=policy.probes, networks=policy.networks
    )
    before, after = judge(policy, who, where), judge(wider, who, where)
    for old, new in ((before.decide(*request), after.decide(*request)), (before.connection(), after.connection())):
        if not old.allowed and old.by in names:
            assert not new.allowed
            assert new.by == old.by


@given(policies, WHO, WHERE, requests)
def test_what_is_trivial_is_allowed(policy, who, where, request):
    """`trivial` promises that nothing is ever denied or noted."""
    compiled = Compiled(policy)
    if compiled.trivial:
        decision = compiled.judge(who, where).decide(*request)
        assert decision.allowed
        assert not decision.audited
