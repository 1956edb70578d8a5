"""What a proxy proves itself with: made, signed, renewed in time, and kept where nothing better comes."""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import pytest
import trio

from mesh.model.errors import ConfigError, ControlError
from mesh.model.identity import Identity
from mesh.model.push import Signed
from mesh.proxy.credentials import Credentials, KeyFailed, Signer, make_keypair, moment
from mesh.proxy.keypair import Keypair, generate
from mesh.wire.tls import TlsError, prove
from tests.proxy.trust import DAY, VOTES, WEB, Trust

Answer = Callable[[str], Signed]


class Plane:
    """Signs as the test says. `asked` are the requests and when they came, on trio's clock."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.asked: list[tuple[str, float]] = []

    async def sign(self, csr: str) -> Signed:
        self.asked.append((csr, trio.current_time()))
        await trio.lowlevel.checkpoint()
        return self.answer(csr)


class Bench:
    """Credentials that run on a virtual clock; the wall clock goes along with it."""

    def __init__(self, nursery: trio.Nursery, answer: Answer) -> None:
        self.plane = Plane(answer)
        self.logged: list[tuple[str, str, str]] = []
        self._began = time.time() - trio.current_time()
        self.ahead = 0.0
        self.made = 0
        self.credentials = Credentials(
            WEB, log=lambda *line: self.logged.append(line), make=self.make, wall=self.wall, chance=random.Random(1)
        )
        signer: Signer = self.plane
        nursery.start_soon(self.credentials.run, signer)

    def wall(self) -> float:
        """Seconds since the epoch; `ahead` is how far the clock has jumped."""
        return self._began + trio.current_time() + self.ahead

    async def make(self, name: str, uri: str) -> Keypair:
        self.made += 1
        return generate(name, uri)

    async def until(self, condition: Callable[[], object], seconds: float = 2 * DAY) -> None:
        """Let virtual time pass until it holds."""
        with trio.fail_after(seconds):
            while not condition():
                await trio.sleep(0.01)


@pytest.fixture
def trust() -> Trust:
    return Trust()


# --- renewal ----------------------------------------------------------------------------


async def test_the_first_certificate_comes_at_once(autojump_clock, nursery, trust) -> None:
    """Whoever waits for it goes on; it is ours, and says when it ends."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB))
    assert bench.credentials.unready() == "no certificate yet: none has been asked for yet"
    with trio.fail_after(10):
        held = await bench.credentials.first()
    assert held is bench.credentials.current
    assert held.not_after == pytest.approx(time.time() + DAY + 20, abs=30)
    assert prove(held.server, held.http2).names == (str(WEB), WEB.uri)
    assert bench.credentials.unready() is None
    assert bench.credentials.certificate() == (held.not_after, 1, 0)
    assert "PRIVATE" not in repr(bench.credentials) + repr(held)


async def test_it_is_renewed_at_seventy_percent(autojump_clock, nursery, trust) -> None:
    """Give or take a twentieth; with a key of its own."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB, lifetime=1000.0))
    await bench.until(lambda: len(bench.plane.asked) == 2)
    (first, began), (second, renewed) = bench.plane.asked
    assert 0.66 * 1000 < renewed - began < 0.74 * 1000
    assert first != second
    assert bench.made == 2


async def test_a_lifetime_of_a_second_is_held_as_well(autojump_clock, nursery, trust) -> None:
    """A new one comes each second, and no more than that."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB, lifetime=1.0, now=bench.wall() - 10))
    await bench.until(lambda: len(bench.plane.asked) == 6, 30)
    gaps = [later[1] - sooner[1] for sooner, later in zip(bench.plane.asked, bench.plane.asked[1:], strict=False)]
    assert all(0.9 < gap < 1.2 for gap in gaps)


