"""conduit token: what it prints opens what it says, and no more."""

import time
from collections.abc import Callable

import httpx
import pytest

from mesh.control.tokens import Bearer, Role, read, role_token


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch, own_runtime_folder: object) -> str:
    """The admin's token, in the environment; nothing runs."""
    monkeypatch.setenv("CONDUIT_CONTROL", "http://127.0.0.1:1")
    monkeypatch.setenv("CONDUIT_TOKEN", "secret")
    return "secret"


@pytest.mark.parametrize("role", ["view", "tap", "admin"])
def test_a_token_is_printed(conduit: Callable, secret: str, role: str) -> None:
    """Alone on stdout, so that a shell can take it; it needs no control plane to run."""
    result = conduit("token", "create", "--role", role, "--name", "ci")
    assert (result.code, result.err) == (0, "")
    assert read(secret, result.out.strip(), time.time()) == Bearer(Role(role), "ci")


@pytest.mark.parametrize(("written", "seconds"), [("30d", 30 * 86_400), ("12h", 43_200), ("90", 90)])
def test_a_token_expires_when_it_was_told(conduit: Callable, secret: str, written: str, seconds: float) -> None:
    """Days too."""
    before = time.time()
    result = conduit("token", "create", "--role", "view", "--name", "ci", "--expires", written)
    bearer = read(secret, result.out.strip(), time.time())
    assert bearer is not None
    assert before + seconds <= bearer.expires <= time.time() + seconds


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--role", "proxy", "--name", "x"), "proxy"),
        (("--role", "view"), "--name"),
        (("--name", "x"), "--role"),
        (("--role", "view", "--name", ""), "1 to 100 printable"),
        (("--role", "view", "--name", "x", "--expires", "soon"), "is not a duration"),
        (("--role", "view", "--name", "x", "--expires", "0d"), "longer than nothing"),
    ],
)
def test_wrong_usage(conduit: Callable, secret: str, words: tuple[str, ...], told: str) -> None:
    """Says what is wrong."""
    result = conduit("token", "create", *words)
    assert result.code == 2
    assert told in result.err
    assert result.out == ""


def test_a_derived_token_makes_none(conduit: Callable, secret: str) -> None:
    """Nobody would believe it."""
    derived = role_token(secret, "admin", "ann")
    result = conduit("token", "create", "--role", "view", "--name", "x", "--token", derived)
    assert result.code == 1
    assert "cannot make others" in result.err


def test_the_control_plane_takes_it(conduit: Callable, control: str) -> None:
    """A view token looks and changes nothing, as a person finds out."""
    token = conduit("token", "create", "--role", "view", "--name", "ann").out.strip()
    assert httpx.get(f"{control}/api/v1/stat", headers={"Authorization": f"Bearer {token}"}).status_code == 200
    assert conduit("get", "workloads", "--token", token).code == 0
    refused = conduit("delete", "trafficpolicy", "words", "-n", "demo", "--token", token)
    assert refused.code == 1
    assert "a token of the role admin is needed; this one's is view" in refused.err
