"""Is all well with a mesh? What was found out about it becomes a list of checks, each with what to do about it. Pure.

A check is `ok`, a `warning` (it works, and somebody should look), or `failed`. Nothing here asks anybody anything:
conduit check collects the Facts, all of them from the control plane's API but for which endpoints accept.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from mesh.model.api import CertificateInfo, Edge, IdentityInfo, ProxyInfo, ResourceView, StatRow, VersionInfo
from mesh.model.durations import duration_text

SKEW_SECONDS = 20.0
"""More than that, and a certificate made on one machine may not hold yet on another."""
NOTABLE_SKEW_SECONDS = 5.0
RENEWED_SECONDS = 0.15
"""Part of a certificate's lifetime: renewals begin at 70 %, so that less than this left means that they fail."""
SHOWN = 5
"""Names in one line; of more, their number is told."""
MATCHES_NOTHING = ("TargetNotFound", "NoMatchingParent")


class Status(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at; `hint` says what to do where it is not ok."""

    category: str
    name: str
    status: Status
    detail: str = ""
    hint: str = ""


class Facts(msgspec.Struct, frozen=True):
    """What was found out. `now` is the time here when the control plane told its own (`version.now`)."""

    url: str
    ours: str
    """Our own version."""
    now: float
    version: VersionInfo
    identity: IdentityInfo
    proxies: Sequence[ProxyInfo]
    resources: Sequence[ResourceView]
    services: Sequence[StatRow]
    edges: Sequence[Edge]
    unreachable: Mapping[str, str]
    """Endpoint (`workload at address`) -> why it does not accept."""
    unready: Mapping[str, str]
    """Proxy -> why it is not ready, for those of this machine, which can be asked."""
    expiry_warning: float
    """Seconds: roots and issuers that end sooner are worth a warning."""


def checks(facts: Facts) -> list[Check]:
    """All of them, in the order in which they depend on each other."""
    parts = (control_plane, trust, proxies, certificates, data_plane, resources, traffic)
    return [check for part in parts for check in part(facts)]


def unreachable(detail: str) -> Check:
    """All that can be said where no control plane answers."""
    hint = "start one with `conduit up -f mesh.yaml`, or name it with --control and --token"
    return Check("control plane", "answers", Status.FAILED, detail, hint)


def ready(unready: Mapping[str, str]) -> Check:
    """Whether proxies that can be asked say that they are: also where no control plane answers."""
    told = [f"{proxy}: {why}" for proxy, why in unready.items()]
    return verdict("proxies", "are ready", told, Status.FAILED, "until then they serve nobody; their logs say more")


def control_plane(facts: Facts) -> Iterator[Check]:
    """It answered: over what, of which version, and at what time."""
    category = "control plane"
    yield Check(category, "answers", Status.OK, f"{facts.url}, version {facts.version.version}")
    if facts.url.startswith("https:"):
        yield Check(category, "proved who it is", Status.OK)
    else:
        hint = "ask its https address: whoever can listen reads the token"
        yield Check(category, "proved who it is", Status.WARNING, "it was asked in plain text", hint)
    told = [f"it is {facts.version.version}, and we are {facts.ours}"] if facts.version.version != facts.ours else []
    yield verdict(category, "is of our version", told, Status.WARNING, "upgrade the older one")
    skew = facts.version.now - facts.now
    told = [f"it is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}"] if abs(skew) > NOTABLE_SKEW_SECONDS else []
    status = Status.FAILED if abs(skew) > SKEW_SECONDS else Status.WARNING
    yield verdict(category, "its clock is like ours", told, status, "let NTP set both")


def trust(facts: Facts) -> Iterator[Check]:
    """Roots, issuer and the control plane's own certificate: in force, and for how long."""
    category, identity, now = "trust", facts.identity, facts.version.now
    if not identity.anchors or identity.issuer is None:
        hint = "give `conduit control` --trust-anchors, --issuer-cert and --issuer-key"
        yield Check(category, "workloads have identities", Status.WARNING, "no issuer was given", hint)
        return
    hint = "what is in force is the set before; mend the files"
    problems = [identity.problem] if identity.problem else []
    yield verdict(category, "newest files are good", problems, Status.FAILED, hint)
    for anchor in identity.anchors:
        yield lasting(category, "a root", anchor, now, facts.expiry_warning, "add a new root to the anchors beside it")
    hint = "put a new issuer in its place, signed by a root that is trusted already"
    yield lasting(category, "the issuer", identity.issuer, now, facts.expiry_warning, hint)
    if identity.serving is not None:
        own, hint = identity.serving, "look into the log of the control plane: it renews this by itself"
        yield lasting(category, "the control plane's own", own, now, own_margin(identity.lifetime), hint)


def proxies(facts: Facts) -> Iterator[Check]:
    """All there, all of one version, all with what they were told in force."""
    category, hint = "proxies", "look into their logs for why they cannot reach it"
    there: dict[tuple[str, str], int] = {}
    for proxy in facts.proxies:
        key = (proxy.namespace, proxy.workload)
        there[key] = there.get(key, 0) + 1
    missing = []
    for view in facts.resources:
        if view.kind == "Workload" and view.status.accepted:
            count = there.get((view.metadata.namespace, view.metadata.name), 0)
            wanted = int(view.spec.get("replicas", 1))
            if count < wanted:
                missing.append(f"{count} of {wanted} of {view.metadata.name}.{view.metadata.namespace}")
    told = [f"{counted(len(facts.proxies), 'proxy', 'proxies')}"]
    yield verdict(category, "are connected", missing, Status.FAILED, hint, good=told)
    yield ready(facts.unready)
    nacks = [
        f"{proxy.proxy} refused {name or 'its settings'}: {why}"
        for proxy in facts.proxies
        for name, why in proxy.nacks.items()
    ]
    hint = "they keep what was in force before; mend what they refused"
    yield verdict(category, "have all in force that they were told", nacks, Status.FAILED, hint)
    others = [f"{proxy.proxy} is {proxy.version}" for proxy in facts.proxies if proxy.version != facts.version.version]
    yield verdict(category, "are of the control plane's version", others, Status.WARNING, "start them anew")
    skewed = [
        f"{proxy.proxy} by {proxy.skew:+.0f} s" for proxy in facts.proxies if abs(proxy.skew) > NOTABLE_SKEW_SECONDS
    ]
    failed = any(abs(proxy.skew) > SKEW_SECONDS for proxy in facts.proxies)
    status = Status.FAILED if failed else Status.WARNING
    yield verdict(category, "have the control plane's time", skewed, status, "let NTP set their clocks")


def certificates(facts: Facts) -> Iterator[Check]:
    """Each proxy has one, renewed in time, from the issuer of now."""
    identity, now = facts.identity, facts.version.now
    if identity.issuer is None:
        return
    category = "certificates"
    # Of one that serves nobody, and got its certificate from a control plane before this one, nothing can be seen.
    serving = {proxy.proxy for proxy in facts.proxies if proxy.inbound}
    without = [one.proxy for one in identity.proxies if not one.not_after and one.proxy in serving]
    hint = "it can neither be called nor call others in the mesh; its log says why it has none"
    yield verdict(category, "each proxy has one", without, Status.FAILED, hint)
    late = [
        f"{one.proxy} {lasts(one.not_after - now)}"
        for one in identity.proxies
        if one.not_after and one.not_after - now < own_margin(identity.lifetime)
    ]
    ended = any(one.not_after and one.not_after <= now for one in identity.proxies)
    status, hint = Status.FAILED if ended else Status.WARNING, "renewals fail; the proxy's log says why"
    yield verdict(category, "are renewed in time", late, status, hint)
    issuer = identity.issuer.fingerprint
    old = [one.proxy for one in identity.proxies if one.not_after and one.issuer not in ("", issuer)]
    hint = "wait a minute: proxies renew when the issuer is another"
    yield verdict(category, "are from the issuer of now", old, Status.WARNING, hint)


def data_plane(facts: Facts) -> Iterator[Check]:
    """Endpoints that are told to others are there."""
    category = "endpoints"
    away = [f"{endpoint}: {why}" for endpoint, why in facts.unreachable.items()]
    yield verdict(category, "accept connections", away, Status.FAILED, "look at the proxy of that workload")
    empty = [f"{row.name}.{row.namespace}" for row in facts.services if row.namespace and not row.endpoints]
    hint = "start a workload for it, or look at the log of the one that should be there"
    yield verdict(category, "each service has one", empty, Status.WARNING, hint)


def resources(facts: Facts) -> Iterator[Check]:
    """All in force, and each about something that is there."""
    category = "resources"
    refused = [f"{named(view)}: {view.status.reason}" for view in facts.resources if not view.status.accepted]
    hint = "`conduit get all -o wide` tells the file; mend it"
    good = [counted(len(facts.resources), "resource", "resources")]
    yield verdict(category, "are accepted", refused, Status.FAILED, hint, good=good)
    open_ends = [
        (view, condition) for view in facts.resources for condition in view.status.conditions if not condition.status
    ]
    idle = [f"{named(view)}: {told.message}" for view, told in open_ends if told.reason in MATCHES_NOTHING]
    yield verdict(category, "match something", idle, Status.WARNING, "mend the name of what each is for, or delete it")
    wrong = [f"{named(view)}: {told.message or told.reason}" for view, told in open_ends]
    wrong = [told for told in wrong if told not in idle]
    yield verdict(category, "find all that they refer to", wrong, Status.WARNING, "mend the references")


def traffic(facts: Facts) -> Iterator[Check]:
    """What was called lately was called with mTLS."""
    within = [edge for edge in facts.edges if edge.to_namespace]
    plain = [f"{edge.source or '(unknown)'} to {edge.to}: {edge.reason}" for edge in within if not edge.secured]
    good = [counted(len(within), "edge", "edges") if within else "none was seen lately"]
    hint = "`conduit edges` shows them; a DefaultPolicy with `tls: strict` ends them"
    yield verdict("traffic", "is secured within the mesh", plain, Status.WARNING, hint, good=good)


# --- one check


def verdict(
    category: str, name: str, complaints: Sequence[str], status: Status, hint: str, *, good: Sequence[str] = ()
) -> Check:
    """Ok without complaints (with `good` as detail), else `status` with the first of them."""
    if not complaints:
        return Check(category, name, Status.OK, "; ".join(good))
    told = "; ".join(complaints[:SHOWN])
    more = f"; and {len(complaints) - SHOWN} more" if len(complaints) > SHOWN else ""
    return Check(category, name, status, f"{told}{more}", hint)


def lasting(category: str, what: str, certificate: CertificateInfo, now: float, margin: float, hint: str) -> Check:
    """Whether a certificate holds now, and longer than `margin` seconds."""
    name, left = f"{what} holds", certificate.not_after - now
    whose = certificate.names[0] if certificate.names else certificate.subject
    detail = f"{whose} {lasts(left)}"
    if left <= 0 or certificate.not_before > now + SKEW_SECONDS:
        told = detail if left <= 0 else f"{whose} begins in {length(certificate.not_before - now)}"
        return Check(category, name, Status.FAILED, told, hint)
    return Check(category, name, Status.WARNING if left < margin else Status.OK, detail, hint if left < margin else "")


def own_margin(lifetime: float) -> float:
    """Seconds that are left of a certificate whose renewal is late."""
    return lifetime * RENEWED_SECONDS


def lasts(left: float) -> str:
    """For how long something holds, or since when it does not."""
    return f"ends in {length(left)}" if left > 0 else f"ended {length(-left)} ago"


def length(seconds: float) -> str:
    """A length of time in its two largest units."""
    if seconds >= 2 * 365 * 86400:
        return f"{seconds / (365 * 86400):.0f} years"
    if seconds >= 3 * 86400:
        return f"{seconds / 86400:.0f} days"
    return duration_text(round(seconds / 60) * 60 if seconds >= 3600 else round(seconds))


def counted(number: int, one: str, more: str) -> str:
    """`1 proxy`, `2 proxies`."""
    return f"{number} {one if number == 1 else more}"


def named(view: ResourceView) -> str:
    """A resource, for people."""
    name = f"{view.metadata.namespace}/{view.metadata.name}" if view.metadata.name else view.status.file
    return f"{view.kind} {name}".strip()