async def test_another_issuer_has_it_renewed_soon(autojump_clock, nursery, trust) -> None:
    """Within two seconds, but not at once with everybody; and only once."""
    other, trusts = Trust(), [trust]
    bench = Bench(nursery, lambda csr: trusts[-1].sign(csr, WEB, others=[trust, other]))
    await bench.credentials.first()
    trusts.append(other)
    bench.credentials.follow(trust.anchors + other.anchors, other.issuer.fingerprint)
    told = trio.current_time()
    await bench.until(lambda: bench.credentials.installed == 2, 10)
    assert 0 < trio.current_time() - told < 2.1
    bench.credentials.follow(trust.anchors + other.anchors, other.issuer.fingerprint)
    await trio.sleep(100)
    assert bench.credentials.installed == 2


async def test_roots_that_do_not_believe_it_have_it_renewed_at_once(autojump_clock, nursery, trust) -> None:
    """They are trusted before that: who was signed by them is believed by us already."""
    other = Trust()
    trusts = [trust]
    bench = Bench(nursery, lambda csr: trusts[-1].sign(csr, WEB))
    await bench.credentials.first()
    trusts.append(other)
    peer = other.certified(VOTES).current
    before = bench.credentials.current
    bench.credentials.follow(other.anchors, other.issuer.fingerprint)
    held = bench.credentials.current
    assert held is not before
    with pytest.raises(TlsError) as caught:
        prove(held.server, peer.opaque)
    assert caught.value.reason == "unknown_authority"
    told = trio.current_time()
    await bench.until(lambda: bench.credentials.installed == 2, 10)
    assert trio.current_time() - told < 0.1
    assert prove(bench.credentials.current.server, peer.opaque).names[0] == str(WEB)
    assert prove(peer.server, bench.credentials.current.opaque).names[0] == str(VOTES)
    assert "certificate_outdated" in [event for event, *_ in bench.logged]


async def test_a_root_that_is_added_changes_nothing_else(autojump_clock, nursery, trust) -> None:
    """The certificate is the same and both roots are believed."""
    other = Trust()
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB))
    await bench.credentials.first()
    bench.credentials.follow(trust.anchors + other.anchors, trust.issuer.fingerprint)
    await trio.sleep(100)
    assert bench.credentials.installed == 1
    peer = other.certified(VOTES, others=[trust]).current
    assert prove(peer.server, bench.credentials.current.opaque).names[0] == str(VOTES)


async def test_roots_that_are_none_are_refused(autojump_clock, nursery, trust) -> None:
    """What was trusted stays trusted; no roots at all say nothing."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB))
    held = await bench.credentials.first()
    with pytest.raises(ConfigError, match="anchors: hold no PEM certificate"):
        bench.credentials.follow("nonsense", "")
    bench.credentials.follow("", "")
    assert bench.credentials.current is held


# --- what goes wrong --------------------------------------------------------------------


async def test_a_refusal_is_tried_again_with_the_same_request(autojump_clock, nursery, trust) -> None:
    """After a pause that grows, to ten seconds at most; the reason is logged once, counted, and told by /ready."""

    def refuse(csr: str) -> Signed:
        raise ControlError("the control plane does not sign: no")

    bench = Bench(nursery, refuse)
    await bench.until(lambda: len(bench.plane.asked) == 12, 200)
    assert len({csr for csr, _ in bench.plane.asked}) == bench.made == 1
    times = [at for _, at in bench.plane.asked]
    assert times[1] - times[0] <= 0.2
    assert 4.9 < times[-1] - times[-2] <= 10.0
    assert bench.credentials.unready() == "no certificate yet: the control plane does not sign: no"
    assert [event for event, *_ in bench.logged] == ["certificate_failed"]
    assert bench.credentials.certificate().failed >= 11
    bench.plane.answer = lambda csr: trust.sign(csr, WEB)
    await bench.until(lambda: bench.credentials.current, 20)
    assert bench.credentials.unready() is None


async def test_what_is_in_force_stays_beyond_its_end(autojump_clock, nursery, trust) -> None:
    """With nobody to renew it, it is used on; only when it has expired are we not ready, and we say why."""

    def gone(csr: str) -> Signed:
        raise ControlError("the control stream ended: silent for 5 s")

    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB, lifetime=100.0))
    held = await bench.credentials.first()
    bench.plane.answer = gone
    await trio.sleep(110)
    assert len(bench.plane.asked) > 2
    assert bench.credentials.unready() is None
    await trio.sleep(20)
    assert bench.credentials.current is held
    expected = f"the certificate has expired at {moment(held.not_after)}: the control stream ended: silent for 5 s"
    assert bench.credentials.unready() == expected


@pytest.mark.parametrize(
    "how", ["another identity", "another key", "other roots", "garbage", "expired", "a mute child"]
)
async def test_what_nobody_would_believe_is_not_installed(autojump_clock, nursery, trust, how: str) -> None:
    """The control plane may err: what it sends is tried on ourselves first, and asked for anew with another key."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB, lifetime=50.0))
    held = await bench.credentials.first()

    def wrong(csr: str) -> Signed:
        match how:
            case "another identity":
                return trust.sign(csr, VOTES)
            case "another key":
                return trust.sign(generate(str(WEB), WEB.uri).csr, WEB)
            case "other roots":
                return Signed(trust.sign(csr, WEB).chain, Trust().anchors, "")
            case "expired":
                return trust.sign(csr, WEB, now=time.time() - 3600, lifetime=3600 - 30)
            case "a mute child":
                raise KeyFailed("making a key ended with status 1")
        return Signed("garbage", "garbage", "")

    bench.plane.answer = wrong
    await bench.until(lambda: bench.credentials.failed == 3, 200)
    assert bench.credentials.current is held
    assert bench.credentials.why
    if how != "a mute child":
        assert bench.made == 4


