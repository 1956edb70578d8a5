"""The least that must be allowed for the traffic that was seen to go on: AuthorizationPolicies, from rows.   (pure)

Rules:
- Callers are named by the identity that they proved. Who proved none cannot be named: it is told, and not let through.
- Callers that were seen to do the same share a policy; a service has as many policies as it has sorts of callers.
- A key in a path (`*`) stands for all that may stand there, and below: `/polls/*/votes` becomes `/polls/*`. More than
  MOST_BELOW paths below one are written as that one; MOST_AT_ROOT, where that is all of the application.
- What was only ever denied is not written into a policy. What was let through at least once is.
- Once a policy names paths, a path that can be read in two ways is refused (400). A service that was seen to be asked
  for such gets policies that name methods alone.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec

from mesh.model.api import SeenRow
from mesh.model.authorization import Action, Default, Operation, Source
from mesh.model.compose_access import concerns
from mesh.model.identity import Identity, parse
from mesh.model.resources import (
    AuthorizationPolicy,
    AuthorizationPolicySpec,
    DefaultPolicy,
    DefaultPolicySpec,
    Metadata,
    Resource,
    Target,
    TargetKind,
)
from mesh.proxy.authorize import PROBE, ambiguous

MOST_BELOW = 12
MOST_AT_ROOT = 50
NAME = "seen"
"""What the names of suggested policies begin with."""
MOST_LABEL = 63
TOLD = 10
"""Callers without identity that are listed for a service, those with the most requests first."""

_SEGMENT = re.compile(r"[A-Za-z0-9_~!$&'()+,;=:@.%-]*")
"""What of a path is written as it came."""
_METHOD = re.compile(r"[A-Z][A-Z0-9_-]{0,31}")
_GRPC = re.compile(r"/([A-Za-z_][A-Za-z0-9_.]*)/([A-Za-z_][A-Za-z0-9_]*)")

Policy = AuthorizationPolicy | DefaultPolicy


class Suggested(NamedTuple):
    """One policy, and what a person should know of it, a line each."""

    policy: Policy
    notes: tuple[str, ...]


class Suggestion(NamedTuple):
    """All policies; `notes` are about what none of them says."""

    policies: tuple[Suggested, ...]
    notes: tuple[str, ...]


def suggest(
    rows: Iterable[SeenRow],
    *,
    policies: Sequence[Resource] = (),
    close: bool = True,
    existing: Iterable[str] = (),
) -> Suggestion:
    """What to apply so that all that was let through in `rows` goes on, and nothing else.

    With `close`, each namespace in which something was seen is told to deny the rest: the DefaultPolicy that is for it,
    if there is one, changed so. `policies` are those in force, `existing` the services (`namespace/name`) that there
    are.
    """
    found: dict[tuple[str, str], list[SeenRow]] = {}
    for row in rows:
        found.setdefault((row.namespace, row.service), []).append(row)
    suggested: list[Suggested] = []
    notes: list[str] = []
    taken: dict[str, set[str]] = {}
    for (namespace, service), seen in sorted(found.items()):
        written = _for_service(namespace, service, seen, taken.setdefault(namespace, set()))
        suggested += written
        notes += _still_open(namespace, service, policies, {each.policy.metadata.name for each in written})
        if not written:
            notes.append(f"{service}.{namespace}: nobody who proved an identity was let through; it gets no policy")
            notes += [f"  {line}" for line in _left_out(seen)]
    if close:
        for namespace in sorted({namespace for namespace, _ in found}):
            silent = [name for name in sorted(existing) if name.startswith(f"{namespace}/")]
            silent = [name for name in silent if tuple(name.split("/")) not in found]
            suggested += _closed(namespace, policies, silent)
    return Suggestion(tuple(suggested), tuple(notes))


# --- one service -----------------------------------------------------------------------------------------------------


def _for_service(namespace: str, service: str, rows: Sequence[SeenRow], taken: set[str]) -> list[Suggested]:
    callers: dict[Identity, list[SeenRow]] = {}
    for row in rows:
        who = parse(row.identity)
        if who is not None and let_through(row):
            callers.setdefault(who, []).append(row)
    kept = [row for mine in callers.values() for row in mine]
    twofold = sorted(
        {row.example for row in kept if row.protocol != "tcp" and ambiguous(row.example.encode("latin-1"))}
    )
    groups: dict[tuple[Operation, ...], list[Identity]] = {}
    wider: dict[tuple[Operation, ...], list[str]] = {}
    for who, mine in sorted(callers.items()):
        operations, notes = operations_of(mine, by_path=not twofold)
        groups.setdefault(operations, []).append(who)
        wider.setdefault(operations, []).extend(note for note in notes if note not in wider.get(operations, ()))
    suggested = []
    for index, (operations, identities) in enumerate(groups.items()):
        mine = [row for who in identities for row in callers[who]]
        notes = [f"{service}.{namespace}: {_summary(mine)}", *wider[operations]]
        denied = sum(sum(row.denied.values()) for row in mine)
        if denied:
            by = ", ".join(sorted({name for row in mine for name in row.denied}))
            notes.append(f"{_requests(denied)} like these were denied as well (by {by}): they are let through by this")
        if index == 0:
            if twofold:
                notes.append(f"no paths are named: some can be read in two ways, such as {twofold[0]!r:.80}")
            notes += _left_out(rows)
        name = _name(f"{NAME}-{service}" + (f"-{identities[0].account}" if len(groups) > 1 else ""), taken)
        spec = AuthorizationPolicySpec(
            Target(TargetKind.SERVICE, service),
            Action.ALLOW,
            (Source(identities=tuple(str(who) for who in identities)),),
            operations,
        )
        suggested.append(Suggested(AuthorizationPolicy(Metadata(name, namespace), spec), tuple(notes)))
    return suggested


def let_through(row: SeenRow) -> int:
    """How many requests of a row were allowed, by anything but being the mesh's own health check."""
    return sum(count for by, count in row.allowed.items() if by != PROBE) if row.protocol in _PROTOCOLS else 0


