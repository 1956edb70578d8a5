"""Plain values to structs: marked fields are read, and each mistake is told with its place."""

import datetime
import re
from typing import Annotated, Any

import msgspec
import pytest

from mesh.model.config import ProxyConfig, Service
from mesh.model.decoding import GRPC_CODES, decode, nearest
from mesh.model.errors import ConfigError
from mesh.model.traffic import Duration, GrpcCode, Instant, Part, Percent
from mesh.model.yaml_text import load_documents

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def test_a_part_of_a_document() -> None:
    """`decode` takes a path, and its errors name the whole path; dotted keys are no obstacle."""
    (document,) = load_documents("a:\n  - {name: x}\n  - {name: y, wait: 1}\nc: {d.e: {protcol: 1}}\n", "f")
    assert decode(document, Service, path="a[0]") == Service("x")
    for path, message in (
        ("a[1]", "f:3: a[1].wait: is no field here; "),
        ("a[2]", "f:1: a[2]: is required"),
        ("b.x", "f:1: b.x: is required"),
    ):
        with pytest.raises(ConfigError, match="^" + re.escape(message)):
            decode(document, Service, path=path)
    with pytest.raises(ConfigError) as caught:
        decode(document, dict[str, Service], path="c")
    assert str(caught.value).startswith("f:4: c.d.e.protcol: is no field here; did you mean protocol?")
    with pytest.raises(ConfigError) as caught:
        decode(document, ProxyConfig)
    assert caught.value.line == 1


def test_nearest() -> None:
    """A typo gets a suggestion, anything else the list."""
    assert nearest("prot", ["port", "protocol"]) == "did you mean port?"
    assert nearest("x", ["port", "protocol"]) == "known are port, protocol"


class Inner(Part, frozen=True):
    wait: Duration = 0.0
    codes: tuple[GrpcCode, ...] = ()


class Marked(Part, frozen=True):
    wait: Duration = 0.0
    maybe: Duration | None = None
    named: dict[str, Duration] = msgspec.field(default_factory=dict)
    parts: tuple[str | Inner, ...] = ()
    until: Instant = 0.0
    created: Annotated[datetime.datetime, msgspec.Meta(tz=True)] | None = None
    percent: Percent = 0.0
    rate: Annotated[float, msgspec.Meta(gt=0)] = 1.0
    few: Annotated[int, msgspec.Meta(lt=5)] = 0
    never: Annotated[Any, msgspec.Meta(extra={"unsupported": True})] = None


def marked(text: str) -> Marked:
    (document,) = load_documents(f"a:\n  - {{{text}}}\n", "f")
    return decode(document, Marked, path="a[0]")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("wait: 300ms", Marked(wait=0.3)),
        ("wait: 2", Marked(wait=2)),
        ("maybe: 1m", Marked(maybe=60)),
        ("maybe: null", Marked()),
        ("named: {a.b: 1s, c: 2}", Marked(named={"a.b": 1, "c": 2})),
        ("parts: [x, {wait: 2h, codes: [UNAVAILABLE, internal, 4]}]", Marked(parts=("x", Inner(7200, (14, 13, 4))))),
        ("until: 2026-11-23T22:00:00Z", Marked(until=1795471200)),
        ("until: '2026-11-23T22:00:00Z'", Marked(until=1795471200)),
        ("until: 2026-11-23", Marked(until=1795392000)),
        ("until: 5", Marked(until=5)),
        ("created: 1970-01-01 00:00:00", Marked(created=EPOCH)),
        ("created: '1970-01-01T02:00:00+02:00'", Marked(created=EPOCH)),
        ("created: null", Marked()),
        ("never: null", Marked()),
    ],
)
def test_marked_fields_are_read(text: str, value: Marked) -> None:
    """Wherever they stand: in lists, mappings, unions and structs."""
    assert marked(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wait: soon", "wait: 'soon' is no duration: "),
        ("wait: -1", "wait: must be seconds, 0 or more"),
        ("wait: .nan", "wait: must be seconds, 0 or more"),
        ("wait: .inf", "wait: must be seconds, 0 or more"),
        ("wait: 10000000000", "wait: 1e+10 s is over 1000000000 s"),
        ("wait: true", "wait: must be a number, not true or false"),
        ("wait: [1s]", "wait: must be a number, not a list"),
        ("maybe: soon", "maybe: 'soon' is no duration: "),
        ("named: {a.b: soon}", "named.a.b: 'soon' is no duration: "),
        ("parts: [x, {wait: soon}]", "parts[1].wait: 'soon' is no duration: "),
        ("parts: [{codes: [1, UNAVAILABL]}]", "parts[0].codes[1]: 'UNAVAILABL' is no gRPC code; did you mean UNAVAIL"),
        ("parts: [{codes: [17]}]", "parts[0].codes[0]: must be 16 or less"),
        ("until: soon", "until: 'soon' is no point of time such as "),
        ("until: .inf", "until: must be a number that is finite"),
        ("until: -1", "until: must be 0 or more"),
        ("created: 5", "created: must be a date, not a whole number"),
        ("percent: 100.5", "percent: must be 100 or less"),
        ("percent: .nan", "percent: must be a number that is finite"),
        ("rate: .inf", "rate: must be a number that is finite"),
        ("rate: 0", "rate: must be more than 0"),
        ("few: 5", "few: must be 4 or less"),
        ("never: {a: 1}", "never: is not supported"),
        ("nevr: 1", "nevr: is no field here; known are wait, maybe, named, parts, until, created, percent, rate, few"),
    ],
)
def test_mistakes_in_marked_fields(text: str, message: str) -> None:
    """Each is told with line and field."""
    with pytest.raises(ConfigError) as caught:
        marked(text)
    assert str(caught.value).startswith(f"f:2: a[0].{message}")
    if text.startswith("nevr"):
        assert not str(caught.value).endswith("never")


def test_names_of_grpc_codes() -> None:
    """Each stands at its number."""
    assert (GRPC_CODES[0], GRPC_CODES[14], GRPC_CODES[16], len(GRPC_CODES)) == (
        "OK",
        "UNAVAILABLE",
        "UNAUTHENTICATED",
        17,
    )
