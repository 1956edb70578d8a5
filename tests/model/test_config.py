"""proxy.yaml's structs: what they default to, and that nothing unknown slips in."""

import msgspec
import pytest

from mesh.model.config import (
    ControlLink,
    Endpoint,
    InboundListener,
    InboundTls,
    OutboundListener,
    Protocol,
    ProxyConfig,
    Service,
    ServiceEntry,
    Timeouts,
    TlsFiles,
    TlsMode,
)
from mesh.model.limits import Limits

FULL = ProxyConfig(
    admin="127.0.0.1:1",
    outbound=(OutboundListener("127.0.0.1:2", "votes"), OutboundListener("127.0.0.1:3")),
    inbound=(InboundListener("127.0.0.1:4", "127.0.0.1:5", Protocol.HTTP2, "web", InboundTls("c", "k", "a")),),
    services={
        "votes": ServiceEntry(("127.0.0.1:6", Endpoint("[::1]:7", 0, "votes.demo")), tls=TlsFiles("c", "k", "a"))
    },
    limits=Limits(streams=1),
    control=ControlLink("http://127.0.0.1:8", "secret", "web"),
    name="web",
)


def test_a_proxy_config_survives_json() -> None:
    """All of it comes back as it was, through JSON and through plain values."""
    assert msgspec.json.decode(msgspec.json.encode(FULL), type=ProxyConfig) == FULL
    assert msgspec.convert(msgspec.to_builtins(FULL), ProxyConfig) == FULL


def test_defaults() -> None:
    """An empty configuration is valid; TLS is strict and protocols are detected unless told otherwise."""
    config = msgspec.convert({}, ProxyConfig)
    assert config == ProxyConfig()
    assert (config.outbound, config.inbound, config.services, config.control) == ((), (), {}, None)
    assert config.http2_codec == "ngh2"
    assert InboundTls("c", "k", "a").mode is TlsMode.STRICT
    assert Service("votes") == Service("votes", (), Protocol.DETECT, Timeouts(0.0, 0.0, 0.0), "")
    assert Endpoint("a:1").weight == 1


@pytest.mark.parametrize(
    ("type", "value"),
    [
        (ProxyConfig, {"outbounds": []}),
        (OutboundListener, {"listen": "a:1", "x": 1}),
        (InboundListener, {"listen": "a:1", "forward": "b:1", "x": 1}),
        (InboundTls, {"cert": "c", "key": "k", "ca": "a", "x": 1}),
        (TlsFiles, {"cert": "c", "key": "k", "ca": "a", "mode": "strict"}),
        (ServiceEntry, {"x": 1}),
        (Endpoint, {"address": "a:1", "x": 1}),
        (Timeouts, {"x": 1}),
        (Limits, {"x": 1}),
        (ControlLink, {"url": "", "token": "", "workload": "", "x": 1}),
    ],
)
def test_unknown_fields_are_refused(type: type, value: dict[str, object]) -> None:
    """A misspelt field is never silently ignored."""
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert(value, type)


def test_configuration_is_frozen() -> None:
    """Snapshots are swapped, never edited."""
    with pytest.raises(AttributeError):
        FULL.name = "other"  # type: ignore[misc]


def test_every_limit_is_a_positive_bound() -> None:
    """No default is unlimited, and those that the design fixes have its values."""
    limits = Limits()
    assert all(getattr(limits, name) > 0 for name in limits.__struct_fields__)
    fixed = {
        "detect_timeout": 10,
        "connect_timeout": 1,
        "handshake_timeout": 5,
        "header_bytes": 64 * 1024,
        "header_fields": 100,
        "replay_bytes": 64 * 1024,
        "streams": 256,
        "buffer_bytes": 256 * 1024,
        "connections": 10_000,
        "pending_requests": 1024,
        "pending_timeout": 3,
        "resets": 200,
        "resets_window": 10,
        "idle_http": 300,
        "idle_tcp": 3600,
        "drain_timeout": 120,
    }
    assert {name: getattr(limits, name) for name in fixed} == fixed
