"""Suggested policies let everything through that was seen, and nobody who was not."""

import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.cli.policy import as_documents
from mesh.cli.suggestion import MOST_AT_ROOT, MOST_BELOW, collapsed, operations_of, pattern_of, suggest
from mesh.model.api import SeenRow
from mesh.model.authorization import Action, Default, Operation, Strictness
from mesh.model.compose_access import authorization
from mesh.model.documents import decode_resource, load_documents
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    Metadata,
    Target,
    TargetKind,
)
from mesh.proxy.authorize import Compiled, ambiguous
from mesh.proxy.witness import template

HOME = ".serviceaccount.identity.cluster.local"
WEB, LOAD, STRANGER = f"web.demo{HOME}", f"load.demo{HOME}", f"stranger.demo{HOME}"


def row(path="/things", *, identity=WEB, method="GET", protocol="http", source="", service="votes", **fields):
    found = SeenRow(
        namespace="demo",
        service=service,
        identity=identity,
        source=source,
        protocol=protocol,
        method=method,
        path=path if protocol == "grpc" else template(path),
        example=path,
        requests=1,
        allowed={"default:all-unauthenticated": 3},
        denied={},
        audited={},
        workloads={"votes-v1": 3},
        first=1_700_000_000.0,
        last=1_700_000_060.0,
    )
    return msgspec.structs.replace(found, **fields)


def call(path="/votes.Votes/Cast", **fields):
    return row(path, protocol="grpc", method="POST", **fields)


def tcp(**fields):
    return row("", protocol="tcp", method="", **fields)


def applied(found):
    """The suggestion as it is when its YAML has been read back."""
    return [decode_resource(document) for document in load_documents(as_documents(found), "suggested.yaml")]


def compiled(resources, service="votes"):
    return Compiled(
        authorization(
            "demo",
            service,
            "votes-v1",
            policies=[each for each in resources if isinstance(each, AuthorizationPolicy)],
            defaults=[each for each in resources if isinstance(each, DefaultPolicy)],
        )
    )


def goes_through(policy, row, identity=None, path=None):
    judge = policy.judge(row.identity if identity is None else identity, row.source)
    if row.protocol == "tcp":
        return judge.connection().allowed
    path = (path or row.example).encode("latin-1")
    if policy.by_path and ambiguous(path):
        return False
    return judge.decide(row.method.encode(), path, row.protocol == "grpc").allowed


