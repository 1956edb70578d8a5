"""The proxies' configurations say the same thing, and their command lines name their files."""

import json
from pathlib import Path

import pytest
import yaml

from bench import peers
from bench.peers import NAMES, Ports, build, supports
from bench.process import BenchError
from bench.scenarios import Protocol

PORTS = Ports(listen=1111, upstreams=(2222,), admin=3333)
CONFIG = Path("/somewhere/proxy.conf")
PROTOCOLS: tuple[Protocol, ...] = ("http1", "http2", "opaque")


@pytest.fixture(autouse=True)
def _programs_are_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Programs named after the proxies beside 'this Python', whether or not the real ones are installed."""
    for name in NAMES:
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(peers, "VENV_BIN", tmp_path)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("name", NAMES)
def test_every_proxy_forwards_from_and_to_the_given_ports(name: str, protocol: Protocol) -> None:
    """Each configuration names both ports and each command line the configuration."""
    if not supports(name, protocol):
        assert (name, protocol) == ("nghttpx", "opaque")
        return
    peer = build(name, protocol, PORTS, CONFIG)
    assert "1111" in peer.config
    assert "2222" in peer.config
    assert any(str(CONFIG) in word for word in peer.command)
    assert Path(peer.command[0]).name == name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_conduit_is_given_the_documented_file(protocol: Protocol) -> None:
    """conduit's file is proxy.yaml as the reference describes it."""
    assert yaml.safe_load(build("conduit", protocol, PORTS, CONFIG).config) == {
        "admin": "127.0.0.1:3333",
        "outbound": [{"listen": "127.0.0.1:1111", "service": "echo"}],
        "services": {"echo": {"protocol": protocol, "endpoints": ["127.0.0.1:2222"]}},
    }


@pytest.mark.parametrize(
    ("protocol", "codec", "upstream"),
    [("http1", "HTTP1", "http_protocol_options"), ("http2", "HTTP2", "http2_protocol_options")],
)
def test_envoy_speaks_one_protocol_on_both_sides(protocol: Protocol, codec: str, upstream: str) -> None:
    """Envoy neither detects nor translates: both of its sides are told the protocol."""
    config = json.loads(build("envoy", protocol, PORTS, CONFIG).config)["static_resources"]
    manager = config["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["codec_type"] == codec
    (options,) = config["clusters"][0]["typed_extension_protocol_options"].values()
    assert list(options["explicit_http_config"]) == [upstream]


def test_envoy_has_one_worker() -> None:
    """One worker, as the others have."""
    command = build("envoy", "http1", PORTS, CONFIG).command
    assert command[command.index("--concurrency") + 1] == "1"


def test_a_replaced_conduit() -> None:
    """A developer's command takes conduit's place, with ports and file filled in."""
    peer = build("conduit", "http2", PORTS, CONFIG, "python sketch.py {listen} {upstream} {config}")
    assert peer.command == ["python", "sketch.py", "1111", "2222", str(CONFIG)]
    assert peer.config == build("conduit", "http2", PORTS, CONFIG).config


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_who_can_have_policies(protocol: Protocol) -> None:
    """Only conduit and Envoy can be told the same policies."""
    assert [name for name in NAMES if supports(name, protocol, governed=True)] == ["conduit", "envoy"]


def test_policies_are_added_to_the_same_configuration() -> None:
    """A governed proxy is told its policies, and otherwise what it is told without."""
    plain = json.loads(build("envoy", "http2", PORTS, CONFIG).config)["static_resources"]
    governed = json.loads(build("envoy", "http2", PORTS, CONFIG, governed=True).config)["static_resources"]
    assert plain["clusters"][0].items() <= governed["clusters"][0].items()
    ours = yaml.safe_load(build("conduit", "http2", PORTS, CONFIG, governed=True).config)
    assert [one["kind"] for one in ours.pop("resources")] == ["HTTPRoute", "TrafficPolicy"]
    assert ours["services"].pop("elsewhere") == {"protocol": "http2", "endpoints": []}
    assert ours == yaml.safe_load(build("conduit", "http2", PORTS, CONFIG).config)


def test_a_missing_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy that is not installed is named, with what to do about it."""
    (tmp_path / "conduit").unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    with pytest.raises(BenchError, match=r"conduit is not installed .*make setup"):
        build("conduit", "http1", PORTS, CONFIG)
