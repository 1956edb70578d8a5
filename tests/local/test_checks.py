"""What is said of a mesh, from facts."""

import pytest
from msgspec.structs import replace

from mesh.local.checks import Check, Facts, Status, checks, length, unreachable
from mesh.model.api import (
    CertificateInfo,
    Condition,
    Edge,
    IdentityInfo,
    ProxyIdentityInfo,
    ProxyInfo,
    ResourceStatus,
    ResourceView,
    StatRow,
    VersionInfo,
)
from mesh.model.resources import Metadata

NOW, HOUR, DAY = 1_000_000.0, 3600.0, 86400.0


def certificate(days: float, *, begins: float = -DAY) -> CertificateInfo:
    """One that ends in so many days."""
    return CertificateInfo("OU=x", "f1", NOW + begins, NOW + days * DAY)


def workload(replicas: int = 1, **status: object) -> ResourceView:
    """A Workload called web."""
    state = ResourceStatus("Workload", "demo", "web", **status)  # type: ignore[arg-type]
    return ResourceView("v1", "Workload", Metadata("web", "demo"), {"replicas": replicas}, state)


PROXY = ProxyInfo("web/h/1", "web", "demo", "0.1", "", ("127.0.0.1:1",), (), (), 1, {})
OWN = ProxyIdentityInfo("web/h/1", "web", "demo", "web.demo...", NOW + 20 * HOUR, "f1")
IDENTITY = IdentityInfo("x", 24 * HOUR, (certificate(900),), certificate(300), certificate(1), (OWN,))
EDGE = Edge("load", "web", 5, 1.0, 1.0, 1.0, 1.0, "true", to_namespace="demo", secured=True)
ROW = StatRow("web", "demo", "service", "http1", 5, 1.0, 1.0, 1.0, 1.0, 1.0, 1, 1)
GOOD = Facts(
    *("https://x", "0.1", NOW, VersionInfo("0.1", "e", 1, NOW), IDENTITY, [PROXY], [workload()], [ROW], [EDGE], {}, {}),
    expiry_warning=2 * DAY,
)


def troubles(facts: Facts) -> list[tuple[Status, str, str]]:
    """All that is not ok: how bad, which check, its detail."""
    found = [check for check in checks(facts) if check.status is not Status.OK]
    assert all(check.hint for check in found)
    return [(check.status, f"{check.category} {check.name}", check.detail) for check in found]


def test_all_is_well() -> None:
    """Each category is there, and nothing is found."""
    assert troubles(GOOD) == []
    found = checks(GOOD)
    assert list(dict.fromkeys(check.category for check in found)) == [
        *("control plane", "trust", "proxies", "certificates", "endpoints", "resources", "traffic")
    ]
    assert Check("proxies", "are connected", Status.OK, "1 proxy") in found
    assert Check("trust", "a root holds", Status.OK, "OU=x ends in 2 years") in found


@pytest.mark.parametrize(
    ("changed", "status", "check", "detail"),
    [
        ({"url": "http://x"}, "warning", "control plane proved who it is", "it was asked in plain text"),
        ({"ours": "0.2"}, "warning", "control plane is of our version", "it is 0.1, and we are 0.2"),
        ({"now": NOW - 8}, "warning", "control plane its clock is like ours", "it is 8 s ahead"),
        ({"now": NOW + 30}, "failed", "control plane its clock is like ours", "it is 30 s behind"),
        ({"identity": IdentityInfo()}, "warning", "trust workloads have identities", "no issuer was given"),
        ({"proxies": []}, "failed", "proxies are connected", "0 of 1 of web.demo"),
        ({"resources": [workload(3)]}, "failed", "proxies are connected", "1 of 3 of web.demo"),
        (
            {"proxies": [replace(PROXY, nacks={"words": "bad", "": "worse"})]},
            *("failed", "proxies have all in force that they were told"),
            "web/h/1 refused words: bad; web/h/1 refused its settings: worse",
        ),
        (
            {"proxies": [replace(PROXY, version="0.0")]},
            *("warning", "proxies are of the control plane's version", "web/h/1 is 0.0"),
        ),
        (
            {"proxies": [replace(PROXY, skew=-7.0)]},
            *("warning", "proxies have the control plane's time", "web/h/1 by -7 s"),
        ),
        (
            {"proxies": [replace(PROXY, skew=70.0)]},
            *("failed", "proxies have the control plane's time", "web/h/1 by +70 s"),
        ),
        ({"unready": {"web/h/1": "draining"}}, "failed", "proxies are ready", "web/h/1: draining"),
        ({"unreachable": {"web at x:1": "refused"}}, "failed", "endpoints accept connections", "web at x:1: refused"),
        ({"services": [replace(ROW, endpoints=0)]}, "warning", "endpoints each service has one", "web.demo"),
        (
            {"resources": [workload(), workload(accepted=False, reason="bad")]},
            *("failed", "resources are accepted", "Workload demo/web: bad"),
        ),
        (
            {"edges": [EDGE, replace(EDGE, source="", secured=False, reason="plain text")]},
            *("warning", "traffic is secured within the mesh", "(unknown) to web: plain text"),
        ),
    ],
)
def test_each_trouble_is_found_alone(changed: dict[str, object], status: str, check: str, detail: str) -> None:
    """With how bad it is, and what is seen of it; and it is not mistaken for another."""
    assert troubles(replace(GOOD, **changed)) == [(Status(status), check, detail)]


