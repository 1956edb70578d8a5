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
    """The workload whose proxy says so, `name.namespace`; empty: the control plane."""
    verdict: str = ""
    """Where it ends here: denied | refused | unknown. Empty: it goes on."""
    address: str = ""
    """Of an endpoint that may get it."""
    onward: Question | None = None
    """Of the endpoint that gets it, or likeliest does: what the proxy beside it is asked."""


class Happened(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a request that was tapped, as far as it has been heard."""

    at: float
    """Seconds since the epoch when its head came."""
    status: int = 0
    grpc_status: int = -1
    outcome: str = ""
    error: str = ""
    route: str = ""
    endpoint: str = ""
    """Address."""
    policy: str = ""
    """`namespace/name` or `default:...`; of an inbound proxy only."""
    audited: str = ""
    tls: str = ""


class Trace(msgspec.Struct, frozen=True):
    """All steps, the caller's first. `verdict`: allowed | denied (by policy) | refused (no route, no endpoint...) |
    unknown (the proxy that decides could not be asked)."""

    verdict: str
    steps: tuple[Step, ...]
    question: Question
    happened: Happened | None = None
    """Of a request that was tapped."""


def verdict(steps: tuple[Step, ...]) -> str:
    """What all of it comes to."""
    return next((step.verdict for step in steps if step.verdict), "allowed")


def deciding(steps: tuple[Step, ...]) -> int:
    """Index of the step that decides: the first that ends it, else the policy that lets it through; -1 for none."""
    for index, step in enumerate(steps):
        if step.verdict:
            return index
    allowing = [index for index, step in enumerate(steps) if step.stage == "policy" and step.outcome == "allowed"]
    return allowing[-1] if allowing else -1


class Ask(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What `POST /api/v1/explain` takes: a request as somebody thinks of it."""

    to: str
    """An authority, as the caller writes it: `votes`, `votes.demo:80`, `example.com:443`."""
    caller: str = msgspec.field(name="from", default="")
    """The workload that makes it, `name` or `name.namespace`; empty: somebody without a proxy."""
    method: str = "GET"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    protocol: str = "http"
    """http | grpc | tcp"""
    identity: str = ""
    """Proved by whom calls; empty: that of `from`, or nothing."""
    source: str = ""
    """Address that the call comes from; empty: this machine."""
