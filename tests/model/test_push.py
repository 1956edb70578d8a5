"""The control stream's messages: each survives the wire under its own tag."""

from typing import get_args

import msgspec
import pytest

from mesh.model.authorization import Action, Egress
from mesh.model.config import Endpoint, Protocol, Service, Timeouts
from mesh.model.explain import Question, Step
from mesh.model.push import (
    HEARTBEAT_SECONDS,
    MAX_MESSAGE,
    SILENCE_SECONDS,
    Ack,
    Alive,
    Explain,
    Explained,
    FromControl,
    FromProxy,
    Heartbeat,
    Hello,
    Nack,
    NotSigned,
    Refused,
    Report,
    ServiceUpdate,
    Settings,
    Sign,
    Signed,
    Subscribe,
    Tapped,
    TapStart,
    TapStop,
    Unsubscribe,
    Welcome,
)
from mesh.model.reports import (
    LATENCY_BOUNDS_MS,
    LINKERD_BOUNDS_MS,
    SeriesDelta,
    SeriesKey,
    TapEvent,
    TapMatch,
    TcpDelta,
)

KEY = SeriesKey("inbound", "votes.demo", "web", "grpc", 200, 0, "completed", "", True, "true")
SERIES = SeriesDelta(KEY, 3, 4.5, {0: 1, len(LATENCY_BOUNDS_MS): 2})
EVENT = TapEvent("req", "1:3", "in", "web", "127.0.0.1:1", "127.0.0.1:2", "true", method="GET", path="/ä")
SERVICE = Service("votes", (Endpoint("127.0.0.1:1", 2, "votes.demo"),), Protocol.HTTP2, Timeouts(request=1.5), "demo")

FROM_PROXY = [
    Hello("web", "demo", "web/host/1", "0.1.0", "127.0.0.1:1", ("a:1",), ("b:1",), ("votes",)),
    Subscribe("votes.demo"),
    Unsubscribe("votes.demo"),
    Ack("votes", 7),
    Nack("votes", 7, "why"),
    Report(1.5, 1.0, (SERIES,), (TcpDelta("outbound", "votes", 1, 1, 0, 10, 20),)),
    Tapped(1, (EVENT,), 2),
    Alive(7),
    Sign("PEM"),
    Explained(3, (Step("policy", "denied", "why", "shop/p", "web"),)),
]
FROM_CONTROL = [
    Welcome("epoch", 7),
    ServiceUpdate("votes", 7, SERVICE),
    ServiceUpdate("nobody", 7),
    TapStart(1, TapMatch(to="votes", max_rps=5.0)),
    TapStop(1),
    Heartbeat(7),
    Refused("why"),
    Settings(7, "PEM", "ab", Egress(Action.DENY, "shop/p")),
    Signed("PEM", "PEM", "ab"),
    NotSigned("why"),
    Explain(3, Question("inbound", "votes")),
]


@pytest.mark.parametrize("message", FROM_PROXY, ids=lambda message: type(message).__name__)
def test_messages_from_proxies(message: FromProxy) -> None:
    """What a proxy sends arrives as it was."""
    assert msgspec.json.decode(msgspec.json.encode(message), type=FromProxy) == message


@pytest.mark.parametrize("message", FROM_CONTROL, ids=lambda message: type(message).__name__)
def test_messages_from_the_control_plane(message: FromControl) -> None:
    """What the control plane pushes arrives as it was."""
    assert msgspec.json.decode(msgspec.json.encode(message), type=FromControl) == message


def test_every_message_is_tried() -> None:
    """A message that is added to either direction must be added above."""
    assert {type(message) for message in FROM_PROXY} == set(get_args(FromProxy))
    assert {type(message) for message in FROM_CONTROL} == set(get_args(FromControl))


@pytest.mark.parametrize(
    "text", [b"", b"{}", b"[]", b'{"type":"Nobody"}', b'{"type":"Ack","name":"a"}', b'{"type":"Welcome","epoch":"e"}']
)
def test_what_is_no_message(text: bytes) -> None:
    """Nonsense, an unknown tag, a missing field and the other direction's messages are refused."""
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(text, type=FromProxy)


def test_bounds() -> None:
    """Silence is several heartbeats, so that a late one ends nothing; a message fits the websocket's own limit."""
    assert SILENCE_SECONDS >= 3 * HEARTBEAT_SECONDS
    assert MAX_MESSAGE <= 1024 * 1024


def test_latency_buckets() -> None:
    """Bounds rise, and those on /metrics are among those that proxies keep."""
    assert list(LATENCY_BOUNDS_MS) == sorted(set(LATENCY_BOUNDS_MS))
    assert list(LINKERD_BOUNDS_MS) == sorted(set(LINKERD_BOUNDS_MS))
    assert set(LINKERD_BOUNDS_MS) <= set(LATENCY_BOUNDS_MS)
