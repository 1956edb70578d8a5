"""What policies of access must be: each mistake gives one line, with the field and what was meant."""

import pytest

from mesh.model.authorization import Action, Default, Destination, Operation, Source, Strictness
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import KINDS, Resource

CART = "target: {kind: Service, name: cart}"


def read(kind: str, spec: str, namespace: str = "shop") -> Resource:
    """One resource of one line of spec."""
    head = f"apiVersion: conduit.mesh/v1alpha1\nkind: {kind}\nmetadata: {{name: p, namespace: {namespace}}}\n"
    text = f"{head}spec: {{{spec}}}\n"
    return decode_resource(load_documents(text, "f")[0])


def problem(kind: str, spec: str, namespace: str = "shop") -> str:
    """Field and reason of the mistake in it."""
    with pytest.raises(ConfigError) as raised:
        read(kind, spec, namespace)
    return f"{raised.value.field}: {raised.value.reason}"


def test_everything_that_may_be_said():
    """All fields of an AuthorizationPolicy, as they arrive."""
    spec = read(
        "AuthorizationPolicy",
        f"{CART}, action: Deny, from: [{{identities: ['*', '*.shop.serviceaccount.identity.cluster.local', "
        "'spiffe://cluster.local/ns/shop/sa/web', web.shop.serviceaccount.identity.cluster.local]}, "
        "{namespaces: [shop], networks: [10.0.0.0/8, 10.0.0.1, '::1', 'fd00::/8', 0.0.0.0/0]}], "
        "to: [{methods: [GET, PURGE], paths: ['*', /, /a, /a/*, /.well-known/*, '*.css', '*/x', /a%20b, '/a%2A']}, "
        "{grpcMethods: ['*', a.b.C/*, C/M], methods: [POST]}]",
    ).spec
    assert spec.action is Action.DENY
    assert spec.sources[1] == Source((), ("shop",), ("10.0.0.0/8", "10.0.0.1", "::1", "fd00::/8", "0.0.0.0/0"))
    assert spec.operations[1] == Operation(("POST",), (), ("*", "a.b.C/*", "C/M"))


def test_others_that_may_be_said():
    """The other kinds, and targets of all kinds."""
    word = read("DefaultPolicy", "target: {kind: Mesh}, inbound: deny, tls: strict, egress: Audit", "conduit").spec
    assert (word.inbound, word.tls, word.egress) == (Default.DENY, Strictness.STRICT, Action.AUDIT)
    leaving = read("EgressPolicy", "target: {kind: Workload, name: w}, to: [{hosts: ['*.x.io', y], ports: [443]}]").spec
    assert leaving.destinations == (Destination(("*.x.io", "y"), (), (443,)),)
    for service in ("authz", "authz.ops", "authz.ops.svc.cluster.local", "127.0.0.1:9000", "'[::1]:9000'"):
        read("PolicyPlugin", f"target: {{kind: Namespace}}, authorizer: {{service: {service}, timeout: 300ms}}")
    read("PolicyPlugin", "target: {kind: Namespace}, python: {function: 'a.b:c', options: {x: [1]}}")
    assert read("AuthorizationPolicy", f"{CART}, from: [], to: []").spec.sources == ()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "target: {kind: Mesh}",
            "spec.target.kind: only policies of the namespace conduit are for the whole mesh, and this is of shop; "
            "did you mean Namespace?",
        ),
        (
            "target: {kind: Namespace, name: shop}",
            "spec.target.name: means nothing with `kind: Namespace`, which is the policy's own namespace, shop",
        ),
        ("target: {kind: Service}", "spec.target.name: is required: which Service of namespace shop?"),
        ("target: {kind: Workload}", "spec.target.name: is required: which Workload of namespace shop?"),
        ("action: Deny", "spec.target: is required"),
        (f"{CART}, acton: Deny", "spec.acton: is no field here; did you mean action?"),
        (f"{CART}, action: deny", "spec.action: 'deny' is none of Allow, Deny, Audit"),
        (f"{CART}, from: [{{identity: x}}]", "spec.from[0].identity: is no field here; did you mean identities?"),
    ],
)
def test_targets_and_words(spec, message):
    """A target that cannot be, and words that are not known."""
    assert problem("AuthorizationPolicy", spec) == message


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "{}",
            "spec.from[0]: is everybody: say so with `from: []`, or name identities, namespaces or networks",
        ),
        (
            "{identities: [web.shop]}",
            "spec.from[0].identities[0]: 'web.shop' is no identity; did you mean "
            "web.shop.serviceaccount.identity.TRUST-DOMAIN?",
        ),
        (
            "{identities: [web]}",
            "spec.from[0].identities[0]: 'web' is no identity; did you mean "
            "web.NAMESPACE.serviceaccount.identity.TRUST-DOMAIN?",
        ),
        (
            "{identities: ['web.*.serviceaccount.identity.cluster.local']}",
            "spec.from[0].identities[0]: 'web.*.serviceaccount.identity.cluster.local' has a * elsewhere than alone or "
            "in front: `*`, or `*.SUFFIX` of the DNS spelling",
        ),
        (
            "{identities: ['spiffe://x/web']}",
            "spec.from[0].identities[0]: 'spiffe://x/web' is no identity: "
            "ACCOUNT.NAMESPACE.serviceaccount.identity.TRUST-DOMAIN or spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT",
        ),
        (
            "{networks: [10.0.0.1/8]}",
            "spec.from[0].networks[0]: '10.0.0.1/8' has bits set beyond its prefix; did you mean 10.0.0.0/8?",
        ),
        (
            "{networks: [here]}",
            "spec.from[0].networks[0]: 'here' is neither an address nor a CIDR block (10.0.0.0/8)",
        ),
        (
            "{networks: ['::ffff:10.0.0.0/104']}",
            "spec.from[0].networks[0]: '::ffff:10.0.0.0/104' is compared as IPv4; did you mean 10.0.0.0/8?",
        ),
    ],
)
def test_sources(source, message):
    """Who is meant."""
    assert problem("AuthorizationPolicy", f"{CART}, from: [{source}]") == message


