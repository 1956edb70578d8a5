"""Who may call whom, as a proxy is told it: what `compose_access` makes of AuthorizationPolicy, DefaultPolicy,
PolicyPlugin and EgressPolicy for one application.

In a `Source` and in an `Operation`, what is empty holds for everything, all that is not empty must hold, and of several
values one is enough. A rule holds if one of its sources does (or it has none) and one of its operations (or none).
"""

from __future__ import annotations

import enum
from typing import Annotated

import msgspec

from mesh.model.identity import TRUST_DOMAIN
from mesh.model.traffic import Duration, Part


class Default(enum.StrEnum):
    """What holds for a request for which no policy of the action Allow was written."""

    ALL_UNAUTHENTICATED = "all-unauthenticated"
    """Everybody may, also in plain text."""
    ALL_AUTHENTICATED = "all-authenticated"
    """Who has proved an identity may."""
    CLUSTER_AUTHENTICATED = "cluster-authenticated"
    """Who has proved an identity may, from one of the mesh's own networks."""
    DENY = "deny"
    """Nobody may."""
    AUDIT = "audit"
    """Everybody may; who has not proved an identity is counted as audited."""


class Action(enum.StrEnum):
    """What a policy does to what it matches. Deny goes before Allow; Audit lets pass what it does not decide."""

    ALLOW = "Allow"
    DENY = "Deny"
    AUDIT = "Audit"


class Strictness(enum.StrEnum):
    """What an inbound listener does about plain text."""

    STRICT = "strict"
    PERMISSIVE = "permissive"


class Source(Part, frozen=True):
    """A caller. `identities` are patterns (`mesh.model.identity.matches`), `namespaces` those of a proved identity,
    `networks` CIDR blocks or addresses of the connection's peer."""

    identities: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


class Operation(Part, frozen=True):
    """A request. `paths` are compared without their query: `/a` is itself, `/a/*` and `*.css` what begins and ends so,
    `*` any. `grpc_methods` are `package.Service/Method`, `package.Service/*` or `*`, and hold for gRPC alone."""

    methods: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    grpc_methods: tuple[str, ...] = ()


class Rule(Part, frozen=True):
    """One AuthorizationPolicy."""

    name: str
    """`namespace/name` of the resource: what a refusal, a metric and `explain` name."""
    action: Action = Action.ALLOW
    sources: tuple[Source, ...] = ()
    operations: tuple[Operation, ...] = ()


class Authorizer(Part, frozen=True):
    """An external authoriser that speaks Envoy's ext_authz v3 over gRPC, asked after all rules have said yes."""

    name: str
    """`namespace/name` of the PolicyPlugin."""
    service: str
    """A service as this namespace names it, or `host:port`."""
    timeout: Duration = 0.25
    fail_open: bool = False
    """Whether what it cannot be asked about goes through."""
    operations: tuple[Operation, ...] = ()
    """What it is asked about; everything, where this is empty."""
    headers: tuple[str, ...] = ()
    """Names, in lower case, of the request headers that it is told; credentials among them only if they are named."""
    cache: Duration = 0.0
    """Most seconds for which an answer that allows it (`cache-control: max-age`) is used again; 0: never."""


class Authorization(Part, frozen=True):
    """All that decides about requests to one application. The default one lets everything through."""

    default: Default = Default.ALL_UNAUTHENTICATED
    default_from: str = ""
    """`namespace/name` of the DefaultPolicy that says so; empty: the mesh's own default."""
    strictness: Strictness = Strictness.PERMISSIVE
    rules: tuple[Rule, ...] = ()
    probes: tuple[Operation, ...] = ()
    """Health checks that the mesh itself has been asked to make: allowed, whoever makes them."""
    authorizers: tuple[Authorizer, ...] = ()
    networks: tuple[str, ...] = ()
    """CIDR blocks that are the mesh's own, for `cluster-authenticated`; empty: the private and loopback ones."""
    trust_domain: str = TRUST_DOMAIN


Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class Destination(Part, frozen=True):
    """A place outside of the mesh. `hosts` are names or `*.SUFFIX`, as SNI or authority say them; `networks` CIDR
    blocks of addresses that are called as such."""

    hosts: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()


class EgressRule(Part, frozen=True):
    """One EgressPolicy."""

    name: str
    action: Action = Action.ALLOW
    destinations: tuple[Destination, ...] = ()


class Egress(Part, frozen=True):
    """What an application may call outside of the mesh. Deny goes before Allow and Audit; `default` holds where no rule
    does."""

    default: Action = Action.ALLOW
    default_from: str = ""
    rules: tuple[EgressRule, ...] = ()
