"""A place outside of the mesh + policy -> whether our application may call it, with why (pure).

A rule matches a place if one of its destinations does, or it has none. A destination matches by name or by address,
whichever of `hosts` and `networks` the place is called by; one that has neither matches every place. `ports`, if there
are any, must hold too.

1. A rule with the action Deny that matches: denied.
2. One with the action Allow or Audit: allowed.
3. None: the default decides.

The first Audit rule that matches is noted in `Decision.audited`, whatever is decided, and so is the default `Audit`
where it decides.

Names are compared in any case and without final dot; `*.SUFFIX` is all below it. Networks are compared with addresses
that are called as such, in any of the spellings that resolvers take for one (`2130706433` is 127.0.0.1), never with
what a name leads to.
"""

from __future__ import annotations

import socket

from mesh.model.authorization import Action, Destination, Egress, EgressRule
from mesh.proxy.authorize import Decision
from mesh.proxy.rules import Address, address_of, networks, within

_NUMERIC = frozenset("0123456789abcdefx.")


def called(host: str) -> tuple[str, Address | None]:
    """A host as it is compared: the name in lower case, or the address that it is."""
    name = host.lower().rstrip(".")
    if name.startswith("[") and name.endswith("]"):
        name = name[1:-1]
    address = address_of(name)
    if address is None and name and _NUMERIC.issuperset(name) and name.rpartition(".")[2][:1].isdigit():
        try:
            address = address_of(socket.inet_ntoa(socket.inet_aton(name)))
        except OSError:
            return name, None
    return name, address


class _Destination:
    """A `Destination`, compiled. Raises ValueError."""

    __slots__ = ("_any", "_names", "_networks", "_ports", "_suffixes")

    def __init__(self, destination: Destination) -> None:
        hosts = [host.lower().rstrip(".") for host in destination.hosts]
        self._names = frozenset(host for host in hosts if not host.startswith("*."))
        self._suffixes = tuple(host[1:] for host in hosts if host.startswith("*."))
        self._networks = networks(destination.networks)
        self._ports = frozenset(destination.ports)
        self._any = not destination.hosts and not destination.networks

    def match(self, name: str, address: Address | None, port: int) -> bool:
        if self._ports and port not in self._ports:
            return False
        if self._any:
            return True
        if address is not None:
            return within(address, self._networks) is not None
        return name in self._names or name.endswith(self._suffixes)


class _Rule:
    """An `EgressRule`, compiled."""

    __slots__ = ("action", "destinations", "name")

    def __init__(self, rule: EgressRule) -> None:
        self.name = rule.name
        self.action = rule.action
        self.destinations = [_Destination(each) for each in rule.destinations]

    def match(self, name: str, address: Address | None, port: int) -> bool:
        for destination in self.destinations:
            if destination.match(name, address, port):
                return True
        return not self.destinations


class Gate:
    """An `Egress`, compiled; never changes. Raises ValueError, with a sentence, for what cannot be.

    `trivial`: everything may be called, and nothing is noted."""

    __slots__ = ("_rules", "egress", "trivial")

    def __init__(self, egress: Egress) -> None:
        self.egress = egress
        self._rules = [_Rule(rule) for rule in egress.rules]
        self.trivial = egress.default is Action.ALLOW and not self._rules

    def __repr__(self) -> str:
        return f"<Gate {self.egress.default} rules={[rule.name for rule in self._rules]}>"

    def judge(self, host: str, port: int) -> Decision:
        """About one place: a name or an address (in brackets or not), without port; and the port."""
        name, address = called(host)
        place = f"{name}:{port}"
        deny = allow = audit = ""
        for rule in self._rules:
            if not rule.match(name, address, port):
                continue
            if rule.action is Action.DENY:
                deny = deny or rule.name
            else:
                allow = allow or rule.name
                if rule.action is Action.AUDIT:
                    audit = audit or rule.name
        if deny:
            return Decision(False, deny, f"{deny} denies {place}, which is outside of the mesh", audit)
        if allow:
            return Decision(True, allow, f"{allow} allows {place}, which is outside of the mesh", audit)
        default = self.egress.default
        by = self.egress.default_from or f"default:{default}"
        if default is Action.DENY:
            return Decision(False, by, f"no policy allows {place}, and by default ({by}) nothing outside may be", "")
        noted = by if default is Action.AUDIT else ""
        return Decision(True, by, f"no policy denies {place}, and by default ({by}) everything may be called", noted)
