"""The documentation is part of the product: what it names is there, and what is there it names."""

from __future__ import annotations

import enum
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import get_args

import click
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mesh.cli.get import names
from mesh.cli.main import VERBS, conduit
from mesh.model import api, authorization, compose, config, gateway, resources, traffic
from mesh.model.documents import decode_resource, load_documents
from mesh.model.durations import duration_text
from mesh.model.limits import Limits
from mesh.model.proxy_yaml import INLINE, load_proxy_config
from mesh.proxy import metrics
from mesh.proxy.report import Reports, Tally
from mesh.proxy.rescue import ANSWERS, Reason
from tests.control.conftest import running

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*/*.md")])
POLLS = ROOT / "examples" / "polls"
EXAMPLES = sorted(POLLS.rglob("*.yaml"))
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)|<img[^>]* src=\"([^\"]+)\"")


def page(name: str) -> str:
    return (DOCS / name).read_text()


def section(text: str, heading: str) -> str:
    """What stands under a heading, to the next one."""
    found = re.search(rf"^#+ +{re.escape(heading)}$\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"there is no heading {heading!r}"
    return found[1]


def rows(text: str) -> dict[str, list[str]]:
    """The tables' rows by the word in their first cell, without its backquotes."""
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| `")]
    return {cells[0].strip().strip("`"): [cell.strip() for cell in cells[1:]] for cells in lines}


# --- proxy.yaml ------------------------------------------------------------------------


def test_every_limit_has_its_default() -> None:
    """Each bound stands in the table with the default it has, and nothing else does."""
    told = {name: cells[0] for name, cells in rows(section(page("proxy-yaml.md"), "Limits")).items()}
    assert told == {name: f"`{value}`" for name, value in msgspec.to_builtins(Limits()).items()}


@pytest.mark.parametrize(
    ("heading", "struct"),
    [
        ("The top", config.ProxyConfig),
        ("`outbound[]`", config.OutboundListener),
        ("`inbound[]`", config.InboundListener),
        ("`inbound[].tls`", config.InboundTls),
        ("`services.NAME`", config.ServiceEntry),
        ("`services.NAME.endpoints[]`", config.Endpoint),
        ("`control`", config.ControlLink),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_field_of_proxy_yaml_has_its_default(heading: str, struct: type[msgspec.Struct]) -> None:
    """Each field stands under its heading, with the default it has in words that a reader would write."""
    told = {name: cells[0] for name, cells in rows(section(page("proxy-yaml.md"), heading)).items()}
    assert told == {field.encode_name: default_of(field) for field in msgspec.structs.fields(struct)}


def test_every_kind_that_stands_in_proxy_yaml_is_told() -> None:
    """The resources that a proxy alone obeys, and no other."""
    text = section(page("proxy-yaml.md"), "`resources[]`")
    assert {kind for kind in resources.KINDS if f"[`{kind}`]" in text} == set(INLINE)


def test_every_protocol_and_mode_is_told() -> None:
    """The values that may be written for them."""
    text = page("proxy-yaml.md")
    assert rows(section(text, "`protocol`")).keys() == {protocol.value for protocol in config.Protocol}
    assert all(f"`{mode.value}`" in section(text, "`inbound[].tls`") for mode in config.TlsMode)


def bare_default(field: msgspec.structs.FieldInfo) -> object:
    """A field's default; UNSET or NODEFAULT where it has none."""
    return field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as the page of proxy.yaml writes it."""
    default = bare_default(field)
    match default:
        case msgspec.UNSET | msgspec.NODEFAULT:
            return "required"
        case None:
            return "none"
        case ():
            return "`[]`"
        case "":
            return '`""`'
        case Limits() | authorization.Egress():
            return "all defaults"
        case _:
            return f"`{default}`"


# --- resources -------------------------------------------------------------------------

STRUCTS: dict[type[msgspec.Struct], str] = {
    resources.Metadata: "`metadata`",
    resources.WorkloadSpec: "Workload",
    resources.EndpointSpec: "Endpoint",
    resources.TrafficPolicySpec: "TrafficPolicy",
    resources.FaultSpec: "Fault",
    gateway.HTTPRouteSpec: "HTTPRoute",
    gateway.GRPCRouteSpec: "GRPCRoute",
    config.Timeouts: "`timeouts`",
    traffic.Retry: "`retry`",
    traffic.Hedge: "`hedge`",
    traffic.RetryBudget: "`budget`",
    traffic.Breaker: "`breaker`",
    traffic.HealthCheck: "`health`",
    traffic.Balancing: "`balancing`",
    traffic.HashOn: "`hash`",
    traffic.RateLimit: "`rateLimits[]`",
    traffic.Concurrency: "`concurrency`",
    traffic.Injection: "`faults[]`",
    traffic.Abort: "`abort`",
    traffic.Match: "`match`",
    traffic.PathMatch: "`path`",
    traffic.FieldMatch: "`headers[]` and `query[]`",
    gateway.ParentRef: "`parentRefs[]`",
    gateway.HTTPRouteRule: "Rules of an HTTPRoute",
    gateway.HTTPRouteMatch: "Matches of an HTTPRoute",
    gateway.HTTPPathMatch: "Path of an HTTPRoute",
    gateway.ValueMatch: "`headers[]`, `queryParams[]`",
    gateway.HTTPRouteFilter: "Filters of an HTTPRoute",
    gateway.HeaderFilter: "Header modifiers",
    gateway.HTTPHeader: "`set[]` and `add[]`",
    gateway.RequestMirror: "`requestMirror`",
    gateway.Fraction: "`fraction`",
    gateway.RequestRedirect: "`requestRedirect`",
    gateway.URLRewrite: "`urlRewrite`",
    gateway.PathModifier: "Path of a redirect or rewrite",
    gateway.WeightedBackendRef: "`backendRefs[]`",
    gateway.BackendRef: "`backendRef`",
    gateway.HTTPRouteTimeouts: "Timeouts of an HTTPRoute",
    gateway.HTTPRouteRetry: "Retry of an HTTPRoute",
    gateway.GRPCRouteRule: "Rules of a GRPCRoute",
    gateway.GRPCRouteMatch: "Matches of a GRPCRoute",
    gateway.GRPCMethodMatch: "Method of a GRPCRoute",
    gateway.GRPCRouteFilter: "Filters of a GRPCRoute",
    resources.AuthorizationPolicySpec: "AuthorizationPolicy",
    resources.Target: "`target`",
    authorization.Source: "Callers",
    authorization.Operation: "Operations",
    resources.DefaultPolicySpec: "DefaultPolicy",
    resources.EgressPolicySpec: "EgressPolicy",
    authorization.Destination: "Destinations",
    resources.PolicyPluginSpec: "PolicyPlugin",
    resources.ExternalAuthorizer: "`authorizer`",
    resources.EntryPoint: "`python`",
}
"""What people write, and the heading in docs/resources.md that it stands under."""


def reachable(kind: msgspec.inspect.Type) -> Iterator[msgspec.inspect.StructType | msgspec.inspect.EnumType]:
    """All structs and enumerations within a type."""
    match kind:
        case msgspec.inspect.StructType():
            yield kind
            for field in kind.fields:
                yield from reachable(field.type)
        case msgspec.inspect.EnumType():
            yield kind
        case msgspec.inspect.UnionType():
            for option in kind.types:
                yield from reachable(option)
        case msgspec.inspect.VarTupleType():
            yield from reachable(kind.item_type)
        case msgspec.inspect.Metadata():
            yield from reachable(kind.type)


def within_resources() -> set[type]:
    """All structs and enumerations that a resource may hold."""
    kinds = [msgspec.inspect.type_info(kind) for kind in resources.KINDS.values()]
    return {found.cls for kind in kinds for found in reachable(kind)}


def test_every_kind_is_told() -> None:
    """Each kind stands in the table with all that its apiVersion may be, and has its section."""
    text = page("resources.md").partition("## `metadata`")[0]
    for kind, versions in resources.API_VERSIONS.items():
        [line] = [line for line in text.splitlines() if line.startswith(f"| [`{kind}`]")]
        assert versions[0] in line
        assert all(f"`{version.rpartition('/')[2]}`" in line for version in versions[1:])


def test_every_struct_has_its_heading() -> None:
    """What a resource may hold is a key of STRUCTS, but for the envelopes; so a new one cannot be forgotten."""
    structs = {found for found in within_resources() if issubclass(found, msgspec.Struct)}
    assert structs - set(resources.KINDS.values()) == STRUCTS.keys()


@pytest.mark.parametrize(("struct", "heading"), STRUCTS.items(), ids=lambda value: getattr(value, "__name__", ""))
def test_every_field_of_a_resource_has_its_default(struct: type[msgspec.Struct], heading: str) -> None:
    """Each field stands under its heading, with the default it has as YAML would say it."""
    told = {name: cells[0] for name, cells in rows(section(page("resources.md"), heading)).items()}
    assert told == {field.encode_name: yaml_default(field) for field in msgspec.structs.fields(struct)}


def yaml_default(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as the page of resources writes it."""
    default = bare_default(field)
    match default:
        case msgspec.UNSET | msgspec.NODEFAULT:
            return "required"
        case None:
            return "none"
        case traffic.Match():
            return "every request"
        case msgspec.Struct():
            return "all defaults"
        case (msgspec.Struct(),):
            return "one, of defaults"
        case "":
            return '`""`'
        case tuple():
            return f"`{list(default)}`"
        case enum.Enum():
            return f"`{default.value}`"
        case bool():
            return f"`{str(default).lower()}`"
        case float() if is_duration(field):
            return f"`{duration_text(default) if default else 0}`"
        case float():
            return f"`{default:g}`"
        case _:
            return f"`{default}`"


def is_duration(field: msgspec.structs.FieldInfo) -> bool:
    """Whether YAML may say it as `300ms`."""
    kind = msgspec.inspect.type_info(field.type)
    return isinstance(kind, msgspec.inspect.Metadata) and (kind.extra or {}).get("duration") is True


def test_every_value_of_an_enumeration_is_told() -> None:
    """Each word that a field may be stands in the page of resources; protocols have a table of their own."""
    text = page("resources.md")
    enums = {found for found in within_resources() if issubclass(found, enum.StrEnum)} - {config.Protocol}
    assert len(enums) > 8
    assert {f"{kind.__name__}.{word}" for kind in enums for word in kind if f"`{word.value}`" not in text} == set()


def test_every_field_of_a_workload_is_told() -> None:
    """The guide says all that a Workload may say."""
    told = rows(section(page("guide.md"), "What a Workload says"))
    assert told.keys() == set(resources.WorkloadSpec.__struct_fields__)


def test_every_condition_is_told() -> None:
    """Types and reasons are those in the code, and in the words of the API."""
    source = inspect.getsource(compose)
    reasons = set(re.findall(r'Condition\("\w+", (?:True|False), "(\w+)"', source))
    reasons |= set(re.findall(r'reason = "(\w+)" if .* else "(\w+)"', source)[0])
    assert len(reasons) == 7
    table = section(page("resources.md"), "Conditions")
    assert set(re.findall(r"^\| `\w+` \| `(\w+)` \|", table, re.MULTILINE)) == reasons
    assert all(reason in inspect.getsource(api.Condition) for reason in reasons)
    assert rows(table).keys() == set(re.findall(r'Condition\("(\w+)"', source))


# --- errors, metrics -------------------------------------------------------------------


def test_every_reason_has_its_statuses() -> None:
    """Each reason stands in the table with the HTTP and gRPC status that it is answered with."""
    table = page("errors.md").partition("## What is sent again")[0]
    told = {name: (int(cells[0]), int(cells[1].split()[0])) for name, cells in rows(table).items()}
    assert told == {reason.value: (ANSWERS[reason].status, ANSWERS[reason].grpc_status) for reason in Reason}


def test_every_refusal_of_http1_is_told() -> None:
    """Each word that the HTTP/1.1 parser refuses with stands in the list, with its status where that is not 400."""
    sources = "".join(path.read_text() for path in (ROOT / "mesh/wire").glob("http1*.py"))
    found = re.findall(r'Malformed\(\s*"(\w+)",(?:[^()"]|"[^"]*")*?(?:, (\d{3}))?\s*\)', sources)
    assert len(found) > 30, "the parser's refusals are not written as they used to be"
    text = section(page("errors.md"), "Refused before it is a request")
    told = {line.split("|")[1].strip(): line for line in text.splitlines() if re.match(r"\| \d{3} ", line)}
    answers_only = {"status_line", "upgrade_not_asked"}
    missing = {
        (word, status)
        for word, status in found
        if word not in answers_only and f"`{word}`" not in "".join(told.values())
    }
    assert not missing
    assert all(f"`{word}`" in told[status] for word, status in found if status)


def test_every_metric_family_is_told() -> None:
    """All families of a scrape, with the labels of those that policy counts, and all labels of the proxy's own."""
    reports = Reports(10)
    reports.record(reports.scope("inbound", "a", "", "true"), "http1", 200, -1, "completed", "", 0.1, 0.1)
    reports.connections("inbound", "a").opened += 1
    reports.refuse("x", "inbound")
    body, _ = metrics.render(reports)
    text = page("metrics.md")
    families = list(text_string_to_metric_families(body.decode()))
    names = {family.name + ("_total" if family.type == "counter" else "") for family in families}
    assert len(names) > 10
    assert {name for name in names if f"`{name}`" not in text} == set()
    assert rows(section(text, "Labels")).keys() == set(metrics.LABELS)
    told = rows(section(text, "Families"))
    for tally in Tally:
        assert told[f"{tally.value}_total"][1] == f"`service`, `{metrics.TALLIES[tally][1]}`"


def test_every_detail_of_a_tally_is_told() -> None:
    """What the proxy counts under a family's second label stands in the family's row, where it is a closed list."""
    told = rows(section(page("metrics.md"), "Families"))
    found = set()
    for path in (ROOT / "mesh/proxy").glob("*.py"):
        found |= set(re.findall(r'tally\(Tally\.(\w+), [\w.]+, "(\w+)"\)', path.read_text()))
        found |= {("RETRY", word) for word in re.findall(r'_may\(exchange, "(\w+)"', path.read_text())}
        found |= {("MIRROR", word) for word in re.findall(r'self\.over\("(\w+)"', path.read_text())}
    assert {kind for kind, _ in found} == {"RETRY", "RETRY_REFUSED", "HEDGE", "MIRROR", "FAULT", "LIMITED"}
    for kind, word in found:
        assert f"`{word}`" in told[f"{Tally[kind].value}_total"][2], (kind, word)


# --- the command line ------------------------------------------------------------------


def commands() -> Iterator[tuple[str, click.Command]]:
    """Each verb and subcommand, as it is typed."""
    for verb in VERBS:
        command = conduit.get_command(click.Context(conduit), verb)
        assert command is not None
        yield verb, command
        if isinstance(command, click.Group):
            yield from ((f"{verb} {name}", below) for name, below in command.commands.items())


def test_every_verb_and_option_is_told() -> None:
    """Each verb and subcommand has its section; each of its options stands there with all of its names, and no other
    does."""
    text = page("cli.md")
    known = dict(commands())
    assert {"fault add", "fault list", "fault clear"} <= known.keys()
    assert {word for word in HEADING.findall(FENCE.sub("", text)) if word.islower()} == known.keys()
    for verb, command in known.items():
        options = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
        told = {name for line in section(text, verb).splitlines() if line.startswith("| `-") for name in named(line)}
        assert told == options, verb


def test_every_kind_of_get_is_told() -> None:
    """All kinds, by a name that it takes and with its short ones."""
    text = section(page("cli.md"), "get")
    for kind in names().values():
        words = [word for word, meant in names().items() if meant == kind]
        assert any(f"`{word}`" in text for word in words), kind
        assert all(f"`{word}`" in text for word in words if len(word) == 2), kind


def named(line: str) -> list[str]:
    """The options in the first cell of a row."""
    return re.findall(r"`(--?[A-Za-z][a-z0-9-]*)", re.split(r"(?<!\\)\|", line)[1])


# --- the API ---------------------------------------------------------------------------


async def test_every_route_is_told(tmp_path: Path) -> None:
    """The routes in the page are those of the OpenAPI document, and each is told with its parameters."""
    paths = (await openapi(tmp_path))["paths"]
    table = section(page("api.md"), "Routes")
    told = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    assert told.keys() == {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    for path, methods in paths.items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                route = f"{method.upper()} {path}"
                known = told[route] + told.get(route.removesuffix("/watch"), "")
                assert f"`{parameter['name']}`" in known or "{" + parameter["name"] + "}" in known, route


async def openapi(state: Path) -> dict[str, dict[str, dict[str, dict[str, list[dict[str, str]]]]]]:
    """The document as a control plane serves it."""
    async with running(state) as plane:
        found: dict[str, dict[str, dict[str, dict[str, list[dict[str, str]]]]]] = await plane.get(
            "/api/v1/openapi.json"
        )
    return found


# --- the pages themselves --------------------------------------------------------------


def broken_links(path: Path) -> Iterator[str]:
    """Relative links of a page that lead to no file, or to no heading in it."""
    text = FENCE.sub("", path.read_text())
    for found in LINK.finditer(text):
        target = found[1] or found[2]
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        aim = (path.parent / name).resolve() if name else path
        if not aim.exists():
            yield f"{path.name}: {target}"
        elif anchor and anchor not in anchors(aim.read_text()):
            yield f"{path.name}: {target}: no such heading"


def anchors(text: str) -> set[str]:
    """What the headings of a page are linked by."""
    headings = HEADING.findall(FENCE.sub("", text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path: Path) -> None:
    """A link to a file of this repository, or to a heading, finds it."""
    assert list(broken_links(path)) == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    """The check itself: a missing file and a missing heading are told, what is there or elsewhere is not."""
    (tmp_path / "b.md").write_text("# One `thing`, two\n```\n# no heading\n```\n")
    (tmp_path / "a.md").write_text("[x](b.md#one-thing-two) [y](https://a.example/b) [z](c.md) [w](b.md#no-heading)\n")
    assert list(broken_links(tmp_path / "a.md")) == ["a.md: c.md", "a.md: b.md#no-heading: no such heading"]


def yaml_blocks() -> Iterator[tuple[str, str]]:
    """The YAML in the pages and in the files of the examples, each with where it is from."""
    for path in PAGES:
        for language, text in FENCE.findall(path.read_text()):
            if language == "yaml":
                yield path.relative_to(ROOT).as_posix(), text
    for path in EXAMPLES:
        yield path.relative_to(ROOT).as_posix(), path.read_text()


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(*block, id=f"{block[0]}-{i}") for i, block in enumerate(yaml_blocks())]
)
def test_yaml_in_the_pages_is_accepted(path: str, text: str) -> None:
    """What a reader may copy is what the product takes: resources, or a whole proxy.yaml."""
    if re.search("^apiVersion:", text, re.MULTILINE):
        for found in load_documents(text, path):
            assert decode_resource(found)
    else:
        assert load_proxy_config(text, path).outbound


ABOUT_CALLERS = {kind.__name__ for kind in get_args(resources.Policy)}
"""Kinds that say who may call whom: docs/policy.md has them."""


def test_policy_has_an_example_of_every_kind() -> None:
    """Each kind that says who may call whom is in one of the page's examples."""
    blocks = [text for path, text in yaml_blocks() if path == "docs/policy.md"]
    kinds = {each.value["kind"] for text in blocks for each in load_documents(text, "policy.md")}
    assert kinds == ABOUT_CALLERS


def test_traffic_has_an_example_of_every_part() -> None:
    """Each kind that is about traffic, and each field of a policy, is in one of the page's examples."""
    blocks = [text for path, text in yaml_blocks() if path == "docs/traffic.md"]
    found = [each.value for text in blocks for each in load_documents(text, "traffic.md")]
    assert {value["kind"] for value in found} == set(INLINE) - ABOUT_CALLERS
    policies = [decode_resource(each) for text in blocks for each in load_documents(text, "traffic.md")]
    assert all(not isinstance(one, resources.TrafficPolicy) or one.spec.service for one in policies)
    used = {name for value in found if value["kind"] == "TrafficPolicy" for name in value["spec"]}
    fields = {field.encode_name for field in msgspec.structs.fields(resources.TrafficPolicySpec)}
    assert used == fields - {"faults", "protocol"}


def test_things_to_try_fit_the_demo() -> None:
    """The files beside the demo are about its own services, each is told, and together they collide with nothing."""
    site = [decode_resource(each) for each in load_documents((POLLS / "mesh.yaml").read_text(), "mesh.yaml")]
    files = sorted((POLLS / "try").glob("*.yaml"))
    assert len(files) >= 4
    told = rows(section((POLLS / "README.md").read_text(), "Things to try"))
    assert told.keys() == {f"try/{path.name}" for path in files}
    tried = [decode_resource(each) for path in files for each in load_documents(path.read_text(), path.name)]
    keys = [(one.kind, one.metadata.namespace, one.metadata.name) for one in [*site, *tried]]
    assert len(set(keys)) == len(keys)
    workloads = [one for one in [*site, *tried] if isinstance(one, resources.Workload)]
    there = {(one.metadata.namespace, one.spec.service or one.metadata.name) for one in workloads}

    def exists(namespace: str, name: str) -> bool:
        return (namespace, name) in there

    policies = [one for one in tried if isinstance(one, resources.TrafficPolicy)]
    routes = [one for one in tried if isinstance(one, resources.Route)]
    for one in tried:
        found = compose.conditions(one, policies=policies, routes=routes, exists=exists)
        assert all(condition.status for condition in found), (one.metadata.name, found)
        assert bool(found) is not isinstance(one, resources.Workload)
        if isinstance(one, resources.Workload):
            assert (POLLS / "try" / one.spec.directory / one.spec.command[1]).is_file()


@pytest.mark.parametrize("check", [rows, anchors], ids=lambda check: check.__name__)
def test_tables_and_headings_are_read(check: Callable[[str], object]) -> None:
    """The readers above find something in every reference page: none of these tests passes for want of a table."""
    for name in ("proxy-yaml.md", "resources.md", "errors.md", "metrics.md", "cli.md", "api.md"):
        assert check(page(name)), name
