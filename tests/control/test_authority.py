"""The issuer in force: files that change, well and badly, and the control plane's own certificate."""

import ssl
import time

import pytest
import trio
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from mesh.control.authority import RENEW_AT, Authority, trust_files
from mesh.control.issuer import NotSigned, TrustFiles
from mesh.model.errors import ConfigError
from mesh.model.identity import Identity

from .authorities import a_good_set, csr, make, put

WEB = Identity("web", "demo")


class Bench:
    """An authority on a folder's files, under a clock of its own."""

    def __init__(self, folder, log, **options):
        self.folder, self.log = folder, log
        self.files = a_good_set(folder)
        self.now = time.time()
        self.told = 0
        self.authority = Authority(self.files, log, clock=lambda: self.now, **options)
        self.authority.changed = self.changed

    def changed(self):
        self.told += 1

    def look(self):
        """The looks that a change needs: one to see it, one to see that it is over."""
        for _ in range(2):
            self.authority.look()

    def events(self, name):
        return [event for event in self.log.kept if event["event"] == name]


@pytest.fixture
def bench(tmp_path, log):
    return Bench(tmp_path / "trust", log)


def test_new_files_take_the_place_of_the_old(bench):
    """Another root and issuer: what is signed then is theirs, the port's certificate too; it is told once."""
    before, context = bench.authority.fingerprint, bench.authority.context
    bench.look()
    assert (bench.told, bench.authority.fingerprint) == (0, before)
    a_good_set(bench.folder, "another")
    bench.look()
    bench.look()
    assert bench.told == 1
    assert bench.authority.fingerprint != before
    assert bench.authority.context is not context
    assert bench.authority.shown()[1].fingerprint == bench.authority.fingerprint
    assert "another" in bench.authority.shown()[0][0].subject


def test_a_set_that_is_still_being_written_is_waited_for(bench):
    """Three files are not replaced at once: nothing is refused while they change from look to look."""
    newer = a_good_set(bench.folder / "newer", "newer")
    for field in TrustFiles._fields:
        getattr(bench.files, field).write_bytes(getattr(newer, field).read_bytes())
        bench.authority.look()
    assert bench.events("trust refused") == []
    bench.authority.look()
    assert (bench.told, bench.authority.problem) == (1, "")


def test_a_bad_set_leaves_the_good_one_in_force(bench):
    """It is logged once with file and field and shown as a problem, until a good one comes."""
    before, good = bench.authority.fingerprint, bench.files.key.read_bytes()
    bench.files.key.write_bytes(make("other").key_pem)
    for _ in range(5):
        bench.authority.look()
    [event] = bench.events("trust refused")
    assert (event["field"], event["file"]) == ("key", str(bench.files.key))
    assert "is not the key of" in bench.authority.problem
    assert (bench.authority.fingerprint, bench.told) == (before, 0)
    assert bench.authority.sign(csr(), WEB).chain
    bench.files.issuer.unlink()
    bench.look()
    assert "cannot be read" in bench.authority.problem
    a_good_set(bench.folder)
    bench.files.key.write_bytes(good)  # of the set before the last
    bench.look()
    assert bench.authority.problem
    a_good_set(bench.folder)
    bench.look()
    assert (bench.authority.problem, bench.told) == ("", 1)


def test_a_second_root_is_told_and_changes_nobodys_certificate(bench):
    """Adding an anchor, the first step of replacing one: the issuer stays, and so does the port's certificate."""
    context, fingerprint = bench.authority.context, bench.authority.fingerprint
    bench.files.anchors.write_bytes(bench.files.anchors.read_bytes() + make("second").pem)
    bench.look()
    assert bench.told == 1
    assert bench.authority.anchors.count("BEGIN CERTIFICATE") == 2
    assert (bench.authority.context, bench.authority.fingerprint) == (context, fingerprint)


def test_its_own_certificate_is_renewed_ahead_of_its_end(bench):
    """At 70 % of its life, and not before."""
    context, first = bench.authority.context, bench.authority.shown()[2]
    bench.now += bench.authority.lifetime * RENEW_AT - 60
    bench.authority.look()
    assert bench.authority.context is context
    bench.now += 120
    bench.authority.look()
    assert bench.authority.context is not context
    assert bench.authority.shown()[2].not_after > first.not_after


def test_an_issuer_that_has_ended_signs_no_more(tmp_path, log):
    """Nobody gets a certificate; its own stays as it was, the reason is logged, and new files mend it."""
    bench = Bench(tmp_path / "trust", log)
    root = make("root", end=bench.now + 15)
    put(bench.folder, [root], [root], root.key_pem)
    bench.look()
    context = bench.authority.context
    bench.now += 16  # less than clocks may differ: OpenSSL has its own
    with pytest.raises(NotSigned, match="expired"):
        bench.authority.sign(csr(), WEB)
    bench.look()
    assert bench.authority.context is context
    assert bench.events("own certificate not renewed")
    a_good_set(bench.folder)
    bench.look()
    assert bench.authority.sign(csr(), WEB).not_after > bench.now


def test_its_own_certificate_has_its_names(tmp_path, log):
    """Loopback's, and those that it is given; the key is in no file afterwards."""
    bench = Bench(tmp_path / "trust", log, hosts=("Mesh.Example", "10.1.2.3"))
    own = bench.authority.shown()[2]
    assert set(own.names) == {"localhost", "127.0.0.1", "::1", "mesh.example", "10.1.2.3"}
    assert bench.authority.context.minimum_version is ssl.TLSVersion.TLSv1_2
    assert bench.authority.context.num_tickets == 0


def test_bad_files_at_the_start_are_an_error(tmp_path, log):
    """There is nothing before them that could stay in force."""
    files = a_good_set(tmp_path / "trust")
    files.key.write_bytes(make("x").key.private_bytes(*PKCS1))
    with pytest.raises(ConfigError, match="is not the key of"):
        Authority(files, log)


PKCS1 = (
    serialization.Encoding.PEM,
    serialization.PrivateFormat.TraditionalOpenSSL,
    serialization.NoEncryption(),
)


def test_the_three_files_come_together(tmp_path):
    """All or none; what is missing is named."""
    assert trust_files(None, None, None) is None
    assert trust_files(tmp_path, tmp_path, tmp_path) == TrustFiles(tmp_path, tmp_path, tmp_path)
    with pytest.raises(ConfigError, match=r"--issuer-cert and --issuer-key: needed"):
        trust_files(tmp_path, None, None)


def test_an_issuer_that_openssl_does_not_believe_is_refused(tmp_path, log):
    """What looks good to us and would be refused by every peer: here a root with a key that is too short for them."""
    root = make("root", path_length=1, key=rsa.generate_private_key(65537, 1024))
    issuer = make("issuer", root, path_length=0)
    with pytest.raises(ConfigError, match="would be refused") as caught:
        Authority(put(tmp_path / "trust", [root], [issuer], issuer.key_pem), log)
    assert caught.value.field == "issuer"


async def test_the_task_looks_by_itself(bench, nursery, autojump_clock):
    """Until it is cancelled."""
    nursery.start_soon(bench.authority.watch)
    a_good_set(bench.folder, "another")
    with trio.fail_after(5):
        while not bench.told:
            await trio.sleep(0.05)
