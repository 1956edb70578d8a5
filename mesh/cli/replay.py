"""Recorded traffic, judged again: by the policies in force, and by those that somebody wants to put in force.   (pure)

The code that judges is the proxies' own (`mesh.proxy.authorize`), on what the control plane would tell them
(`mesh.model.compose_access`). A row stands for many requests, of which not all is recorded: it is judged as its example
and as another path of its template, and where the caller proved an identity, from each address that could matter. What
comes out differently for some of these is told as `partly`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import NamedTuple

import msgspec

from mesh.model import compose
from mesh.model.api import SeenRow
from mesh.model.authorization import Authorization
from mesh.model.compose_access import authorization
from mesh.model.identity import TRUST_DOMAIN, parse
from mesh.model.resources import (
    AuthorizationPolicy,
    DefaultPolicy,
    Endpoint,
    PolicyPlugin,
    Resource,
    TrafficPolicy,
)
from mesh.proxy.authorize import Compiled, Decision, ambiguous

ANOTHER = "conduit-another-key"
"""Stands for what else was a key in a path."""
ELSEWHERE = "192.0.2.1"
"""An address of no network that policies speak of (RFC 5737)."""
HERE = "127.0.0.1"
AMBIGUOUS = "ambiguous_path"


class Change(msgspec.Struct, frozen=True):
    """One kind of request that would fare otherwise."""

    change: str
    """denied | allowed | audited"""
    namespace: str
    service: str
    workload: str
    """Behind the service, whose proxies would judge otherwise."""
    caller: str
    """Its identity, or its address where it proved none."""
    protocol: str
    method: str
    path: str
    requests: int
    """Recorded."""
    partly: bool
    """Only some of them, depending on what is not recorded: the rest of the path, or the caller's address."""
    before: str
    """The policy that decides now."""
    after: str
    """The one that would."""
    why: str


class Replay(NamedTuple):
    """What would change; `requests` were judged, and `notes` say what could not be."""

    changes: tuple[Change, ...]
    requests: int
    notes: tuple[str, ...]


class _World:
    """All resources, and what they come to for a workload behind a service."""

    def __init__(self, resources: Iterable[Resource], trust_domain: str) -> None:
        kept = list(resources)
        self._policies = [each for each in kept if isinstance(each, AuthorizationPolicy)]
        self._defaults = [each for each in kept if isinstance(each, DefaultPolicy)]
        self._plugins = [each for each in kept if isinstance(each, PolicyPlugin)]
        self._traffic = [each for each in kept if isinstance(each, TrafficPolicy)]
        self._trust_domain = trust_domain
        self._compiled: dict[tuple[str, str, str], Compiled] = {}

    def compiled(self, namespace: str, service: str, workload: str) -> Compiled:
        key = namespace, service, workload
        found = self._compiled.get(key)
        if found is None:
            health = compose.policy(
                namespace, service, [each for each in self._traffic if each.metadata.namespace == namespace]
            ).health
            found = self._compiled[key] = Compiled(
                authorization(
                    *key,
                    policies=self._policies,
                    defaults=self._defaults,
                    plugins=self._plugins,
                    health=health,
                    trust_domain=self._trust_domain,
                )
            )
        return found


def replay(rows: Sequence[SeenRow], now: Sequence[Resource], proposed: Sequence[Resource]) -> Replay:
    """Judges each row with the resources in force `now`, and again with the `proposed` ones in place of those of the
    same kind, namespace and name."""
    trust_domain = domain_of(rows)
    replaced = {key_of(each): each for each in (*now, *proposed)}
    before, after = _World(now, trust_domain), _World(replaced.values(), trust_domain)
    homes = addresses(now)
    changes: list[Change] = []
    judged = unknown = 0
    asked: dict[str, int] = {}
    for row in rows:
        if row.protocol not in ("http", "grpc", "tcp"):
            unknown += row.requests
            continue
        judged += row.requests
        for workload, requests in row.workloads.items():
            place = row.namespace, row.service, workload
            old, new = before.compiled(*place), after.compiled(*place)
            for name in _asked(row, old, new):
                asked[name] = asked.get(name, 0) + requests
            if old.authorization != new.authorization:
                changes += _judge(row, workload, requests, old, new, homes)
    notes = []
    if unknown:
        notes.append(
            f"{unknown} requests were of too many kinds at once to be recorded one by one: they are not judged"
        )
    notes += [
        f"{count} of these requests would be put to {name}, which is not asked here" for name, count in asked.items()
    ]
    notes += [
        f"PolicyPlugin {each.metadata.namespace}/{each.metadata.name} would write policies, which are not known here"
        for each in proposed
        if isinstance(each, PolicyPlugin) and each.spec.python is not None
    ]
    changes.sort(key=lambda each: (("denied", "allowed", "audited").index(each.change), -each.requests))
    return Replay(tuple(changes), judged, tuple(notes))


