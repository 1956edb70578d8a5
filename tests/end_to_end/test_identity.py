"""Identities from a real control plane: mTLS between proxies with nothing configured, and who is refused, by peers that
are none of ours."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.end_to_end.conftest import CONDUIT, processes_in
from tests.end_to_end.curl import VERSIONS, curl
from tests.end_to_end.nginx import SMALL, Nginx
from tests.end_to_end.paced import paced
from tests.end_to_end.sidecar import Config, Sidecar, Starter, wait_until
from tests.end_to_end.tls_peer import Files, renegotiate, s_client, sslyze
from tests.end_to_end.trusting import DAY, Trusting, endpoint, identity

NAME = str(identity("votes"))
GET = b"GET /small HTTP/1.1\r\nHost: votes\r\nConnection: close\r\n\r\n"
OK = "HTTP/1.1 200 OK"


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Trusting]:
    """A control plane for all tests of this file but the one that replaces its root."""
    folder = tmp_path_factory.mktemp("trusting")
    with processes_in(folder) as run:
        yield Trusting(run, Starter(run, free_port, folder, CONDUIT), folder, free_port())


@pytest.fixture(scope="module")
def strict(trusting: Trusting, nginx: Nginx) -> Sidecar:
    """`votes`, which serves nobody who has not proved who it is."""
    return trusting.proxy("votes", inbound=[behind(nginx)], strict=True)


@pytest.fixture(scope="module")
def permissive(trusting: Trusting, nginx: Nginx) -> Sidecar:
    """The same for everybody."""
    return trusting.proxy("votes", inbound=[behind(nginx)])


@pytest.fixture(scope="module")
def front(trusting: Trusting, strict: Sidecar, permissive: Sidecar) -> Sidecar:
    """`web`, for plain clients."""
    services = {
        "strict": endpoint(strict.inbound[0], "votes"),
        "permissive": endpoint(permissive.inbound[0], "votes"),
        "opaque": endpoint(strict.inbound[0], "votes", "opaque"),
        "wrong": endpoint(strict.inbound[0], "words"),
        "stranger": {
            "endpoints": [{"address": f"127.0.0.1:{strict.inbound[0]}", "identity": NAME.replace("cluster", "else")}]
        },
    }
    return trusting.proxy("web", services)


def behind(nginx: Nginx) -> Config:
    """An inbound listener before an application that speaks HTTP/1.1."""
    return {"forward": f"127.0.0.1:{nginx.http1}", "protocol": "http1"}


def refused(sidecar: Sidecar, reason: str) -> float:
    return sidecar.total("conduit_refused_total", reason=reason, where="inbound")


# --- between proxies --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("service", "version"),
    [*((service, version) for service in ("strict", "permissive") for version in VERSIONS), ("opaque", "http1")],
)
def test_proxies_prove_who_they_are_with_nothing_configured(
    front: Sidecar, strict: Sidecar, permissive: Sidecar, service: str, version: str
) -> None:
    """A plain client reaches a plain application; between their proxies is mTLS, and both sides say as whom."""
    there = permissive if service == "permissive" else strict
    before = there.total("request_total", tls="true", client_id=str(identity("web")))
    assert curl(front.url(service, "/small"), VERSIONS[version]).body == SMALL.encode()
    wait_until(
        lambda: there.total("request_total", tls="true", client_id=str(identity("web"))) > before,
        "the client's identity is counted",
    )
    assert front.total("request_total", authority=service, tls="true", direction="outbound") >= 1


@pytest.mark.parametrize(
    ("service", "why"),
    [("wrong", b"the peer's certificate was refused|for votes"), ("stranger", b"is not of our trust domain")],
)
def test_who_is_not_whom_we_mean_gets_nothing(front: Sidecar, service: str, why: bytes) -> None:
    """One clear error, never plain text."""
    answer = curl(front.url(service, "/small"), VERSIONS["http1"])
    assert answer.status == 503
    assert b"TLS" in answer.body
    if service == "stranger":
        assert why in answer.body


# --- peers that are none of ours --------------------------------------------------------


def test_openssl_with_all_that_is_asked_is_served(trusting: Trusting, strict: Sidecar) -> None:
    """What the others below differ from: over TLS 1.2 and 1.3."""
    files = trusting.sign(identity("web"))
    for option in ("-tls1_2", "-tls1_3"):
        said = s_client(strict.inbound[0], NAME, files, option, "-CAfile", str(trusting.files.anchors), say=GET)
        assert OK in said, said
        assert "Verify return code: 0 (ok)" in said


CASES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "no certificate": ("tls_certificate_missing", NAME, ()),
    "wrong trust domain": ("tls_wrong_trust_domain", NAME, ()),
    "no identity": ("tls_no_identity", NAME, ()),
    "expired": ("tls_certificate_expired", NAME, ()),
    "not yet valid": ("tls_certificate_not_yet_valid", NAME, ()),
    "other root": ("tls_unknown_authority", NAME, ()),
    "TLS 1.1": ("tls_version_refused", NAME, ("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")),
    "another name": ("tls_not_mesh", "votes.example", ()),
}


def shown_in(case: str, trusting: Trusting) -> Files | None:
    """The certificate that a client shows in a case."""
    match case:
        case "no certificate":
            return None
        case "wrong trust domain":
            return trusting.sign(identity("web", "else.where"))
        case "expired":
            return trusting.sign(identity("web"), now=time.time() - DAY, lifetime=3600.0)
        case "not yet valid":
            return trusting.sign(identity("web"), now=time.time() + DAY)
        case "no identity" | "other root":
            root = trusting.anchors[0] if case == "no identity" else trustme.CA()
            issued = root.issue_cert("web.demo" if case == "no identity" else str(identity("web")))
            files = Files(*(trusting.folder / f"{case.replace(' ', '-')}.{kind}" for kind in ("pem", "key")))
            issued.cert_chain_pems[0].write_to_path(files.cert)
            issued.private_key_pem.write_to_path(files.key)
            return files
    return trusting.sign(identity("web"))


@pytest.mark.parametrize("case", CASES)
def test_openssl_is_refused(trusting: Trusting, strict: Sidecar, nginx: Nginx, case: str) -> None:
    """Nothing of the application's is seen, and the reason is counted."""
    reason, name, options = CASES[case]
    before = refused(strict, reason)
    said = s_client(strict.inbound[0], name, shown_in(case, trusting), *options, say=GET)
    assert OK not in said
    wait_until(lambda: refused(strict, reason) == before + 1, f"{reason} is counted: {said}")


