"""Tokens: what each is good for, and that nobody without the secret can make or change one."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.tokens import MAX_NAME, MAX_TOKEN, Bearer, Role, is_derived, proxy_token, read, role_token

SECRET = "the secret"


def test_the_secret_is_the_admin():
    """It opens everything, and nothing that is merely like it opens anything."""
    bearer = read(SECRET, SECRET, 0.0)
    assert bearer == Bearer(Role.ADMIN, "admin")
    assert all(bearer.may(role) for role in Role)
    for wrong in (
        "",
        "the secre",
        "the secret ",
        "THE SECRET",
        "conduit",
        "conduit..",
        "é",
        "\ud800",
        "x" * MAX_TOKEN * 2,
    ):
        assert read(SECRET, wrong, 0.0) is None


@pytest.mark.parametrize(
    ("role", "may"),
    [
        (Role.VIEW, {Role.VIEW}),
        (Role.TAP, {Role.VIEW, Role.TAP}),
        (Role.ADMIN, set(Role)),
    ],
)
def test_roles_include_the_weaker_ones(role, may):
    """A token of a role opens what the role is for, and no more."""
    token = role_token(SECRET, role, "ann")
    assert is_derived(token)
    bearer = read(SECRET, token, 1e12)
    assert bearer == Bearer(role, "ann")
    assert {each for each in Role if bearer.may(each)} == may


def test_a_proxys_token_is_bound_to_its_workload():
    """It says for whom it is, and opens nothing else."""
    bearer = read(SECRET, proxy_token(SECRET, "web", "demo", "front"), 0.0)
    assert bearer == Bearer(Role.PROXY, "web.demo", 0.0, "web", "demo", "front")
    assert [role for role in Role if bearer.may(role)] == [Role.PROXY]


def test_a_token_expires():
    """To the second that it says."""
    token = role_token(SECRET, "view", "ci", expires=1000.0)
    assert read(SECRET, token, 999.9) == Bearer(Role.VIEW, "ci", 1000.0)
    assert read(SECRET, token, 1000.0) is None


def test_another_secret_makes_all_tokens_worthless():
    """Also where the derived token itself is taken for a secret."""
    token = role_token(SECRET, "admin", "ann")
    assert read("another", token, 0.0) is None
    assert read(token, role_token(SECRET, "admin", "ann"), 0.0) == Bearer(Role.ADMIN, "admin")  # it is that secret
    assert read(SECRET, role_token(token, "admin", "ann"), 0.0) is None


@given(position=st.integers(0, 500), character=st.sampled_from("ABab01-_.="))
def test_a_changed_token_is_none(position, character):
    """Whichever character is another, in what it says or in its seal."""
    token = role_token(SECRET, "view", "ann")
    position %= len(token)
    changed = token[:position] + character + token[position + 1 :]
    assert changed == token or read(SECRET, changed, 0.0) is None
    assert read(SECRET, token[:position], 0.0) is None


def test_a_payload_without_its_seal_is_none():
    """What a forger writes is not read, whatever stands where the seal should."""
    payload = base64.urlsafe_b64encode(json.dumps({"role": "admin", "name": "eve"}).encode()).rstrip(b"=").decode()
    seal = role_token(SECRET, "view", "eve").rpartition(".")[2]
    for forged in (f"conduit.{payload}.", f"conduit.{payload}", f"conduit.{payload}.{seal}", f"{payload}.{seal}"):
        assert read(SECRET, forged, 0.0) is None


@pytest.mark.parametrize("name", ["", "x" * (MAX_NAME + 1), "a\nb", "\x1b[31m"])
def test_names_are_short_and_printable(name):
    """They stand in the audit log, and on people's screens."""
    with pytest.raises(ValueError, match="name must be"):
        role_token(SECRET, Role.VIEW, name)
    with pytest.raises(ValueError, match="account must be"):
        proxy_token(SECRET, "web", "demo", name)


def test_there_are_no_other_roles():
    """A proxy's token needs its workload, and what is no role is told."""
    with pytest.raises(ValueError, match="workload"):
        role_token(SECRET, Role.PROXY, "x")
    with pytest.raises(ValueError, match="root"):
        role_token(SECRET, "root", "x")