@pytest.mark.parametrize(
    ("changed", "status", "check", "detail"),
    [
        ({"problem": "no key"}, "failed", "trust newest files are good", "no key"),
        ({"anchors": (certificate(1),)}, "warning", "trust a root holds", "OU=x ends in 24h"),
        ({"anchors": (certificate(9), certificate(-1))}, "failed", "trust a root holds", "OU=x ended 24h ago"),
        ({"issuer": certificate(1)}, "warning", "trust the issuer holds", "OU=x ends in 24h"),
        ({"issuer": certificate(9, begins=HOUR)}, "failed", "trust the issuer holds", "OU=x begins in 1h"),
        ({"serving": certificate(0.1)}, "warning", "trust the control plane's own holds", "OU=x ends in 2h24m"),
        ({"proxies": (replace(OWN, not_after=0.0),)}, "failed", "certificates each proxy has one", "web/h/1"),
        (
            {"proxies": (replace(OWN, not_after=NOW + HOUR),)},
            *("warning", "certificates are renewed in time", "web/h/1 ends in 1h"),
        ),
        (
            {"proxies": (replace(OWN, not_after=NOW - 5),)},
            *("failed", "certificates are renewed in time", "web/h/1 ended 5s ago"),
        ),
        (
            {"proxies": (replace(OWN, issuer="f0"),)},
            *("warning", "certificates are from the issuer of now", "web/h/1"),
        ),
    ],
)
def test_troubles_of_identity(changed: dict[str, object], status: str, check: str, detail: str) -> None:
    """Roots, issuer and certificates: what has ended, ends soon, or is not there."""
    facts = replace(GOOD, identity=replace(IDENTITY, **changed))
    assert troubles(facts) == [(Status(status), check, detail)]


def test_certificate_of_a_client_may_be_unknown() -> None:
    """Nobody can call it, and the control plane that signed for it may have been another."""
    facts = replace(GOOD, identity=replace(IDENTITY, proxies=(replace(OWN, not_after=0.0),)))
    assert troubles(replace(facts, proxies=[replace(PROXY, inbound=())])) == []


def test_margin_is_the_users() -> None:
    """What is soon is for them to say."""
    assert [detail for _, _, detail in troubles(replace(GOOD, expiry_warning=400 * DAY))] == ["OU=x ends in 300 days"]


def test_policies_without_object() -> None:
    """One that matches nothing is told apart from one with a reference that leads nowhere."""
    nothing = Condition("Accepted", False, "TargetNotFound", "there is no service x")
    wrong = Condition("ResolvedRefs", False, "BackendNotFound", "no y")
    assert troubles(replace(GOOD, resources=[workload(conditions=(nothing, wrong))])) == [
        (Status.WARNING, "resources match something", "Workload demo/web: there is no service x"),
        (Status.WARNING, "resources find all that they refer to", "Workload demo/web: no y"),
    ]


def test_leaving_the_mesh_is_no_trouble() -> None:
    """What is outside cannot be secured by us."""
    outside = replace(EDGE, to="api.example.com", to_namespace="", secured=False, reason="it is outside of the mesh")
    assert troubles(replace(GOOD, edges=[outside])) == []


def test_of_many_some_are_named() -> None:
    """The number of the rest is told."""
    away = {f"web at x:{n}": "refused" for n in range(12)}
    [(_, _, detail)] = troubles(replace(GOOD, unreachable=away))
    assert detail.endswith("web at x:4: refused; and 7 more")


def test_nobody_answers() -> None:
    """Then that is all there is to say."""
    check = unreachable("no control plane")
    assert (check.status, check.detail) == (Status.FAILED, "no control plane")
    assert "conduit up" in check.hint


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5.4, "5s"), (90, "1m30s"), (7290, "2h2m"), (20 * HOUR, "20h"), (4 * DAY, "4 days"), (900 * DAY, "2 years")],
)
def test_length(seconds: float, text: str) -> None:
    """As long as it takes to understand it."""
    assert length(seconds) == text
