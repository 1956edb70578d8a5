"""A request that is asked about instead of sent: the question, and the steps that a proxy would take. The proxy answers
it from its live state with the code that decides about real ones."""

from __future__ import annotations

import msgspec


class Question(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A request. For `inbound` who asks stands in `identity` and `source`; `authority` is what the caller calls."""

    direction: str
    """outbound: at the caller's proxy; inbound: beside the application."""
    authority: str
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    protocol: str = "http"
    """http | grpc | tcp"""
    identity: str = ""
    source: str = ""
    """Address of the caller, without port."""


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing that is decided, in order."""

    stage: str
    """name | egress | tls | policy | authorizer | limit | route | fault | retry | timeout | backend | endpoint | end"""
    outcome: str
    """One word: what came of it (`found`, `allowed`, `denied`, `no_route`, `chosen`, ...)."""
    detail: str = ""
    """A sentence for people."""
    by: str = ""
    """The resource that it comes from, `namespace/name`; or `default:...`."""
    where: str = ""
    """The workload whose proxy says so."""


class Trace(msgspec.Struct, frozen=True):
    """All steps, the caller's first. `verdict`: allowed | denied | refused (no route, no endpoint...)."""

    verdict: str
    steps: tuple[Step, ...]
    question: Question
