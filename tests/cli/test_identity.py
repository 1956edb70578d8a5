"""conduit identity: how certificates are shown; real ones are in tests/end_to_end/test_mesh_identity.py."""

import json
import time
from collections.abc import Callable

import pytest

from mesh.cli.identity import apart, described, ending, verified
from mesh.local.certificates import Shown
from mesh.model.api import CertificateInfo

OWN = CertificateInfo("certificate 1", "ab" * 32, 0.0, 1e9, ("web.demo.x", "spiffe://x/ns/demo/sa/web"), "OU=issuer")
ABOVE = CertificateInfo("OU=issuer", "cd" * 32, 0.0, 2e9, (), "OU=root")
ROW = Shown("web", "demo", "web/h/1", "web.demo.x", "127.0.0.1:1", True, "", "TLSv1.3", 1e9, (OWN, ABOVE))


def test_whole_chain() -> None:
    """Who, where, over what; then each certificate with its names, its times, who signed it, and its fingerprint."""
    lines = list(described(ROW))
    assert [line.split() for line in lines[:4]] == [
        ["web.demo", "web/h/1"],
        ["identity", "web.demo.x"],
        ["address", "127.0.0.1:1", "TLSv1.3"],
        ["verified", "yes"],
    ]
    assert [line.split()[-1] for line in lines if line.split()[:1] == ["name"]] == list(OWN.names)
    assert "    validity    1970-01-01T00:00:00Z to 2001-09-09T01:46:40Z (ended 25 years ago)" in lines
    assert [line.split()[-1] for line in lines if "sha-256" in line] == ["ab" * 32, "cd" * 32]
    assert lines.index("  signed by     OU=issuer") > lines.index("  certificate   certificate 1")


def test_client_shows_nothing_to_us() -> None:
    """What was signed for it is known all the same."""
    row = Shown("load", "demo", "load/h/1", "load.demo.x", problem="it serves nobody", not_after=time.time() + 7230)
    assert list(described(row))[2:4] == [
        "  verified      it serves nobody",
        "  certificate   ends in 2h, as it was signed",
    ]


@pytest.mark.parametrize(
    ("good", "problem", "shown"),
    [(True, "", "yes"), (False, "has expired\x1b", "no: has expired\\x1b"), (None, "unreachable", "unreachable")],
)
def test_verified(good: bool | None, problem: str, shown: str) -> None:
    """Yes, no and why, or why it is not known."""
    assert verified(Shown("web", "demo", "p", "i", verified=good, problem=problem)) == shown


def test_no_certificate_does_not_end() -> None:
    """A dash, not 1970."""
    assert ending(0.0) == "-"


@pytest.mark.parametrize(
    ("workload", "namespace", "wanted"),
    [("", "", ("", "")), ("web", "", ("web", "")), ("web.demo", "", ("web", "demo")), ("web", "demo", ("web", "demo"))],
)
def test_ways_to_name_a_workload(workload: str, namespace: str, wanted: tuple[str, str]) -> None:
    """With its namespace or without."""
    assert apart(workload, namespace) == wanted


def test_nobody_connected(conduit: Callable, secure: str) -> None:
    """None of all is fine, a named one is missing."""
    assert conduit("identity") == (0, "", "no proxy is connected\n")
    assert json.loads(conduit("identity", "-o", "json").out) == []
    missing = conduit("identity", "web", "-n", "demo")
    assert missing == (1, "", "conduit: no proxy of a workload web is connected in demo\n")


def test_mesh_without_identities(conduit: Callable, control: str) -> None:
    """Told as that, rather than as nothing found."""
    assert conduit("identity").err == "conduit: this mesh has no identities: its control plane was given no issuer\n"
