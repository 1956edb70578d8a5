"""Two proxies in a row: the certificates hold together, and both proxies are told the same."""

import json
import os
import ssl
from pathlib import Path

import pytest
import yaml

from bench import hops, peers
from bench.peers import pair
from bench.run import Plan, execute
from bench.scenarios import Scenario


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> None:
    """A whole TLS handshake in memory; raises ssl.SSLError where one side refuses the other."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = server.wrap_bio(to_server, to_client, server_side=True)
    two = client.wrap_bio(to_client, to_server, server_hostname=name)
    for side in (two, one, two, one):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue


def context(purpose: ssl.Purpose, files: hops.Files) -> ssl.SSLContext:
    """One end of the middle connection, which demands a certificate of the other."""
    made = ssl.create_default_context(purpose, cafile=files.ca)
    made.load_cert_chain(files.cert, files.key)
    made.verify_mode = ssl.CERT_REQUIRED
    return made


def test_the_ends_accept_each_other(tmp_path: Path) -> None:
    """What was made for the two ends makes a mutual handshake under the called one's name."""
    caller, called = hops.certificates(tmp_path)
    server, client = context(ssl.Purpose.CLIENT_AUTH, called), context(ssl.Purpose.SERVER_AUTH, caller)
    handshake(server, client, hops.CALLED)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "somebody.else")


@pytest.mark.parametrize("name", ["conduit", "envoy"])
def test_both_are_told_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The called proxy comes first, demands a certificate, and forwards; the caller calls it by name with its own."""
    (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(peers, "VENV_BIN", tmp_path)
    called, caller = pair(name, 1111, 2222, 3333, (4444, 5555), tmp_path)
    assert str(called.path) in called.command
    assert str(caller.path) in caller.command
    assert ("2222" in called.config, "3333" in called.config, "1111" in called.config) == (True, True, False)
    assert ("1111" in caller.config, "2222" in caller.config, "3333" in caller.config) == (True, True, False)
    assert hops.CALLED in caller.config
    if name == "conduit":
        assert yaml.safe_load(called.config)["inbound"][0]["tls"]["mode"] == "strict"
    else:
        (listener,) = json.loads(called.config)["static_resources"]["listeners"]
        assert listener["filter_chains"][0]["transport_socket"]["typed_config"]["require_client_certificate"] is True


def test_two_real_proxies_in_a_row(tmp_path: Path) -> None:
    """A small run through two of our proxies ends without an error, and the cost of both is counted."""
    core = min(os.sched_getaffinity(0))
    scenario = Scenario("two", "", "http2", 2, 2, requests=40, hops=2)
    samples = execute(Plan([scenario], ["conduit"], 1, core, core), lambda line: None)
    assert [sample.error for sample in samples] == [""]
    assert samples[0].cpu_us_per_request is not None
    assert (samples[0].rss_idle_bytes or 0) > 40_000_000
