"""conduit run: what it makes of its words. Its life is tested in tests/local/test_join.py and in test_demo.py."""

from collections.abc import Callable

import click
import pytest

from mesh.cli.run import checked
from mesh.model.config import Protocol


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["me", "--port", "often", "--", "serve"], "port: 'often' is neither a number nor auto"),
        (["me", "--port", "70000", "--", "serve"], "port: 70000 is not within"),
        (["Me_!", "--", "serve"], "name: "),
        (["me", "--", "serve", "${PORT}"], "stands for nothing without"),
        (["me"], "Missing argument"),
        (["me", "--account", "A_", "--", "serve"], "account: "),
        (["me", "--protocol", "gopher", "--", "serve"], "'gopher'"),
    ],
)
def test_wrong_usage_is_told(conduit: Callable, words: list[str], told: str) -> None:
    """By the rules that hold for YAML, and before anything starts."""
    result = conduit("run", *words)
    assert (result.code, result.out) == (2, "")
    assert told in result.err


def test_workload_is_what_was_said() -> None:
    """Options become the fields of a Workload."""
    spec = {"command": ["serve", "-x"], "service": "site", "version": "v3", "port": 8080, "protocol": "http2"}
    spec["account"] = "booth"
    workload = checked("web", "demo", spec)
    assert (workload.metadata.name, workload.metadata.namespace) == ("web", "demo")
    assert workload.spec.account == "booth"
    assert (workload.spec.command, workload.spec.port, workload.spec.protocol) == (("serve", "-x"), 8080, "http2")
    with pytest.raises(click.UsageError):
        checked("", "demo", spec)


@pytest.mark.parametrize("protocol", [*Protocol])
def test_protocols_are_written_as_in_yaml(conduit: Callable, protocol: Protocol) -> None:
    """Each is taken: without a mesh, that is all that is wrong."""
    result = conduit("run", "me", "--port", "auto", "--protocol", protocol.value, "--", "serve")
    assert (result.code, result.out) == (1, "")
    assert "no mesh is running to join" in result.err


def test_options_of_the_program_are_its_own(conduit: Callable) -> None:
    """What follows -- is not read by us: without a mesh, that is all that is wrong."""
    result = conduit("run", "me", "--", "serve", "--port", "x", "--help")
    assert (result.code, result.out) == (1, "")
    assert "no mesh is running to join" in result.err