def test_a_namespace_is_a_name():
    """Patterns are not for namespaces."""
    assert "'sh*p' is no name" in problem("AuthorizationPolicy", f"{CART}, from: [{{namespaces: ['sh*p']}}]")


@pytest.mark.parametrize(
    ("operation", "message"),
    [
        ("{}", "spec.to[0]: is everything: leave it out, or name methods, paths or grpcMethods"),
        ("{methods: [get]}", "spec.to[0].methods[0]: 'get' is no method: they are written in capitals"),
        ("{methods: ['*']}", "spec.to[0].methods[0]: without `methods` all are meant: leave it out"),
        (
            "{methods: [GET], grpcMethods: ['*']}",
            "spec.to[0].methods: a gRPC call is a POST: beside grpcMethods this matches nothing",
        ),
        (
            "{paths: [/a/*/b]}",
            "spec.to[0].paths[0]: '/a/*/b' has more than a * at one end: `/a`, `/a/*`, `*.css` or `*` "
            "(%2A for the character itself)",
        ),
        ("{paths: ['/a?b']}", "spec.to[0].paths[0]: '/a?b' holds a query or a fragment: paths are compared without"),
        *(
            (
                f"{{paths: ['{path}']}}",
                f"spec.to[0].paths[0]: '{path}' is not in normal form, and what is not gets no further: it {why}",
            )
            for path, why in (
                ("a", "does not begin with /"),
                ("", "does not begin with /"),
                ("a/*", "does not begin with /"),
                ("/a//b", "holds //"),
                ("//*", "holds //"),
                ("/a/../*", "holds a segment of dots"),
                ("/%61", "escapes 'a', which needs none"),
                ("/a%2Fb", "escapes a slash"),
                ("*//b", "holds //"),
                ("*%2e", "escapes '.', which needs none"),
                ("/é", "holds a blank, a control character or one that is not ASCII"),
            )
        ),
        (
            "{grpcMethods: [/a.B/C]}",
            "spec.to[0].grpcMethods[0]: '/a.B/C' is written without the slash in front; did you mean a.B/C?",
        ),
        ("{grpcMethods: [a.B]}", "spec.to[0].grpcMethods[0]: 'a.B' names no method; did you mean a.B/*?"),
        (
            "{grpcMethods: ['a.*/C']}",
            "spec.to[0].grpcMethods[0]: 'a.*/C' is no gRPC method: package.Service/Method, package.Service/* or *",
        ),
    ],
)
def test_operations(operation, message):
    """What is meant."""
    assert problem("AuthorizationPolicy", f"{CART}, to: [{operation}]") == message


