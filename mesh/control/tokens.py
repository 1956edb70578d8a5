"""Tokens: the control plane's one secret, and those that are derived from it, each good for less. Pure.

The secret itself is the admin's token. A derived one carries what it is good for and is sealed with the secret, so
that nothing is kept anywhere: whoever has the secret can make one, and the control plane reads it without a list.

    conduit.<base64url of JSON>.<base64url of HMAC-SHA256 over what stands before it>

Rules:
- What is said in a token is looked at only once its seal was found good, in a time that does not depend on it.
- A token cannot be taken back before it expires, other than by another secret. Those of proxies do not expire: they
  are made anew, with their proxy, and open nothing but the proxy's own stream.
"""

from __future__ import annotations

import base64
import binascii
import enum
import hashlib
import hmac
from typing import NamedTuple

import msgspec

PREFIX = "conduit"
MAX_TOKEN = 4096
"""Characters; a longer one is none of ours."""
MAX_NAME = 100
ADMIN_NAME = "admin"
"""Of whoever shows the secret itself."""
_PURPOSE = b"conduit token 1\0"  # what the secret seals here can be taken for nothing else that it may ever seal


class Role(enum.StrEnum):
    """What a token opens."""

    VIEW = "view"
    """All that can be looked at, but taps."""
    TAP = "tap"
    """Taps as well."""
    ADMIN = "admin"
    """Everything."""
    PROXY = "proxy"
    """The control stream of one workload's proxies, and nothing else."""


_INCLUDED = {
    Role.VIEW: frozenset({Role.VIEW}),
    Role.TAP: frozenset({Role.VIEW, Role.TAP}),
    Role.ADMIN: frozenset(Role),
    Role.PROXY: frozenset({Role.PROXY}),
}


class Bearer(NamedTuple):
    """Who shows a token. The last three are a proxy's: whom it speaks for."""

    role: Role
    name: str
    expires: float = 0.0
    """Seconds since the epoch; 0: never."""
    workload: str = ""
    namespace: str = ""
    account: str = ""

    def may(self, needed: Role) -> bool:
        """Whether its role is the needed one, or includes it."""
        return needed in _INCLUDED[self.role]


ADMIN = Bearer(Role.ADMIN, ADMIN_NAME)


class _Payload(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    role: Role
    name: str
    expires: float = 0.0
    workload: str = ""
    namespace: str = ""
    account: str = ""


_decoder = msgspec.json.Decoder(_Payload)


def role_token(secret: str, role: Role | str, name: str, expires: float = 0.0) -> str:
    """A person's or a program's token. `name` is what the audit log calls them; `expires` is in seconds since the
    epoch, 0: never. Raises ValueError where the role is a proxy's or none, or the name is no short printable text."""
    role = Role(role)
    if role is Role.PROXY:
        raise ValueError("a proxy's token needs the workload that it is for")
    return _sealed(secret, _Payload(role, _checked("name", name), expires))


def proxy_token(secret: str, workload: str, namespace: str, account: str) -> str:
    """The token of a workload's proxies, whose certificates will name `account`. Raises ValueError as `role_token`."""
    for field, word in (("workload", workload), ("namespace", namespace), ("account", account)):
        _checked(field, word)
    name = f"{workload}.{namespace}"[:MAX_NAME]
    return _sealed(secret, _Payload(Role.PROXY, name, workload=workload, namespace=namespace, account=account))


def is_derived(token: str) -> bool:
    """Whether it looks like a derived one: such a token cannot make others."""
    return token.startswith(f"{PREFIX}.")


def read(secret: str, token: str, now: float) -> Bearer | None:
    """Who shows this token at `now` (seconds since the epoch); None where it is not good, or no longer."""
    if len(token) > MAX_TOKEN:
        return None
    given = token.encode("utf-8", "replace")
    if hmac.compare_digest(given, secret.encode()):
        return ADMIN
    told, _, seal = given.rpartition(b".")
    if not hmac.compare_digest(seal, _seal(secret, told)):
        return None
    try:
        payload = _decoder.decode(_plain(told.removeprefix(f"{PREFIX}.".encode())))
    except (msgspec.DecodeError, binascii.Error):
        return None
    if payload.expires and payload.expires <= now:
        return None
    return Bearer(*(getattr(payload, field) for field in payload.__struct_fields__))


def _sealed(secret: str, payload: _Payload) -> str:
    told = f"{PREFIX}.".encode() + _text(msgspec.json.encode(payload))
    return (told + b"." + _seal(secret, told)).decode()


def _seal(secret: str, told: bytes) -> bytes:
    return _text(hmac.digest(secret.encode(), _PURPOSE + told, hashlib.sha256))


def _text(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _plain(text: bytes) -> bytes:
    return base64.urlsafe_b64decode(text + b"=" * (-len(text) % 4))


def _checked(field: str, word: str) -> str:
    if not 0 < len(word) <= MAX_NAME or not word.isprintable():
        raise ValueError(f"{field} must be 1 to {MAX_NAME} printable characters")
    return word