SEGMENTS = st.sampled_from(
    [
        "a",
        "b",
        "things",
        "42",
        "7",
        "%20",
        "a.css",
        "",
        "..",
        "%2F",
        "*",
        "a*b",
        "ü",
        "deadbeefdeadbeef01",
        "x" * 70,
        ";",
    ]
)
PATHS = st.one_of(
    st.lists(SEGMENTS, min_size=1, max_size=4).map(lambda segments: "/" + "/".join(segments)),
    st.lists(st.sampled_from("abcdefghijklmnopqrstuvwxyz"), min_size=1, max_size=3).map(lambda s: "/" + "/".join(s)),
    st.sampled_from(["*", "", "/"]),
)
METHODS = st.sampled_from(["GET", "POST", "OPTIONS", "get", "*", "M-SEARCH", "X_Y"])
WHO = st.sampled_from([WEB, LOAD, f"web.other{HOME}"])
ROWS = st.lists(
    st.one_of(
        st.builds(row, PATHS, identity=WHO, method=METHODS),
        st.builds(row, PATHS, identity=WHO, method=METHODS),
        st.builds(
            call, PATHS | st.sampled_from(["/a.B/C", "/a.B/D", "/a/b c", "/grpc.health.v1.Health/Check"]), identity=WHO
        ),
        st.builds(tcp, identity=WHO),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=300)
@given(ROWS)
def test_everything_seen_goes_on_and_no_stranger_comes_in(rows):
    """What is printed, read back and composed: each row is allowed, as its example and as another path of its
    template; from another identity, or none, nothing is."""
    policy = compiled(applied(suggest(rows)))
    for each in rows:
        assert goes_through(policy, each), each
        another = "/".join("another-key" if segment == "*" else segment for segment in each.path.split("/"))
        assert (
            each.protocol != "http" or "*" not in each.path.split("/")[1:] or goes_through(policy, each, path=another)
        )
        assert not goes_through(policy, each, STRANGER)
        assert not goes_through(policy, each, "")


@given(st.sets(PATHS.filter(lambda path: not ambiguous(path.encode("latin-1", "replace"))), max_size=120))
def test_collapsing_only_widens(paths):
    """Whatever is collapsed, each path is still matched by one of what is left, and there are few of those."""
    patterns = {pattern_of(template(path)) for path in paths}
    left = collapsed(patterns, "GET", [])
    for path in paths:
        assert any(
            path == pattern or pattern == "*" or (pattern.endswith("/*") and path.startswith(pattern[:-1]))
            for pattern in left
        ), (path, left)
    assert len(left) <= MOST_AT_ROOT


def test_one_policy_a_service_with_callers_who_do_the_same():
    """Identities that were seen to do the same share a policy, named after the service; the namespace is closed."""
    found = suggest([row(identity=WEB), row("/things", identity=LOAD), row("/words", service="words")])
    votes, words, default = [each.policy for each in found.policies]
    assert (votes.metadata.name, votes.spec.target) == ("seen-votes", Target(TargetKind.SERVICE, "votes"))
    assert votes.spec.action is Action.ALLOW
    assert votes.spec.sources[0].identities == (LOAD, WEB)
    assert votes.spec.operations == (Operation(methods=("GET",), paths=("/things",)),)
    assert words.metadata.name == "seen-words"
    assert default.spec == DefaultPolicySpec(Target(TargetKind.NAMESPACE), Default.DENY)


def test_callers_who_do_other_things_get_policies_of_their_own():
    """Least privilege: what only one was seen to do, the other may not."""
    resources = applied(suggest([row(), row("/polls/7", method="POST", identity=LOAD)]))
    policy = compiled(resources)
    assert {each.metadata.name for each in resources} == {"seen-votes-web", "seen-votes-load", "seen-default"}
    assert not goes_through(policy, row(), LOAD)
    assert not goes_through(policy, row("/polls/7", method="POST"), WEB)
    assert goes_through(policy, row("/polls/8", method="POST"), LOAD)


def test_who_proved_no_identity_is_told_and_not_let_in():
    """Strangers are listed in comments by their address, with what they did; they get no policy of their own."""
    found = suggest(
        [row(), row("/polls/7", identity="", source="10.1.2.3"), row(identity="", source="::1", service="x")]
    )
    text = as_documents(found)
    assert "#   - networks: ['10.1.2.3']    # 3 requests from 2023-11-14 22:13:20Z to 2023-11-14 22:14:20Z GET" in text
    assert "# x.demo: nobody who proved an identity was let through; it gets no policy" in text
    assert "#     - networks: ['::1']" in text
    assert [each["metadata"]["name"] for each in yaml.safe_load_all(text) if each] == ["seen-votes", "seen-default"]


def test_what_was_always_denied_stays_so():
    """A kind that was never let through is only told; one that was at least once goes on, with a warning."""
    denied = row("/admin", allowed={}, denied={"demo/closed": 5}, requests=5)
    mixed = row("/mixed", denied={"demo/closed": 4})
    found = suggest([row(), denied, mixed])
    policy = compiled(applied(found))
    assert not goes_through(policy, denied)
    assert goes_through(policy, mixed)
    notes = found.policies[0].notes
    assert any("5 requests of kinds that were always denied" in note for note in notes)
    assert any("4 requests like these were denied as well (by demo/closed)" in note for note in notes)


def test_health_checks_need_no_policy():
    """What is only ever let through as the mesh's own probe will be let through as such."""
    found = suggest([row(), row("/healthz", allowed={"probe": 90})])
    assert not goes_through(compiled(applied(found)), row("/healthz"))


def test_what_was_not_recorded_one_by_one_is_told():
    """A scanner's requests are nobody's privilege."""
    rest = row("", protocol="(overflow)", identity="", method="", requests=70)
    assert any("70 requests of too many kinds" in note for note in suggest([row(), rest]).policies[0].notes)


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("/", "/"),
        ("/things", "/things"),
        ("/things/", "/things/"),
        ("/polls/*", "/polls/*"),
        ("/polls/*/votes", "/polls/*"),
        ("/a/b*c/d", "/a/*"),
        ("/a/ü", "/a/*"),
        ("/*", "/*"),
        ("*", "*"),
        ("", "*"),
        ("/a#b", "/*"),
    ],
)
def test_pattern_of(path, pattern):
    """The narrowest that policies can say."""
    assert pattern_of(path) == pattern