async def test_the_clock_may_jump(autojump_clock, nursery, trust) -> None:
    """A machine that has slept past its certificate's end asks for another within half a minute."""
    bench = Bench(nursery, lambda csr: trust.sign(csr, WEB))
    await bench.credentials.first()
    bench.ahead = 2 * DAY
    await bench.until(lambda: len(bench.plane.asked) == 2, 31)


# --- whom it believes -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "why"),
    [
        ((str(VOTES), VOTES.uri), ""),
        ((VOTES.uri,), ""),
        ((), "no_identity"),
        (("votes.demo",), "no_identity"),
        ((str(VOTES), WEB.uri), "no_identity"),
        ((str(VOTES._replace(trust_domain="else.where")),), "wrong_trust_domain"),
    ],
)
def test_a_peer_proves_one_identity_of_our_trust_domain(names: tuple[str, ...], why: str) -> None:
    """Either spelling will do; two identities are none."""
    assert Credentials(WEB, log=lambda *_: None).is_peer(names) == why


def test_only_names_of_our_trust_domain_can_be_dialled() -> None:
    """The reason names the name."""
    credentials = Credentials(WEB, log=lambda *_: None)
    assert credentials.problem_with(str(VOTES)) == ""
    assert credentials.problem_with("votes.demo") == "votes.demo is no identity"
    assert "not of our trust domain, cluster.local" in credentials.problem_with(str(Identity("a", "b", "else.where")))


# --- the child that makes keys ----------------------------------------------------------


async def test_a_child_makes_the_key() -> None:
    """The library that it takes does not come into this process for it: what comes is text."""
    pair = await make_keypair(str(WEB), WEB.uri)
    assert pair.key.startswith("-----BEGIN PRIVATE KEY-----")
    assert pair.csr.startswith("-----BEGIN CERTIFICATE REQUEST-----")


@pytest.mark.parametrize(
    ("program", "why"),
    [("/nonexistent/python", "cannot start"), ("/bin/false", "ended with status 1"), ("/bin/true", "printed none")],
)
async def test_a_child_that_fails_is_told(monkeypatch, program: str, why: str) -> None:
    """With the reason, as KeyFailed."""
    monkeypatch.setattr(sys, "executable", program)
    with pytest.raises(KeyFailed, match=why):
        await make_keypair(str(WEB), WEB.uri)
