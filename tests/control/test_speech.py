"""What proxies may say."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.control.speech import MAX_CSR, MAX_STEPS, MAX_SUBSCRIPTIONS, Malformed, Meter, decode, encode
from mesh.model.explain import Step
from mesh.model.push import MAX_MESSAGE, Ack, Explained, Hello, Report, Sign, Subscribe, Tapped, Welcome
from mesh.model.reports import LATENCY_BOUNDS_MS, Seen, SeriesDelta, SeriesKey, TcpDelta

HELLO = Hello("web", "demo", "web/h/1", "0.1")
KEY = SeriesKey("inbound", "votes", "", "http1", 200, -1, "completed", "", True, "disabled")

SEEN = Seen("votes", "", "10.0.0.1", "http", "GET", "/things/*", "/things/1", True, "default:audit", "", 3)


def changed(struct, **changes):
    return msgspec.structs.replace(struct, **changes)


def report(**changes):
    delta = SeriesDelta(KEY, 1, 1.0, {0: 1})
    return Report(0.0, 1.0, (changed(delta, **changes),))


def saw(**changes):
    return Report(0.0, 1.0, seen=(SEEN, changed(SEEN, **changes)))


@pytest.mark.parametrize("message", [HELLO, Subscribe("votes"), Ack("votes", 3), report(), saw(), Tapped(1, (), 2)])
def test_good_messages_pass(message):
    """What our proxies send comes out as it was."""
    assert decode(msgspec.json.encode(message)) == message
    assert decode(msgspec.json.encode(message).decode()) == message


@pytest.mark.parametrize(
    "message",
    [
        "",
        "nonsense",
        b"\xff\xfe",
        "[]",
        "{}",
        '{"type":"Unknown"}',
        '{"type":"Subscribe"}',
        '{"type":"Subscribe","name":7}',
        "[" * 100_000,
        '{"type":"Alive","x":' + "[" * 100_000 + "]" * 100_000 + "}",
        "x" * (MAX_MESSAGE + 1),
        changed(HELLO, workload=""),
        changed(HELLO, namespace=""),
        changed(HELLO, proxy="x" * 2000),
        changed(HELLO, inbound=("a",) * 200),
        changed(HELLO, services=("a",) * (MAX_SUBSCRIPTIONS + 1)),
        changed(report(), seconds=-1.0),
        report(requests=-1),
        report(requests=10**12),
        report(duration_ms=-1.0),
        report(buckets={-1: 1}),
        report(buckets={len(LATENCY_BOUNDS_MS) + 1: 1}),
        report(buckets={0: -1}),
        report(key=changed(KEY, direction="sideways")),
        report(key=changed(KEY, protocol="x" * 100)),
        Report(0.0, 1.0, (), (TcpDelta("inbound", "votes", 0, 0, -1, 0, 0),)),
        Report(0.0, 1.0, (), (TcpDelta("up", "votes", 0, 0, 1, 0, 0),)),
        Tapped(1, (), -1),
        saw(service="x" * 2000),
        saw(identity="x" * 300),
        saw(source="x" * 100),
        saw(protocol="x" * 100),
        saw(method="X" * 100),
        saw(path="/" * 3000),
        saw(example="/" * 3000),
        saw(by="x" * 300),
        saw(audited="x" * 300),
        saw(count=-1),
        saw(count=10**12),
    ],
    ids=lambda message: str(message)[:60],
)
def test_bad_messages_are_malformed(message):
    """Whatever is wrong, it is one error with a reason, not a crash."""
    with pytest.raises(Malformed) as caught:
        decode(message if isinstance(message, str | bytes) else msgspec.json.encode(message))
    assert str(caught.value)


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_no_bytes_do_more_than_be_malformed(message):
    """Any input is a message or Malformed."""
    try:
        decode(message)
    except Malformed:
        return


def test_encode_is_json():
    """What we say is tagged JSON."""
    assert msgspec.json.decode(encode(Welcome("e", 1))) == {"type": "Welcome", "epoch": "e", "version": 1}


def test_the_meter_lets_a_burst_pass_and_then_the_rate():
    """Within the burst nothing waits; beyond it, a message waits for its token, a large one for more."""
    meter = Meter(0.0, rate=10.0, burst=5.0)
    assert [meter.delay(0.0, 100) for _ in range(5)] == [0.0] * 5
    assert meter.delay(0.0, 100) == pytest.approx(0.1)
    assert meter.delay(0.1, 100) == pytest.approx(0.1)
    assert meter.delay(0.2, 4 * 16384) == pytest.approx(0.5)
    assert meter.delay(100.0, 100) == 0.0


@pytest.mark.parametrize(
    "message",
    [
        Sign("x" * (MAX_CSR + 1)),
        Explained(1, tuple(Step("route", "chosen") for _ in range(MAX_STEPS + 1))),
        report(key=changed(KEY, identity="x" * 254)),
    ],
    ids=["csr", "steps", "identity"],
)
def test_what_is_too_long_is_malformed(message):
    """Requests for certificates, explanations and identities have their bounds."""
    with pytest.raises(Malformed):
        decode(msgspec.json.encode(message))


@pytest.mark.parametrize("message", [Sign("x" * MAX_CSR), Explained(1, (Step("route", "chosen"),))])
def test_what_is_within_its_bounds_passes(message):
    """As it was."""
    assert decode(msgspec.json.encode(message)) == message
