"""Peer + request + policy -> decision, with why (pure). Hot: once per request to an application that has policies.

What holds, in this order:

1. A rule with the action Deny that matches: denied.
2. There are rules with the action Allow: one must match, else denied. Which default there is then means nothing.
3. There are none: the default decides.
4. What would be denied, or noted, but is a health check that the mesh itself was asked to make (`probes`): allowed.

Rules with the action Audit never decide: the first that matches is noted in `Decision.audited`. The default `audit`
allows, and is noted for whoever has not proved an identity.

A rule matches if one of its sources does, or it has none, and one of its operations, or it has none. In a source and in
an operation all that is not empty must hold, and of several values one is enough.

* Identities count if they are of the application's own trust domain; any other is as good as none.
* Networks are compared with the address of the connection's peer. An IPv6 address that carries an IPv4 one
  (`::ffff:10.0.0.1`) is that. A peer whose address is not known is in no network.
* Paths are compared as octets, without query; case counts. `%xx` is compared in capitals, and as the character that it
  stands for where a path may hold that as it is (`%40` is `@`). `ambiguous` names what else could be read in two ways:
  callers refuse that before they ask, if `Compiled.by_path`.
* Methods are compared exactly. A gRPC call is a POST too: rules with methods and paths hold for it as for any other.
* Who asks to be denied gets no benefit of the doubt: to a Deny rule (and when it is asked whether an authoriser is to
  be asked) `delete` is DELETE, and the path of a gRPC method is that method whatever the content-type says, since there
  are applications that see it so. (`*` is gRPC alone there as well.)
* A TCP connection has no operation: an Allow rule with operations does not match it, a Deny or Audit rule does.
"""

from __future__ import annotations

from typing import NamedTuple

from mesh.model.authorization import Action, Authorization, Authorizer, Default
from mesh.model.identity import parse
from mesh.model.paths import ambiguous as ambiguous  # callers ask both here
from mesh.model.paths import comparable
from mesh.proxy.rules import CompiledOperation, CompiledRule, Peer, address_of, any_holds, networks, within

PROBE = "probe"
"""What a health check is allowed by."""
MESH_NETWORKS = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "::1/128", "fc00::/7")
"""Loopback and private (RFC 1918, RFC 4193): the mesh's own where nobody says otherwise."""
_TOLD = 5
"""Policies that a refusal's sentence tells about."""


class Decision(NamedTuple):
    """Whether a request or connection may pass. Equal ones are often the same object."""

    allowed: bool
    by: str
    """`namespace/name` of the policy; `default:...` for the mesh's own default; `probe`. Where Allow rules exist and
    none matches it is the one that came nearest."""
    why: str
    """A sentence for people: what matched, or what was missing."""
    audited: str
    """The policy that wants this noted; empty: none does."""


# --- decisions -----------------------------------------------------------------------------------------------------