@pytest.mark.parametrize(
    ("kind", "spec", "message"),
    [
        ("DefaultPolicy", CART, "spec: says nothing: it needs inbound, tls, egress or networks"),
        (
            "DefaultPolicy",
            f"{CART}, networks: [10.1.0.0/8]",
            "spec.networks[0]: '10.1.0.0/8' has bits set beyond its prefix; did you mean 10.0.0.0/8?",
        ),
        (
            "DefaultPolicy",
            f"{CART}, inbound: open",
            "spec.inbound: 'open' is none of all-unauthenticated, all-authenticated, cluster-authenticated, deny, "
            "audit",
        ),
        (
            "EgressPolicy",
            f"{CART}, to: [{{}}]",
            "spec.to[0]: is everything: leave it out, or name hosts, networks or ports",
        ),
        (
            "EgressPolicy",
            f"{CART}, to: [{{hosts: ['*']}}]",
            "spec.to[0].hosts[0]: '*' is every name: leave `hosts` out",
        ),
        (
            "EgressPolicy",
            f"{CART}, to: [{{hosts: ['a.*.b']}}]",
            "spec.to[0].hosts[0]: 'a.*.b' has a * elsewhere than in front: a name, or `*.SUFFIX`",
        ),
        (
            "EgressPolicy",
            f"{CART}, to: [{{hosts: ['x.io:443']}}]",
            "spec.to[0].hosts[0]: 'x.io:443' is more than a name: the port goes into `ports`, a scheme nowhere",
        ),
        (
            "EgressPolicy",
            f"{CART}, to: [{{hosts: [10.0.0.1]}}]",
            "spec.to[0].hosts[0]: '10.0.0.1' is an address: those go into `networks`",
        ),
        ("EgressPolicy", f"{CART}, to: [{{hosts: ['a b']}}]", "spec.to[0].hosts[0]: 'a b' is no host name"),
        ("EgressPolicy", f"{CART}, to: [{{ports: [0]}}]", "spec.to[0].ports[0]: must be 1 or more"),
        ("PolicyPlugin", CART, "spec: must have either authorizer or python"),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: a}}, python: {{function: 'a:b'}}",
            "spec: must have either authorizer or python",
        ),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: a.b.c}}",
            "spec.authorizer.service: 'a.b.c' is neither a service (`name`, `name.namespace`) nor host:port",
        ),
        ("PolicyPlugin", f"{CART}, authorizer: {{service: 'a:0'}}", "spec.authorizer.service: port 0 cannot be called"),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: 'a:x'}}",
            "spec.authorizer.service: 'a:x' is not host:port",
        ),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: a, timeout: 0}}",
            "spec.authorizer.timeout: must be more than 0",
        ),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: a, headers: ['x y']}}",
            "spec.authorizer.headers[0]: 'x y' is no header name",
        ),
        (
            "PolicyPlugin",
            f"{CART}, authorizer: {{service: a, to: [{{paths: [x]}}]}}",
            "spec.authorizer.to[0].paths[0]: 'x' is not in normal form, and what is not gets no further: "
            "it does not begin with /",
        ),
        (
            "PolicyPlugin",
            f"{CART}, python: {{function: a}}",
            "spec.python.function: 'a' is not module:function",
        ),
        (
            "PolicyPlugin",
            f'{CART}, python: {{function: "a:b", directory: "\\0"}}',
            "spec.python.directory: must not hold NUL",
        ),
    ],
)
def test_other_kinds(kind, spec, message):
    """Defaults, egress and plugins."""
    assert problem(kind, spec) == message


def test_all_policies_are_checked():
    """Each kind refuses a target that cannot be: none is forgotten."""
    for kind in ("AuthorizationPolicy", "DefaultPolicy", "EgressPolicy", "PolicyPlugin"):
        assert kind in KINDS
        spec = "target: {kind: Mesh}, " + {
            "DefaultPolicy": "inbound: deny",
            "PolicyPlugin": "authorizer: {service: a}",
        }.get(kind, "action: Deny")
        assert problem(kind, spec).startswith("spec.target.kind: only policies of the namespace conduit")
        read(kind, spec, "conduit")