def domain_of(rows: Iterable[SeenRow]) -> str:
    """The mesh's trust domain: that of most callers, for proxies take in no others."""
    found = Counter(who.trust_domain for row in rows if (who := parse(row.identity)) is not None)
    return found.most_common(1)[0][0] if found else TRUST_DOMAIN


def key_of(resource: Resource) -> tuple[str, str, str]:
    """What a resource takes the place of."""
    return resource.kind, resource.metadata.namespace, resource.metadata.name


def addresses(resources: Iterable[Resource]) -> dict[str, set[str]]:
    """Where workloads of an identity are known to be: the addresses of their endpoints."""
    found: dict[str, set[str]] = {}
    for each in resources:
        if isinstance(each, Endpoint) and (who := parse(each.spec.identity)) is not None:
            found.setdefault(str(who), set()).add(each.spec.address.rpartition(":")[0].strip("[]"))
    return found


# --- one row ---------------------------------------------------------------------------------------------------------


def _judge(
    row: SeenRow, workload: str, requests: int, old: Compiled, new: Compiled, homes: dict[str, set[str]]
) -> list[Change]:
    """The changes of one row: at most one of each sort."""
    who = parse(row.identity)
    name = str(who) if who is not None else ""
    peers = [row.source] if not name else sorted(homes.get(name, ())) or _places(old.authorization, new.authorization)
    cases = [
        (_decide(row, path, old, name, peer), _decide(row, path, new, name, peer))
        for peer in peers
        for path in _paths(row)
    ]
    found: dict[str, list[tuple[Decision, Decision]]] = {}
    for case in cases:
        change = _change(*case)
        if change:
            found.setdefault(change, []).append(case)
    return [
        Change(
            change,
            row.namespace,
            row.service,
            workload,
            name or row.source,
            row.protocol,
            row.method,
            row.path,
            requests,
            len(those) < len(cases),
            before=those[0][0].by,
            after=those[0][1].audited if change == "audited" else those[0][1].by,
            why=those[0][1].why,
        )
        for change, those in found.items()
    ]


def _change(before: Decision, after: Decision) -> str:
    if before.allowed and not after.allowed:
        return "denied"
    if after.allowed and not before.allowed:
        return "allowed"
    return "audited" if after.audited and after.audited != before.audited else ""


def _decide(row: SeenRow, path: bytes, compiled: Compiled, identity: str, address: str) -> Decision:
    """As the proxy beside the application does."""
    judge = compiled.judge(identity, address)
    if row.protocol == "tcp":
        return judge.connection()
    if compiled.by_path and (why := ambiguous(path)):
        return Decision(False, AMBIGUOUS, f"the path has more than one reading: {why}", "")
    return judge.decide(row.method.encode("latin-1"), path, row.protocol == "grpc")


def _paths(row: SeenRow) -> list[bytes]:
    """The example, and another path of the same template."""
    paths = [row.example]
    if row.protocol == "http" and row.path != row.example:
        segments = row.path.split("/")
        paths.append("/".join(ANOTHER if segment == "*" else segment for segment in segments))
    return [path.encode("latin-1", "replace") for path in paths]


def _places(*each: Authorization) -> list[str]:
    """An address of every network that a policy speaks of, and of none."""
    blocks = {
        network
        for told in each
        for network in (*told.networks, *(n for rule in told.rules for source in rule.sources for n in source.networks))
    }
    return sorted({HERE, ELSEWHERE, *(str(ip_network(block, strict=False).network_address) for block in blocks)})


def _asked(row: SeenRow, old: Compiled, new: Compiled) -> list[str]:
    """The authorisers that only the proposed policies put a row's requests to."""
    if row.protocol == "tcp":
        return []
    request = row.method.encode("latin-1"), row.example.encode("latin-1", "replace"), row.protocol == "grpc"
    known = {each.name for each in old.asked(*request)}
    return [each.name for each in new.asked(*request) if each.name not in known]