class Compiled:
    """An `Authorization`, compiled; never changes. Raises ValueError, with a sentence, for what cannot be.

    `trivial`: everybody may do everything, nothing is noted and nobody asked, so that callers may skip all of it.
    `by_path`: a rule or an authoriser may depend on paths; an `ambiguous` one must be refused, and what is judged be
    what is forwarded.
    """

    __slots__ = ("_authorizers", "_networks", "_probes", "_rules", "authorization", "by_path", "trivial")

    def __init__(self, authorization: Authorization) -> None:
        self.authorization = authorization
        self._rules = [CompiledRule(rule) for rule in authorization.rules]
        self._probes = [CompiledOperation(probe, False) for probe in authorization.probes]
        self._authorizers = [_Asked(each) for each in authorization.authorizers]
        self._networks = networks(authorization.networks or MESH_NETWORKS)
        open_to_all = authorization.default is Default.ALL_UNAUTHENTICATED
        self.trivial = open_to_all and not self._rules and not self._authorizers
        self.by_path = bool(self._authorizers) or any(
            operation.by_path for rule in self._rules for operation in rule.operations
        )

    def __repr__(self) -> str:
        return f"<Compiled {self.authorization.default} rules={[rule.name for rule in self._rules]}>"

    def judge(self, identity: str, address: str) -> Judge:
        """Who decides about one peer: `identity` (either spelling) as it was proved, empty for none; its `address`."""
        proved = parse(identity)
        at = address_of(address)
        where = f" at {address}" if address else ""
        if proved is None:
            peer = Peer(None, "", at, f"a caller without identity{where}")
        elif proved.trust_domain != self.authorization.trust_domain:
            peer = Peer(None, "", at, f"{proved} (of another trust domain){where}")
        else:
            peer = Peer(proved, str(proved), at, f"{proved}{where}")
        return Judge(self, peer)

    def of_peer(self, peer: Peer, matched: _Matched) -> None:
        """Gathers what is about a peer, in the order of the rules."""
        for rule in self._rules:
            why = rule.match(peer)
            if rule.action is Action.ALLOW:
                matched.allows.append(rule.name if not why else f"{rule.name} (for other operations)")
                if why and not matched.nearest:
                    matched.nearest = rule.name
            if not why:
                continue
            if rule.action is Action.ALLOW:
                _add(matched.allow, _Verdict(rule, True, f"{rule.name} allows it: the caller {why}"))
            elif rule.action is Action.DENY:
                _add(matched.deny, _Verdict(rule, False, f"{rule.name} denies it: the caller {why}"))
            else:
                _add(matched.audit, _Verdict(rule, True, ""))

    def without_rule(self, peer: Peer, matched: _Matched) -> Decision:
        """What holds for a peer where no rule with operations matches."""
        if matched.allows:
            told = ", ".join(matched.allows[:_TOLD]) + (", ..." if len(matched.allows) > _TOLD else "")
            by = matched.nearest or matched.allows[0]
            return Decision(False, by, f"no policy that allows something allows this to {peer.text}: {told}", "")
        default = self.authorization.default
        by = self.authorization.default_from or f"default:{default}"
        said = f"no policy allows anything in particular, and by default ({by})"
        if default is Default.DENY:
            return Decision(False, by, f"{said} nobody may", "")
        if default is Default.ALL_UNAUTHENTICATED:
            return Decision(True, by, f"{said} everybody may", "")
        if default is Default.AUDIT:
            return Decision(True, by, f"{said} everybody may, noted without identity", "" if peer.name else by)
        if not peer.name:
            return Decision(False, by, f"{said} who has proved an identity may, which {peer.text} has not", "")
        if default is Default.ALL_AUTHENTICATED:
            return Decision(True, by, f"{said} who has proved an identity may", "")
        block = within(peer.address, self._networks)
        if block is None:
            return Decision(False, by, f"{said} who is in the mesh's own networks may, which {peer.text} is not", "")
        return Decision(True, by, f"{said} who has proved an identity and is in {block} may", "")

    def is_probe(self, method: bytes, path: bytes, grpc: bool) -> bool:
        """Whether this is a health check of the mesh's own; `path` is comparable."""
        return any_holds(self._probes, method, path, grpc)

    @property
    def has_probes(self) -> bool:
        return bool(self._probes)

    def asked(self, method: bytes, path: bytes, grpc: bool) -> tuple[Authorizer, ...]:
        """The authorisers that are to be asked about an operation; about the mesh's own health checks, none."""
        if not self._authorizers:
            return ()
        path = comparable(path)
        if self._probes and self.is_probe(method, path, grpc):
            return ()
        return tuple(each.authorizer for each in self._authorizers if each.is_for(method, path, grpc))

    @property
    def unasked(self) -> str:
        """The first authoriser that keeps out what it cannot be asked about, such as a connection that is not HTTP;
        empty for none."""
        return next((each.authorizer.name for each in self._authorizers if not each.authorizer.fail_open), "")


class _Asked:
    """An `Authorizer` and what it is asked about."""

    __slots__ = ("_operations", "authorizer")

    def __init__(self, authorizer: Authorizer) -> None:
        self.authorizer = authorizer
        self._operations = [CompiledOperation(operation, True) for operation in authorizer.operations]

    def is_for(self, method: bytes, path: bytes, grpc: bool) -> bool:
        return not self._operations or any_holds(self._operations, method, path, grpc)


