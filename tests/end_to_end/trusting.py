"""A control plane that signs, a root that tests can sign with as well, and proxies that have an identity."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import trustme

from mesh.control.issuer import TrustFiles, read
from mesh.control.tokens import proxy_token
from mesh.local.atomic import write_private
from mesh.model.identity import Identity
from mesh.proxy.keypair import generate
from tests.conftest import Handle
from tests.end_to_end.sidecar import Config, Sidecar, Starter, wait_until
from tests.end_to_end.tls_peer import Files

NAMESPACE = "demo"
LIFETIME = "1h"
DAY = 86_400.0


def identity(account: str, trust_domain: str = "cluster.local") -> Identity:
    """Of a workload of these tests."""
    return Identity(account, NAMESPACE, trust_domain)


class Trusting:
    """A running control plane; its roots and issuer can be replaced while it runs."""

    def __init__(
        self, run: Callable[..., Handle], start: Starter, folder: Path, port: int, *, lifetime: str = LIFETIME
    ) -> None:
        self.folder, self.start = folder, start
        self.files = TrustFiles(folder / "anchors.pem", folder / "issuer.pem", folder / "issuer.key")
        self.url = f"https://127.0.0.1:{port}"
        self.token = secrets.token_urlsafe(16)
        self._numbers = iter(range(1, 1000))
        root = trustme.CA()
        self.anchors = [root]
        self.trust(root)
        self.issue_from(root)
        sources = folder / "sources"
        sources.mkdir()
        options = ("--trust-anchors", "--issuer-cert", "--issuer-key")
        run(
            [
                *("env", f"CONDUIT_TOKEN={self.token}", start.conduit, "control"),
                *("--source", sources, "--state", folder / "state", "--listen", f"127.0.0.1:{port}"),
                *(word for pair in zip(options, self.files, strict=True) for word in pair),
                *("--certificate-lifetime", lifetime),
            ],
            ready_port=port,
        )

    def trust(self, *roots: trustme.CA) -> None:
        """These are all roots now."""
        write_private(self.files.anchors, b"".join(root.cert_pem.bytes() for root in roots))

    def issue_from(self, root: trustme.CA) -> None:
        """This one signs now."""
        write_private(self.files.issuer, root.cert_pem.bytes())
        write_private(self.files.key, root.private_key_pem.bytes())

    def sign(self, who: Identity, *, now: float | None = None, lifetime: float = DAY) -> Files:
        """A certificate as the control plane would give it at `now`, in files, and its key."""
        pair = generate(str(who), who.uri)
        found = read(self.files, time.time()).sign(pair.csr, who, time.time() if now is None else now, lifetime)
        files = Files(*(self.folder / f"peer-{next(self._numbers)}.{kind}" for kind in ("pem", "key")))
        files.cert.write_text(found.chain)
        files.key.write_text(pair.key)
        return files

    def proxy(
        self,
        account: str,
        services: dict[str, Config] | None = None,
        *,
        inbound: Sequence[Config] = (),
        strict: bool = False,
        **more: object,
    ) -> Sidecar:
        """A proxy that speaks for `account`, and is ready: it has its certificate."""
        link = {
            "url": self.url,
            "token": proxy_token(self.token, account, NAMESPACE, account),
            "workload": account,
            "namespace": NAMESPACE,
            "anchors": str(self.files.anchors),
        }
        policy = {
            "apiVersion": "conduit.mesh/v1alpha1",
            "kind": "DefaultPolicy",
            "metadata": {"name": "all", "namespace": "conduit"},
            "spec": {"target": {"kind": "Mesh"}, "tls": "strict" if strict else "permissive"},
        }
        sidecar = self.start(
            services,
            inbound=inbound,
            resources=[policy],
            control=link,
            identity={"account": account, "namespace": NAMESPACE},
            name=account,
            **more,
        )
        wait_until(lambda: sidecar.ask("/ready")[0] == 200, f"{account} is ready")
        return sidecar


def endpoint(port: int, account: str, protocol: str = "detect") -> Config:
    """A service whose one endpoint must prove to be `account`."""
    return {
        "protocol": protocol,
        "endpoints": [{"address": f"127.0.0.1:{port}", "identity": str(identity(account)), "meshed": True}],
    }
