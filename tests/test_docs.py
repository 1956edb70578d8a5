"""The documentation is part of the product: what it names is there, and what is there it names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest
import structlog
import trio
from prometheus_client.parser import text_string_to_metric_families

from mesh.cli.main import VERBS, conduit
from mesh.control.aggregate import Aggregate
from mesh.control.applied import Applied
from mesh.control.cluster import Cluster
from mesh.control.files import Files
from mesh.control.meta_api import MetaApi
from mesh.control.observe_api import ObserveApi
from mesh.control.openapi import document
from mesh.control.push import Push
from mesh.control.resources_api import ResourcesApi
from mesh.control.routes import Request
from mesh.control.tap import Taps
from mesh.model import config, resources
from mesh.model.documents import decode_resource, load_documents
from mesh.model.limits import Limits
from mesh.model.proxy_yaml import load_proxy_config
from mesh.proxy import metrics
from mesh.proxy.report import Reports
from mesh.proxy.rescue import ANSWERS, Reason

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("examples/*/*.md")])
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


def test_every_field_of_a_traffic_policy_is_told() -> None:
    """The resource that a proxy alone obeys, and its timeouts."""
    told = rows(section(page("proxy-yaml.md"), "`resources[]`"))
    wanted = {*resources.TrafficPolicySpec.__struct_fields__, *config.Timeouts.__struct_fields__}
    assert told.keys() == wanted


def test_every_field_of_a_workload_is_told() -> None:
    """The guide says all that a Workload may say."""
    told = rows(section(page("guide.md"), "What a Workload says"))
    assert told.keys() == set(resources.WorkloadSpec.__struct_fields__)


def test_every_protocol_and_mode_is_told() -> None:
    """The values that may be written for them."""
    text = page("proxy-yaml.md")
    assert rows(section(text, "`protocol`")).keys() == {protocol.value for protocol in config.Protocol}
    assert all(f"`{mode.value}`" in section(text, "`inbound[].tls`") for mode in config.TlsMode)


def default_of(field: msgspec.structs.FieldInfo) -> str:
    """A field's default as the page writes it."""
    default = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    match default:
        case msgspec.UNSET | msgspec.NODEFAULT:
            return "required"
        case None:
            return "none"
        case ():
            return "`[]`"
        case "":
            return '`""`'
        case Limits():
            return "all defaults"
        case _:
            return f"`{default}`"


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
    """All families of a scrape, and all labels of the proxy's own."""
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


# --- the command line ------------------------------------------------------------------


def test_every_verb_and_option_is_told() -> None:
    """Each verb has its section; each of its options stands there with all of its names, and no other does."""
    text = page("cli.md")
    assert {word for word in HEADING.findall(text) if word.islower()} == set(VERBS)
    for verb in VERBS:
        command = conduit.get_command(click.Context(conduit), verb)
        assert command is not None
        options = {name for option in command.params if isinstance(option, click.Option) for name in option.opts}
        told = {name for line in section(text, verb).splitlines() if line.startswith("| `-") for name in named(line)}
        assert told == options, verb


def named(line: str) -> list[str]:
    """The options in the first cell of a row."""
    return re.findall(r"`(--?[a-z][a-z0-9-]*)", re.split(r"(?<!\\)\|", line)[1])


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
    """The document as the control plane serves it."""
    log = structlog.get_logger()
    cluster, aggregate, taps = Cluster(), Aggregate(trio.current_time()), Taps()
    push = Push(cluster, aggregate, taps, "epoch", log)
    files = Files([], state, cluster, push.changed, log)
    meta = MetaApi("0")
    routes = [
        *ObserveApi(cluster, aggregate, taps, push, "0").routes(),
        *ResourcesApi(cluster, Applied(cluster, files)).routes(),
        *meta.routes(),
    ]
    meta.describe(routes)
    answer = await meta.openapi(Request("GET", "/api/v1/openapi.json"))
    assert json.loads(answer.body) == json.loads(msgspec.json.encode(document(routes, "0")))
    found: dict[str, dict[str, dict[str, dict[str, list[dict[str, str]]]]]] = json.loads(answer.body)
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
    for path in PAGES:
        for language, text in FENCE.findall(path.read_text()):
            if language == "yaml":
                yield path.relative_to(ROOT).as_posix(), text


@pytest.mark.parametrize(
    ("path", "text"), [pytest.param(*block, id=f"{block[0]}-{i}") for i, block in enumerate(yaml_blocks())]
)
def test_yaml_in_the_pages_is_accepted(path: str, text: str) -> None:
    """What a reader may copy is what the product takes: resources, or a whole proxy.yaml."""
    if text.startswith("apiVersion:"):
        for found in load_documents(text, path):
            assert decode_resource(found)
    else:
        assert load_proxy_config(text, path).outbound


@pytest.mark.parametrize("check", [rows, anchors], ids=lambda check: check.__name__)
def test_tables_and_headings_are_read(check: Callable[[str], object]) -> None:
    """The readers above find something in every reference page: none of these tests passes for want of a table."""
    for name in ("proxy-yaml.md", "errors.md", "metrics.md", "cli.md", "api.md"):
        assert check(page(name)), name
