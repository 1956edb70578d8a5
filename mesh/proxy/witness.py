"""What the application here was asked, by whom, and what policy said to it: what policies are written from. Hot.

`note` runs for each request that policy has judged: one look-up, where the same was asked before. All is bounded: what
comes after KEYS kinds of requests between two drains is counted in one of its own, and paths are kept with what looks
like a key (a number, a UUID, a long random word) as `*`.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mesh.model.reports import Seen

if TYPE_CHECKING:
    from mesh.proxy.authorize import Decision

KEYS = 512
"""Kinds of requests between two drains; an application that is asked more in a second is asked by a scanner."""
KEPT = 256
"""Kinds that stay known over a drain, so that what is asked again is found at once."""
MEMO = 4_096
"""Paths, as they came, whose kind is known."""
LONG = 512
"""Bytes of a path that is worth remembering as it came."""
MAX_PATH = 1_024
"""Characters of a path that are kept."""
MAX_METHOD = 32
OVERFLOW = "(overflow)"
"""The protocol of what was counted together."""

KEY = re.compile(
    r"[0-9]+|[A-Za-z0-9_.-]*[0-9]{4}[A-Za-z0-9_.-]*|[0-9a-fA-F]{16,}|[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
    r"|(?=[^A-Za-z]*[A-Za-z])(?=[^0-9]*[0-9][^0-9]*[0-9]|(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[^0-9]*[0-9])"
    r"[A-Za-z0-9_+-]{16,}={0,2}"
)
"""A segment of a path that is a key: a number, alone or of four digits in a word (`order-2041`), a UUID, or a random
word, which has letters and two digits, or both sorts of letters and one."""
LONGEST_SEGMENT = 64
ANY = "*"


class Kind:
    """One kind of request; `seen` has all of it but the count."""

    __slots__ = ("count", "seen")

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.count = 0


class Witness:
    """Counts, until `drain` takes them."""

    __slots__ = ("_kinds", "_memo")

    def __init__(self) -> None:
        self._memo: dict[tuple[str, str, str, str, bytes, bytes, Decision], Kind] = {}
        self._kinds: dict[tuple[str, str, str, str, str, str, bool, str, str], Kind] = {}

    def __repr__(self) -> str:
        return f"<Witness kinds={len(self._kinds)}>"

    def note(
        self,
        cluster_name: str,
        identity: str,
        source: str,
        protocol: str,
        method: bytes,
        path: bytes,
        decision: Decision,
    ) -> None:
        """Count one request. `source` is the client's address, empty where it proved an identity; `protocol` is http,
        grpc or tcp, and what a tcp connection has no method and path of is empty."""
        query = path.find(b"?")
        if query >= 0:
            path = path[:query]
        key = (cluster_name, identity, source, protocol, method, path, decision)
        kind = self._memo.get(key)
        if kind is None:
            kind = self._kind(cluster_name, identity, source, protocol, method, path, decision)
            if len(path) <= LONG:
                if len(self._memo) >= MEMO:
                    self._memo.clear()
                self._memo[key] = kind
        kind.count += 1

    def drain(self) -> list[Seen]:
        """What was counted since the last call, each kind once."""
        found = []
        for kind in self._kinds.values():
            if kind.count:
                seen = kind.seen
                found.append(
                    Seen(
                        seen.service,
                        seen.identity,
                        seen.source,
                        seen.protocol,
                        seen.method,
                        seen.path,
                        seen.example,
                        seen.allowed,
                        seen.by,
                        seen.audited,
                        kind.count,
                    )
                )
                kind.count = 0
        if len(self._kinds) > KEPT:
            self._kinds.clear()
            self._memo.clear()
        return found

    def _kind(
        self, service: str, identity: str, source: str, protocol: str, method: bytes, path: bytes, decision: Decision
    ) -> Kind:
        example = path[:MAX_PATH].decode("latin-1")
        shown = example if protocol == "grpc" else template(example, len(path) > MAX_PATH)
        verb = method.decode("latin-1") if len(method) <= MAX_METHOD else ANY
        key = (service, identity, source, protocol, verb, shown, decision.allowed, decision.by, decision.audited)
        kind = self._kinds.get(key)
        if kind is None:
            if len(self._kinds) >= KEYS:
                key = (service, "", "", OVERFLOW, "", "", decision.allowed, "", "")
                kind = self._kinds.get(key)
                if kind is not None:
                    return kind
                example = ""
            kind = self._kinds[key] = Kind(Seen(*key[:6], example, *key[6:], 0))
        return kind


def template(path: str, cut: bool = False) -> str:
    """The path, without a query, with what looks like a key as `*`; `cut` says that there was more of it, and what its
    last segment would have been is not known."""
    segments = path.split("/")
    for index, segment in enumerate(segments):
        if len(segment) > LONGEST_SEGMENT or KEY.fullmatch(segment) is not None:
            segments[index] = ANY
    if cut:
        segments[-1] = ANY
    return "/".join(segments)