def test_renegotiation_is_refused(trusting: Trusting, strict: Sidecar) -> None:
    """A client that asks for it within TLS 1.2 is told no."""
    said = renegotiate(strict.inbound[0], NAME, trusting.sign(identity("web")))
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said


def test_sslyze_finds_nothing(trusting: Trusting, strict: Sidecar, tmp_path: Path) -> None:
    """Only TLS 1.2 and 1.3 with forward secrecy; no resumption, no renegotiation, no compression, no known hole."""
    old = ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1")
    scans = ("--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3", "--reneg", "--resum")
    more = ("--compression", "--heartbleed", "--openssl_ccs", "--robot", "--early_data", "--fallback")
    files = trusting.sign(identity("web"))
    found = sslyze(strict.inbound[0], NAME, files, tmp_path, *scans, *more)
    for version in old:
        assert found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"] == []
    for version in ("tls_1_2", "tls_1_3"):
        accepted = found[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
        names = [one["cipher_suite"]["name"] for one in accepted]
        assert names
        assert all(name.startswith("TLS_ECDHE_") or version == "tls_1_3" for name in names)
    renegotiation = found["session_renegotiation"]["result"]
    assert not renegotiation["is_vulnerable_to_client_renegotiation_dos"]
    assert renegotiation["supports_secure_renegotiation"]
    resumption = found["session_resumption"]["result"]
    assert resumption["session_id_successful_resumptions_count"] == 0
    assert resumption["tls_ticket_successful_resumptions_count"] == 0
    assert not found["tls_compression"]["result"]["supports_compression"]
    assert not found["heartbleed"]["result"]["is_vulnerable_to_heartbleed"]
    assert not found["openssl_ccs_injection"]["result"]["is_vulnerable_to_ccs_injection"]
    assert not found["tls_1_3_early_data"]["result"]["supports_early_data"]


def test_plain_text_is_for_the_permissive(strict: Sidecar, permissive: Sidecar) -> None:
    """The strict one refuses and counts it; the permissive one serves it and says so."""
    url = f"http://127.0.0.1:{permissive.inbound[0]}/small"
    assert curl(url, VERSIONS["http1"]).body == SMALL.encode()
    wait_until(lambda: permissive.total("request_total", tls="disabled", client_id="") == 1, "plain text is counted")
    before = refused(strict, "plain_text")
    with socket.create_connection(("127.0.0.1", strict.inbound[0]), timeout=30) as client:
        client.sendall(GET)
        assert client.recv(1000) == b""
    wait_until(lambda: refused(strict, "plain_text") == before + 1, "the refusal is counted")


def test_the_certificate_is_shown_in_metrics(strict: Sidecar) -> None:
    """When it ends, within the hour that it was given and the skew."""
    ends = strict.total("conduit_identity_cert_expiration_timestamp_seconds")
    assert time.time() < ends < time.time() + 3600 + 21
    assert strict.total("conduit_identity_cert_refresh_total", result="installed") >= 1


# --- rotation ---------------------------------------------------------------------------


@pytest.fixture
def rotating(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Trusting]:
    """A control plane of its own, whose certificates hold for a second."""
    with processes_in(tmp_path) as run:
        yield Trusting(run, Starter(run, free_port, tmp_path, CONDUIT), tmp_path, free_port(), lifetime="1s")


def knock(port: int, over: threading.Event, failures: list[str], done: list[int]) -> None:
    """A new connection for each request, until it is over."""
    while not over.is_set():
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
                client.sendall(GET)
                found = b""
                while chunk := client.recv(65536):
                    found += chunk
            if not found.startswith(OK.encode()):
                failures.append(found[:200].decode("latin-1") or "closed")
            done[0] += 1
        except OSError as exc:
            failures.append(str(exc))


def test_certificates_and_the_root_are_replaced_under_load(rotating: Trusting, nginx: Nginx, tmp_path: Path) -> None:
    """Certificates each second; a new root is added, signs, and the old one is removed: at 500 requests a second and
    with a new connection all the time, not one request fails."""
    votes = rotating.proxy("votes", inbound=[behind(nginx)], strict=True)
    services = {
        "votes": endpoint(votes.inbound[0], "votes"),
        "opaque": endpoint(votes.inbound[0], "votes", "opaque"),
    }
    web = rotating.proxy("web", services)
    proxies = (votes, web)
    old, new = rotating.anchors[0], trustme.CA()
    over, failures, done = threading.Event(), [], [0]
    thread = threading.Thread(target=knock, args=(web.ports["opaque"], over, failures, done))

    def installed(more: int) -> None:
        """Each proxy gets so many certificates more."""
        wanted = [one.total("conduit_identity_cert_refresh_total", result="installed") + more for one in proxies]

        def reached() -> bool:
            now = [one.total("conduit_identity_cert_refresh_total", result="installed") for one in proxies]
            return all(have >= want for have, want in zip(now, wanted, strict=True))

        wait_until(reached, f"{more} more certificates")

    thread.start()
    try:
        with paced(web.url("votes", "/small"), tmp_path, requests=5000, rate=500, version="http1") as load:
            rotating.trust(old, new)
            installed(3)
            rotating.issue_from(new)
            installed(3)
            rotating.trust(new)
            installed(3)
            lines = load.lines()
    finally:
        over.set()
        thread.join()
    assert failures == []
    assert done[0] > 50
    assert {line.status for line in lines} == {200}
    for one in proxies:
        assert one.total("conduit_identity_cert_refresh_total", result="failed") == 0
    chain = s_client(votes.inbound[0], NAME, rotating.sign(identity("web")), "-showcerts", say=GET)
    assert OK in chain
    ca = tmp_path / "new.pem"
    new.cert_pem.write_to_path(ca)
    assert "Verify return code: 0 (ok)" in s_client(
        votes.inbound[0], NAME, rotating.sign(identity("web")), "-CAfile", str(ca), say=GET
    )
