"""conduit edges: how edges are shown; whole ones are in tests/end_to_end/test_mesh_identity.py."""

import json
from collections.abc import Callable

import yaml

from mesh.cli.edges import show
from mesh.model.api import Edge
from mesh.model.identity import Identity

WEB, WORDS = str(Identity("web", "demo")), str(Identity("words-v1", "demo"))
SECURED = Edge(
    *("web", "words", 90, 9.0, 0.5, 1.25, 300.0, "true", "demo", "words-v1", "demo", WEB, WORDS),
    secured=True,
)
PLAIN = Edge("", "words.demo", 1, 0.1, 1.0, None, None, "disabled", "", "words-v1", "demo", reason="plain text")


def test_secured_edges_need_no_reasons() -> None:
    """Identities are short, and nothing has to be explained."""
    title, line = show([SECURED], "table").splitlines()
    assert title.split() == [
        *("SOURCE", "TO", "WORKLOAD", "SECURED", "CLIENT", "SERVER"),
        *("SUCCESS", "RPS", "LATENCY_P50", "LATENCY_P99"),
    ]
    assert line.split() == [
        *("web", "words", "words-v1", "yes", "web.demo", "words-v1.demo"),
        *("50.00%", "9.0rps", "1.2ms", "300ms"),
    ]


def test_an_edge_in_plain_text_says_why() -> None:
    """Who called is not known, and nobody proved anything."""
    title, secured, plain = show([SECURED, PLAIN], "table").splitlines()
    assert title.endswith("REASON")
    assert secured.endswith("-")
    assert plain.split() == [
        *("-", "words.demo", "words-v1", "no", "-", "-", "100.00%", "0.1rps", "-", "-"),
        "plain",
        "text",
    ]


def test_wide_shows_all() -> None:
    """Identities in full, the namespace and the number of requests."""
    title, line = show([SECURED], "wide").splitlines()
    assert {"NAMESPACE", "REQUESTS"} <= set(title.split())
    assert {WEB, WORDS, "90"} <= set(line.split())


def test_programs_get_what_the_api_says() -> None:
    """The list of edges, in JSON and YAML."""
    [edge] = json.loads(show([SECURED], "json"))
    assert (edge["client_identity"], edge["server_identity"], edge["secured"], edge["reason"]) == (WEB, WORDS, True, "")
    assert yaml.safe_load(show([SECURED], "yaml")) == [edge]


def test_quiet_mesh(conduit: Callable, secure: str) -> None:
    """Nothing was called: an empty list for programs, a sentence for people."""
    assert conduit("edges") == (0, "", "nobody has called anybody\n")
    assert conduit("edges", "-n", "demo", "-t", "0", "-o", "json") == (0, "[]\n", "")