_PROTOCOLS = ("http", "grpc", "tcp")


def _left_out(rows: Sequence[SeenRow]) -> list[str]:
    """What no policy of the service lets through, and why."""
    notes = []
    strangers = [row for row in rows if parse(row.identity) is None and let_through(row)]
    if strangers:
        by_source: dict[str, list[SeenRow]] = {}
        for row in strangers:
            by_source.setdefault(row.source or row.identity, []).append(row)
        notes.append(
            "not let through: callers that proved no identity. To let one through, add it to a policy's `from`:"
        )
        ordered = sorted(by_source.items(), key=lambda each: (-sum(map(let_through, each[1])), each[0]))
        for source, mine in ordered[:TOLD]:
            methods = sorted({row.method for row in mine if row.method})
            notes.append(f"  - networks: [{source!r}]    # {_summary(mine)} {' '.join(methods[:TOLD])}".rstrip())
        if len(ordered) > TOLD:
            notes.append(f"  and {len(ordered) - TOLD} more addresses")
    refused = sum(row.requests for row in rows if not row.allowed and row.protocol in _PROTOCOLS)
    if refused:
        notes.append(f"left out: {_requests(refused)} of kinds that were always denied")
    rest = sum(row.requests for row in rows if row.protocol not in _PROTOCOLS)
    if rest:
        notes.append(f"left out: {_requests(rest)} of too many kinds at once to be recorded one by one")
    return notes


def _name(stem: str, taken: set[str]) -> str:
    """The stem as a name that nobody has yet: cut, and numbered where it must be."""
    name = cut = stem[: MOST_LABEL - 5].rstrip("-")
    number = 2
    while name in taken:
        name, number = f"{cut}-{number}", number + 1
    taken.add(name)
    return name


def _summary(rows: Sequence[SeenRow]) -> str:
    count = sum(map(let_through, rows))
    first, last = min(row.first for row in rows), max(row.last for row in rows)
    return f"{_requests(count)} from {_time(first)} to {_time(last)}"


def _requests(count: int) -> str:
    return f"{count:,} request{'' if count == 1 else 's'}"


def _time(at: float) -> str:
    return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")


# --- operations ------------------------------------------------------------------------------------------------------


def operations_of(rows: Sequence[SeenRow], *, by_path: bool = True) -> tuple[tuple[Operation, ...], list[str]]:
    """The operations that these rows were, as few as say it; and notes on what is wider than what was seen.

    Empty, which means everything, where a TCP connection is among them: it has no operation that could be named."""
    if any(row.protocol == "tcp" for row in rows):
        return (), ["everything is allowed to them: TCP connections have no operations that could be named"]
    patterns: dict[str, set[str]] = {}
    calls: dict[str, set[str]] = {}
    for row in rows:
        found = _GRPC.fullmatch(row.path) if row.protocol == "grpc" else None
        if found is not None:
            calls.setdefault(found[1], set()).add(found[2])
        else:
            method = row.method if _METHOD.fullmatch(row.method) else ""
            patterns.setdefault(method, set()).add(pattern_of(row.path))
    notes: list[str] = []
    if not by_path:
        if "" in patterns:
            return (), notes
        methods = [Operation(methods=tuple(sorted(patterns)))] if patterns else []
        return (*methods, *([Operation(grpc_methods=("*",))] if calls else [])), notes
    by_paths: dict[tuple[str, ...], set[str]] = {}
    methods_of: dict[str, set[str]] = {}
    for method, some in patterns.items():
        for pattern in collapsed(some, method or "any method", notes):
            methods_of.setdefault(pattern, set()).add(method)
    for pattern, methods_seen in methods_of.items():
        by_paths.setdefault(() if "" in methods_seen else tuple(sorted(methods_seen)), set()).add(pattern)
    http = tuple(Operation(methods=methods, paths=tuple(sorted(some))) for methods, some in sorted(by_paths.items()))
    return (*http, *_calls(calls, notes)), notes