class _Verdict:
    """A rule whose sources match a peer, and what it says of each of its operations."""

    __slots__ = ("_decisions", "always", "name", "operations")

    def __init__(self, rule: CompiledRule, allowed: bool, why: str) -> None:
        self.name = rule.name
        self.operations = rule.operations
        self.always = not rule.operations
        if self.always:
            self._decisions = [Decision(allowed, rule.name, why, "")]
        else:
            self._decisions = [
                Decision(allowed, rule.name, f"{why}, and it is one of {operation.text}", "")
                for operation in rule.operations
            ]

    def decide(self, method: bytes, path: bytes, grpc: bool) -> Decision | None:
        """None if it does not match; `path` is comparable."""
        if self.always:
            return self._decisions[0]
        for at, operation in enumerate(self.operations):
            if operation.holds(method, path, grpc):
                return self._decisions[at]
        return None

    def anything(self) -> Decision:
        """As if there were no operations in it."""
        return self._decisions[0]


def _add(verdicts: list[_Verdict], verdict: _Verdict) -> None:
    """What comes after one that always matches is never asked."""
    if not verdicts or not verdicts[-1].always:
        verdicts.append(verdict)


class _Matched:
    """The rules whose sources match one peer."""

    __slots__ = ("allow", "allows", "audit", "deny", "nearest")

    def __init__(self) -> None:
        self.deny: list[_Verdict] = []
        self.allow: list[_Verdict] = []
        self.audit: list[_Verdict] = []
        self.allows: list[str] = []
        """All Allow rules, for sentences."""
        self.nearest = ""
        """The first Allow rule that is for this peer."""


class Judge:
    """Decides about one peer's requests: `fixed`, where it is not None, whatever they are.

    `known`: the peer has proved an identity of the application's trust domain, and may be told which policy it was."""

    __slots__ = ("_compiled", "_matched", "_otherwise", "fixed", "known")

    def __init__(self, compiled: Compiled, peer: Peer) -> None:
        self._compiled = compiled
        self.known = bool(peer.name)
        self._matched = _Matched()
        compiled.of_peer(peer, self._matched)
        self._otherwise = compiled.without_rule(peer, self._matched)
        self.fixed = self._fix()

    def _fix(self) -> Decision | None:
        matched = self._matched
        verdicts = [*matched.deny[:1], *matched.audit[:1]]
        if not matched.deny:
            verdicts += matched.allow[:1]
        for verdict in verdicts:
            if not verdict.always:
                return None
        decision = self._decide(b"", b"", False)
        if self._compiled.has_probes and not (decision.allowed and not decision.audited):
            return None
        return decision

    def decide(self, method: bytes, path: bytes, grpc: bool) -> Decision:
        """About one request; a query in `path` is passed over, and `grpc` tells that it is a gRPC call."""
        fixed = self.fixed
        if fixed is not None:
            return fixed
        path = comparable(path)
        decision = self._decide(method, path, grpc)
        if (not decision.allowed or decision.audited) and self._compiled.is_probe(method, path, grpc):
            return _PROBED
        return decision

    def connection(self) -> Decision:
        """About a TCP connection."""
        matched = self._matched
        decision = self._otherwise
        if matched.deny:
            decision = matched.deny[0].anything()
        else:
            for verdict in matched.allow:
                if verdict.always:
                    decision = verdict.anything()
                    break
        unasked = self._compiled.unasked
        if decision.allowed and unasked:
            return Decision(False, unasked, f"{unasked} can be asked about HTTP alone", "")
        return _audited(decision, matched.audit[0].name) if matched.audit else decision

    def authorizers(self, method: bytes, path: bytes, grpc: bool) -> tuple[Authorizer, ...]:
        """Who is to be asked about a request that the rules allow, in order."""
        return self._compiled.asked(method, path, grpc)

    def _decide(self, method: bytes, path: bytes, grpc: bool) -> Decision:
        matched = self._matched
        decision = _first(matched.deny, method, path, grpc)
        if decision is None:
            decision = _first(matched.allow, method, path, grpc)
            if decision is None:
                decision = self._otherwise
        if matched.audit:
            for verdict in matched.audit:
                if verdict.decide(method, path, grpc) is not None:
                    return _audited(decision, verdict.name)
        return decision


_PROBED = Decision(True, PROBE, "it is a health check that the mesh was asked to make", "")


def _first(verdicts: list[_Verdict], method: bytes, path: bytes, grpc: bool) -> Decision | None:
    for verdict in verdicts:
        decision = verdict.decide(method, path, grpc)
        if decision is not None:
            return decision
    return None


def _audited(decision: Decision, name: str) -> Decision:
    return Decision(decision.allowed, decision.by, decision.why, name)
