"""conduit check, against a real control plane with trust and without proxies."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mesh.cli.check import connect, summary, table
from mesh.local.checks import Check, Status

OK = Check("trust", "the issuer holds", Status.OK, "OU=x ends in 2h")
WARNING = Check("trust", "a root holds", Status.WARNING, "OU=y ends in 2h\x1b", "add another")
FAILED = Check("proxies", "are connected", Status.FAILED, "", "look")


def test_blocks_and_hints() -> None:
    """A block for each category; a hint where something is to be done; nothing that moves a cursor."""
    assert table([OK, WARNING, FAILED], coloured=False) == (
        "trust\n"
        "  ok    the issuer holds: OU=x ends in 2h\n"
        "  warn  a root holds: OU=y ends in 2h\\x1b\n"
        "        add another\n"
        "\n"
        "proxies\n"
        "  FAIL  are connected\n"
        "        look\n"
        "\n"
        "3 checks: 1 failed, 1 with a warning\n"
    )
    assert "\x1b[32mok" in table([OK], coloured=True)
    assert summary([OK, OK]) == "all 2 checks are ok"


def test_control_plane_without_proxies(conduit: Callable, secure: str) -> None:
    """Its trust is good, the workloads that it knows are missed, and that is a failure."""
    result = conduit("check", "-o", "json")
    assert (result.code, result.err) == (1, "")
    found = {f"{check['category']} {check['name']}": check for check in json.loads(result.out)}
    assert found["control plane answers"]["detail"].startswith(f"{secure}, version ")
    for name in ("control plane proved who it is", "trust a root holds", "trust the issuer holds"):
        assert found[name]["status"] == "ok", found[name]
    assert found["proxies are connected"]["detail"] == "0 of 2 of words-v1.demo"
    assert [name for name, check in found.items() if check["status"] == "failed"] == ["proxies are connected"]
    assert found["endpoints each service has one"]["status"] == "warning"


def test_table_in_a_pipe(conduit: Callable, secure: str) -> None:
    """Plain text, all on stdout."""
    result = conduit("check")
    assert (result.code, result.err) == (1, "")
    assert result.out.startswith("control plane\n  ok    answers: https://")
    assert "\x1b" not in result.out


def test_margin_is_an_option(conduit: Callable, secure: str) -> None:
    """A root that ends within it is a warning, which fails nothing by itself."""
    found = json.loads(conduit("check", "--expiry-warning", "99999h", "-o", "json").out)
    assert {check["status"] for check in found if check["name"] == "a root holds"} == {"ok"}
    assert conduit("check", "--expiry-warning", "soon").code == 2


def test_nobody_answers(conduit: Callable, own_runtime_folder: Path) -> None:
    """One check that failed, in the same shape as ever, with what to do."""
    result = conduit("check", "-o", "json")
    [check] = json.loads(result.out)
    assert (result.code, check["status"]) == (1, "failed")
    assert check["detail"].startswith("no mesh is running")


@pytest.mark.parametrize("address", ["127.0.0.1:{}", "[::1]:{}"])
def test_endpoint_that_does_not_accept(free_port: Callable[[], int], address: str) -> None:
    """Why not, in the system's words."""
    assert connect(address.format(free_port()))
