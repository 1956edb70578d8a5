"""Who this proxy is, proved: a key that never leaves this process, a short-lived certificate for it, renewed in time.

General theory. One task makes a key, has the control plane certify it over the control stream, and installs what comes
as one immutable `Held`; then it waits until that is due again. Whoever dials or accepts reads `current` for each new
connection. Connections that are open keep what they began with.

When a new certificate is due:
  at 70 % of the lifetime of what is held, give or take a little;
  soon, when the control plane has another issuer (all proxies hear of that at once, so each waits a moment of its own);
  at once, when what is held does not lead to the roots that are trusted now: peers refuse it already.

Rules:
- What is in force stays so until something better is there, also beyond its end: a peer may judge it otherwise.
- A certificate is installed only if it would be believed: it shakes hands with itself first, under the roots that came
  with it, and must name just who we are.
- New roots hold at once, whatever we hold ourselves.
- A key is made for each certificate. It is made by a child (keypair.py), and only in memory and one pipe.
"""

from __future__ import annotations

import json
import random
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import trio

from mesh.model.errors import ConduitError, ConfigError, ControlError
from mesh.model.identity import Identity, parse, proven
from mesh.model.push import Signed
from mesh.proxy.keypair import Keypair
from mesh.proxy.report import Certificate
from mesh.wire.tls import Pem, TlsError, client_context_of, prove, server_context_of

RENEW_AT = 0.7
"""Of the lifetime."""
SKEW_SECONDS = 20.0
"""Certificates hold so much longer at both ends than their lifetime, for clocks that differ."""
RENEW_JITTER = 0.05
"""Of the time until renewal, to either side."""
SOONEST = 1.0
"""Seconds, however short the lifetime."""
ISSUER_JITTER = 2.0
"""Seconds within which all proxies turn to a new issuer."""
ANSWER_SECONDS = 5.0
"""That the control plane may take to sign."""
KEY_SECONDS = 30.0
"""That making a key may take; it takes less than a tenth of one."""
FIRST_PAUSE, LONGEST_PAUSE = 0.2, 10.0
"""Seconds between tries, before jitter."""
LOOK_SECONDS = 30.0
"""Seconds between two looks at the wall clock, which may jump."""

Log = Callable[[str, str, str], None]


class KeyFailed(ConduitError):
    """No key could be made; `str()` says why."""


class Signer(Protocol):
    """The control stream."""

    async def sign(self, csr: str) -> Signed:
        """The certificate for a request, as soon as there is a stream. Raises ControlError where it is not granted,
        and where the stream ends before the answer."""


class Contexts(NamedTuple):
    """For dialling, by what ALPN then asks for (nothing: `opaque`), and for accepting."""

    http2: ssl.SSLContext
    http1: ssl.SSLContext
    opaque: ssl.SSLContext
    server: ssl.SSLContext


class Held(NamedTuple):
    """What new connections use: Contexts, and how long their certificate holds."""

    http2: ssl.SSLContext
    http1: ssl.SSLContext
    opaque: ssl.SSLContext
    server: ssl.SSLContext
    not_before: float
    not_after: float
    """Seconds since the epoch."""

    def __repr__(self) -> str:
        return f"<Held until {moment(self.not_after)}>"


async def make_keypair(name: str, uri: str) -> Keypair:
    """A new key and the request to certify it, for both spellings of an identity. Raises KeyFailed."""
    program = Path(__file__).with_name("keypair.py")
    argv = [sys.executable, "-I", str(program), name, uri]
    try:
        with trio.fail_after(KEY_SECONDS):
            done = await trio.run_process(argv, capture_stdout=True, capture_stderr=True, check=False)
    except trio.TooSlowError:
        raise KeyFailed(f"making a key took over {KEY_SECONDS:g} s") from None
    except OSError as exc:
        raise KeyFailed(f"cannot start {argv[0]} to make a key: {exc.strerror}") from exc
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2][-200:]
        raise KeyFailed(f"making a key ended with status {done.returncode}: {last}")
    try:
        told = json.loads(done.stdout)
        return Keypair(str(told["key"]), str(told["csr"]))
    except (ValueError, KeyError, TypeError) as exc:
        raise KeyFailed("what makes keys printed none") from exc