def _calls(calls: dict[str, set[str]], notes: list[str]) -> tuple[Operation, ...]:
    named: list[str] = []
    for service, methods in sorted(calls.items()):
        if len(methods) > MOST_BELOW:
            notes.append(f"{len(methods)} methods of {service} were called: all of its methods are allowed")
            named.append(f"{service}/*")
        else:
            named += [f"{service}/{method}" for method in sorted(methods)]
    return (Operation(grpc_methods=tuple(named)),) if named else ()


def pattern_of(template: str) -> str:
    """The narrowest pattern of a policy that all paths of a template match."""
    if not template.startswith("/"):
        return "*"
    segments = template.split("/")
    for index, segment in enumerate(segments):
        if not _SEGMENT.fullmatch(segment) or ambiguous("/".join(segments[: index + 1]).encode("latin-1")):
            return "/".join(segments[:index]) + "/*"
    return template


def collapsed(patterns: set[str], what: str, notes: list[str]) -> set[str]:
    """The patterns, those that another one covers left out, and many below one folder written as that folder."""
    if "*" in patterns:
        return {"*"}
    kept = _uncovered(patterns)
    folders = {folder for pattern in kept for folder in _folders(pattern)}
    for folder in sorted(folders, key=lambda each: (-each.count("/"), each)):
        below = {pattern for pattern in kept if folder in _folders(pattern)}
        if len(below) > (MOST_BELOW if folder != "/" else MOST_AT_ROOT):
            notes.append(f"{len(below)} paths below {folder} were asked for ({what}): all below it are allowed")
            kept = (kept - below) | {f"{folder}*"}
    return kept


def _uncovered(patterns: set[str]) -> set[str]:
    prefixes = {pattern[:-1] for pattern in patterns if pattern.endswith("/*")}
    return {pattern for pattern in patterns if not any(folder in prefixes for folder in _folders(pattern))}


def _folders(pattern: str) -> list[str]:
    """All folders that a pattern is in, without the one that it is: `/`, `/a/` for `/a/b`, and for `/a/b/*`."""
    path = pattern.removesuffix("*").removesuffix("/") if pattern.endswith("/*") else pattern
    if pattern == "/*":
        return []
    segments = path.split("/")
    return ["/".join(segments[:index]) + "/" for index in range(1, len(segments))]


# --- what nobody was seen to need ------------------------------------------------------------------------------------


def _still_open(namespace: str, service: str, policies: Sequence[Resource], new: set[str]) -> list[str]:
    """Policies in force that allow something at a service and stay as they are."""
    kept = []
    for each in policies:
        if isinstance(each, AuthorizationPolicy) and each.spec.action is Action.ALLOW:
            home, name = each.metadata.namespace, each.metadata.name
            is_new = home == namespace and name in new
            # Which workloads are behind the service is not known here: those of its namespace may be.
            names = (service,) if each.spec.target.kind is TargetKind.SERVICE else (each.spec.target.name,)
            if not is_new and concerns(each, namespace, names, each.spec.target.name):
                kept.append(f"{home}/{name}")
    told = ", ".join(sorted(kept)[:TOLD]) + (", ..." if len(kept) > TOLD else "")
    return [f"{service}.{namespace}: what these allow stays allowed: {told}"] if kept else []


def _closed(namespace: str, policies: Sequence[Resource], silent: Sequence[str]) -> list[Suggested]:
    target = Target(TargetKind.NAMESPACE)
    policy = DefaultPolicy(Metadata(f"{NAME}-default", namespace), DefaultPolicySpec(target, Default.DENY))
    for each in policies:
        if not isinstance(each, DefaultPolicy):
            continue
        if each.metadata.namespace == namespace and each.spec.target.kind is TargetKind.NAMESPACE:
            if each.spec.inbound is Default.DENY:
                return []
            policy = msgspec.structs.replace(each, spec=msgspec.structs.replace(each.spec, inbound=Default.DENY))
            break
    notes = [f"{namespace}: where no policy allows anything, nobody may call"]
    if silent:
        told = ", ".join(name.partition("/")[2] for name in silent[:TOLD])
        more = f" and {len(silent) - TOLD} more" if len(silent) > TOLD else ""
        notes.append(f"nothing was seen of {told}{more}: nobody may call them any more")
    return [Suggested(policy, tuple(notes))]
