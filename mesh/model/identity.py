"""Who a workload is: the account that it runs as, in a namespace, in a trust domain. Two spellings of the same name.

A certificate carries both as SANs: a DNS name, which is how people, policies and metrics spell it, and a SPIFFE URI
(SPIFFE-ID section 2).

    web.demo.serviceaccount.identity.cluster.local       spiffe://cluster.local/ns/demo/sa/web
"""

from __future__ import annotations

import re
from typing import NamedTuple

TRUST_DOMAIN = "cluster.local"
"""Where nobody says otherwise."""
MARK = ".serviceaccount.identity."
"""Stands between the namespace and the trust domain of the DNS spelling."""
ANYBODY = "*"
"""As a pattern: whoever has proved an identity, of our trust domain."""

_LABEL = r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?"
_DNS = re.compile(rf"({_LABEL})\.({_LABEL})\.serviceaccount\.identity\.({_LABEL}(?:\.{_LABEL})*)")
_URI = re.compile(rf"spiffe://({_LABEL}(?:\.{_LABEL})*)/ns/({_LABEL})/sa/({_LABEL})")
_MOST = 253
"""Characters of a DNS name (RFC 1035 section 2.3.4)."""


class Identity(NamedTuple):
    """Who one workload is. `str()` is the DNS spelling."""

    account: str
    namespace: str
    trust_domain: str = TRUST_DOMAIN

    def __str__(self) -> str:
        return f"{self.account}.{self.namespace}{MARK}{self.trust_domain}"

    @property
    def uri(self) -> str:
        """The SPIFFE ID."""
        return f"spiffe://{self.trust_domain}/ns/{self.namespace}/sa/{self.account}"


def parse(text: str) -> Identity | None:
    """The identity that either spelling names; None for what is none. The DNS spelling may be in any case."""
    if found := _URI.fullmatch(text):
        domain, namespace, account = found.groups()
        return Identity(account, namespace, domain)
    found = _DNS.fullmatch(text.lower())
    if found is None or len(text) > _MOST:
        return None
    return Identity(*found.groups())


def proven(names: tuple[str, ...]) -> Identity | None:
    """The one identity that a certificate's SANs prove; None where they name none, or more than one."""
    found = {identity for name in names if (identity := parse(name)) is not None}
    return found.pop() if len(found) == 1 else None


def matches(pattern: str, identity: str) -> bool:
    """Whether an identity (DNS spelling; empty: none was proved) is one that a policy's `pattern` means.

    A pattern is `*` (anybody who proved one), `*.SUFFIX` (all below), or a name, in either spelling.
    """
    if not identity:
        return False
    if pattern == ANYBODY:
        return True
    if pattern.startswith("*."):
        return identity.endswith(pattern[1:].lower())
    named = parse(pattern)
    return (str(named) if named is not None else pattern.lower()) == identity