def test_many_paths_below_one_are_written_as_one():
    """Deepest first, with a note; siblings elsewhere stay as they are."""
    few = [row(f"/api/{word}") for word in "abc"]
    many = [row(f"/static/css/{chr(97 + n)}.css") for n in range(MOST_BELOW + 1)]
    operations, notes = operations_of([*few, *many])
    assert operations == (Operation(methods=("GET",), paths=("/api/a", "/api/b", "/api/c", "/static/css/*")),)
    assert notes == [f"{MOST_BELOW + 1} paths below /static/css/ were asked for (GET): all below it are allowed"]


def test_many_grpc_methods_are_the_whole_service():
    """Few are named; many of one service are all of it."""
    operations, _ = operations_of([call("/a.B/C"), call("/a.B/D")])
    assert operations == (Operation(grpc_methods=("a.B/C", "a.B/D")),)
    operations, notes = operations_of([call(f"/a.B/M{n}") for n in range(MOST_BELOW + 1)])
    assert operations == (Operation(grpc_methods=("a.B/*",)),)
    assert "13 methods of a.B" in notes[0]


def test_paths_with_two_readings_leave_methods_alone():
    """A policy that names paths would have them refused: the service's policies then name none, and say why."""
    found = suggest([row("/a//b"), row("/c", method="POST"), call()])
    assert found.policies[0].policy.spec.operations == (
        Operation(methods=("GET", "POST")),
        Operation(grpc_methods=("*",)),
    )
    assert any("can be read in two ways, such as '/a//b'" in note for note in found.policies[0].notes)


def test_a_namespace_that_has_a_default_keeps_the_rest_of_it():
    """The DefaultPolicy that is there is changed in `inbound` alone; one that denies already is left as it is; for a
    single service nothing is closed."""
    spec = DefaultPolicySpec(
        Target(TargetKind.NAMESPACE), Default.AUDIT, tls=Strictness.STRICT, networks=("10.0.0.0/8",)
    )
    ours = DefaultPolicy(Metadata("ours", "demo"), spec)
    changed = suggest([row()], policies=[ours]).policies[1].policy
    assert changed.metadata.name == "ours"
    assert changed.spec == msgspec.structs.replace(spec, inbound=Default.DENY)
    assert len(suggest([row()], policies=[changed]).policies) == 1
    assert len(suggest([row()], close=False).policies) == 1


def test_policies_that_stay_in_force_are_told():
    """What another policy allows goes on being allowed: the suggestion alone is not the whole truth."""

    def policy(name, target, action=Action.ALLOW, namespace="demo"):
        return AuthorizationPolicy(Metadata(name, namespace), AuthorizationPolicySpec(target, action))

    votes, words = Target(TargetKind.SERVICE, "votes"), Target(TargetKind.SERVICE, "words")
    policies = [
        policy("old", votes),
        policy("wide", Target(TargetKind.NAMESPACE)),
        policy("v1", Target(TargetKind.WORKLOAD, "votes-v1")),
        policy("seen-votes", votes),
        policy("other", words),
        policy("deny", votes, Action.DENY),
        policy("far", Target(TargetKind.NAMESPACE), namespace="far"),
    ]
    assert suggest([row()], policies=policies).notes == (
        "votes.demo: what these allow stays allowed: demo/old, demo/v1, demo/wide",
    )


def test_services_of_which_nothing_was_seen_are_told():
    """Who applies this closes them."""
    found = suggest([row()], existing=["demo/votes", "demo/quiet", "other/x"])
    assert "nothing was seen of quiet: nobody may call them any more" in found.policies[1].notes


def test_comments_cannot_be_left():
    """Whatever a path or an address holds, a comment stays one line."""
    evil = row("/a\nkind: DefaultPolicy//", identity="", source="1\n---\nkind: x")
    text = as_documents(suggest([row("/a//\n---\nevil: 1"), evil]))
    assert all(line.startswith("#") or "evil" not in line for line in text.splitlines())
    assert len([each for each in yaml.safe_load_all(text) if each]) == 2


def test_names_are_told_apart():
    """Of services and accounts whose names run together or are very long, each policy still has its own."""
    home = HOME.removeprefix(".")
    rows = [row(service="a", identity=f"{account}.demo.{home}", path=f"/{account}") for account in ("b-c", "d")]
    rows += [row(service="a-b", identity=f"{account}.demo.{home}", path=f"/{account}") for account in ("c", "d")]
    rows += [row(service="s" * 62 + last) for last in "xyz"]
    resources = applied(suggest(rows))
    names = [each.metadata.name for each in resources]
    assert len(set(names)) == len(names) == 8