class Credentials:
    """This proxy's identity and what proves it. `name` is the DNS spelling; `current` is None until the first
    certificate has come."""

    def __init__(
        self,
        identity: Identity,
        *,
        log: Log,
        make: Callable[[str, str], Awaitable[Keypair]] = make_keypair,
        wall: Callable[[], float] = time.time,
        chance: random.Random | None = None,
    ) -> None:
        """`wall` tells seconds since the epoch."""
        self.identity, self.name = identity, str(identity)
        self.current: Held | None = None
        self.why = "none has been asked for yet"
        """Why there is none, or no newer one."""
        self.installed = self.failed = 0
        self._log, self._make, self._wall = log, make, wall
        self._chance = chance or random.Random()
        self._first = trio.Event()
        self._changed = trio.Event()
        self._pem = Pem("", "", "")
        self._issuer = ""
        self._believed = False
        """Whether what is held leads to the roots that are trusted now."""
        self._renew_at = 0.0
        self._turn_at = float("inf")

    def __repr__(self) -> str:
        return f"<Credentials {self.name} {self.current or self.why}>"

    # --- what connections ask

    async def first(self) -> Held:
        """What is held, as soon as there is something; the caller sets the deadline."""
        while self.current is None:
            await self._first.wait()
        return self.current

    def is_peer(self, names: tuple[str, ...]) -> str:
        """Why names that were proved (SANs) are none of this mesh: `no_identity` or `wrong_trust_domain`; empty if they
        are."""
        found = proven(names)
        if found is None:
            return "no_identity"
        return "" if found.trust_domain == self.identity.trust_domain else "wrong_trust_domain"

    def problem_with(self, name: str) -> str:
        """Why no endpoint can prove `name` to us; empty if one can."""
        found = parse(name)
        if found is None:
            return f"{name} is no identity"
        if found.trust_domain != self.identity.trust_domain:
            return f"{name} is not of our trust domain, {self.identity.trust_domain}"
        return ""

    # --- what people ask

    def unready(self) -> str | None:
        """Why we cannot prove who we are; None if we can."""
        if self.current is None:
            return f"no certificate yet: {self.why}"
        if self.current.not_after <= self._wall():
            return f"the certificate has expired at {moment(self.current.not_after)}: {self.why or 'being renewed'}"
        return None

    def certificate(self) -> Certificate:
        """For metrics."""
        return Certificate(self.current.not_after if self.current else 0.0, self.installed, self.failed)

    # --- what the control plane says

    def follow(self, anchors: str, issuer: str) -> None:
        """Trust these roots (PEM) from now on; certificates come from `issuer`. Raises ConfigError for roots that are
        none, and all stays as it was."""
        held = self.current
        if held is not None and anchors and anchors != self._pem.anchors:
            pem = self._pem._replace(anchors=anchors)
            contexts = contexts_of(pem)
            self._pem, self.current = pem, held._replace(**contexts._asdict())
            try:
                prove(contexts.server, contexts.opaque)
                self._believed = True
            except TlsError as exc:
                self._believed = False
                self._log("certificate_outdated", self.name, f"it does not lead to the new roots: {exc}")
        if held is not None and issuer and issuer != self._issuer:
            self._turn_at = min(self._turn_at, self._wall() + self._chance.uniform(0.1, 1.0) * ISSUER_JITTER)
        self._changed.set()

    # --- the task

    async def run(self, signer: Signer) -> None:
        """Have a certificate, always, until cancelled."""
        pair: Keypair | None = None
        pause = FIRST_PAUSE
        while True:
            await self._until_due()
            try:
                if pair is None:
                    pair = await self._make(self.name, self.identity.uri)
                signed = await signer.sign(pair.csr)  # of a request that is repeated, a late answer is as good
                key, pair = pair.key, None
                self.install(signed, key)
            except (KeyFailed, ControlError, ConfigError, TlsError) as exc:
                self.failed += 1
                if str(exc) != self.why:
                    self._log("certificate_failed", self.name, str(exc))
                self.why = str(exc)
                await trio.sleep(pause * self._chance.uniform(0.5, 1.0))
                pause = min(pause * 2, LONGEST_PAUSE)
            else:
                pause = FIRST_PAUSE

    async def _until_due(self) -> None:
        while (left := self._due_in()) > 0:
            self._changed = trio.Event()
            with trio.move_on_after(min(left, LOOK_SECONDS)):
                await self._changed.wait()

    def _due_in(self) -> float:
        """Seconds; 0 or less: now."""
        if self.current is None or not self._believed:
            return 0.0
        return min(self._renew_at, self._turn_at) - self._wall()

    def install(self, signed: Signed, key: str) -> None:
        """Put a certificate in force. Raises ConfigError or TlsError, and all stays as it was."""
        pem = Pem(signed.chain, key, signed.anchors)
        contexts = contexts_of(pem)
        proof = prove(contexts.server, contexts.opaque)
        if proven(proof.names) != self.identity:
            shown = ", ".join(proof.names[:4]) or "nobody"
            raise ControlError(f"the control plane has signed for {shown} instead of {self.name}")
        now = self._wall()
        self._pem, self._issuer, self._believed = pem, signed.issuer, True
        self.current = Held(*contexts, proof.not_before, proof.not_after)
        life = RENEW_AT * (proof.not_after - SKEW_SECONDS - now)
        self._renew_at = now + max(life, SOONEST) * self._chance.uniform(1.0 - RENEW_JITTER, 1.0 + RENEW_JITTER)
        self._turn_at = float("inf")
        self.installed += 1
        self.why = ""
        self._first.set()
        self._log("certificate", self.name, f"holds until {moment(proof.not_after)}")


def contexts_of(pem: Pem) -> Contexts:
    """What connections need. Raises ConfigError with a field of Pem."""
    return Contexts(
        client_context_of(pem, ["h2"]),
        client_context_of(pem, ["http/1.1"]),
        client_context_of(pem, []),
        server_context_of(pem, alpn=["h2", "http/1.1"]),
    )


def moment(seconds: float) -> str:
    """A point in time, for people."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
