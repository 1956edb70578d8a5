"""Plain values to checked structs: what a document says of a field must be of that field's type, and a mistake is told
with file, line and field.

Besides what msgspec reads, fields may be marked in their type (`msgspec.Meta(extra=...)`): lengths of time, points of
time and gRPC codes may be text, what is unsupported is refused, and numbers with a bound are finite.
"""

from __future__ import annotations

import datetime
import functools
import math
import re
from collections.abc import Hashable
from typing import Any, NamedTuple, TypeVar, cast

import msgspec
from msgspec import inspect

from mesh.model.durations import parse_duration, parse_moment, seconds
from mesh.model.errors import ConfigError
from mesh.model.yaml_text import Document

T = TypeVar("T")

GRPC_CODES = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS"),
    *("PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED"),
    *("INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED"),
)
"""Names of gRPC's status codes, each at its number."""

# --- what types say of the text in them ------------------------------------------------


class _Mark(NamedTuple):
    """A value that is read by `_read`."""

    how: str


class _Fields(NamedTuple):
    """A mapping of which these fields hold marks."""

    fields: dict[str, _Marks]


class _Each(NamedTuple):
    """A list or a mapping, all values of which hold marks."""

    of: type[list[Any]] | type[dict[str, Any]]
    marks: _Marks


_Marks = tuple[_Mark | _Fields | _Each, ...]
"""One for each option of a union; empty: nothing in there is marked."""


@functools.cache
def _marks_of(type: Hashable) -> _Marks:
    return _marks(inspect.type_info(type))


def _marks(kind: inspect.Type) -> _Marks:
    match kind:
        case inspect.Metadata():
            how = next(iter(kind.extra or {}), "")
            return (_Mark(how),) if how else _marks(kind.type)
        case inspect.UnionType():
            return tuple(mark for option in kind.types for mark in _marks(option))
        case inspect.StructType():
            fields = {field.encode_name: marks for field in kind.fields if (marks := _marks(field.type))}
            return (_Fields(fields),) if fields else ()
        case inspect.DictType():
            marks = _marks(kind.value_type)
            return (_Each(dict, marks),) if marks else ()
        case inspect.VarTupleType() | inspect.ListType():
            marks = _marks(kind.item_type)
            return (_Each(list, marks),) if marks else ()
        case inspect.DateTimeType():
            return (_Mark("moment"),)
        case inspect.FloatType() if kind.ge is not None or kind.gt is not None:
            return (_Mark("finite"),)
    return ()


def _settled(document: Document, marks: _Marks, value: Any, field: str) -> Any:
    """The value with all that is marked in it read. Raises ConfigError."""
    for mark in marks:
        if isinstance(mark, _Mark):
            try:
                value = _read(mark.how, value)
            except (ValueError, OverflowError) as exc:
                raise document.error(field, str(exc)) from exc
        elif isinstance(mark, _Fields):
            if isinstance(value, dict):
                read = {
                    name: _settled(document, inner, value[name], _joined(field, [name]))
                    for name, inner in mark.fields.items()
                    if name in value
                }
                value = {**value, **read}
        elif isinstance(value, mark.of):
            if isinstance(value, dict):
                value = {
                    name: _settled(document, mark.marks, item, _joined(field, [name])) for name, item in value.items()
                }
            else:
                value = [
                    _settled(document, mark.marks, item, _joined(field, [index])) for index, item in enumerate(value)
                ]
    return value


def _read(how: str, value: Any) -> Any:
    """A marked value as its type wants it; as it is, if it cannot be meant: msgspec has the words for that."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    match how:
        case "unsupported" if value is not None:
            raise ValueError("is not supported")
        case "duration" if isinstance(value, str):
            return parse_duration(value)
        case "duration" if number:
            return seconds(value)
        case "instant" if isinstance(value, str | datetime.date):
            return parse_moment(value).timestamp()
        case "moment" if isinstance(value, str | datetime.date):
            return parse_moment(value)
        case "grpc_code" if isinstance(value, str):
            if value.upper() not in GRPC_CODES:
                raise ValueError(f"{value!r:.80} is no gRPC code; {nearest(value.upper(), list(GRPC_CODES))}")
            return GRPC_CODES.index(value.upper())
        case "instant" | "finite" if number and not -math.inf < value < math.inf:
            raise ValueError("must be a number that is finite")
    return value


# --- structs ---------------------------------------------------------------------------

_WORDS = {
    **{"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "null": "nothing"},
    **{"object": "a mapping", "array": "a list", "bytes": "binary data", "date": "a date", "datetime": "a date"},
}
_BOUNDS = {">=": "{} or more", "<=": "{} or less", ">": "more than {}", "<": "less than {}"}
_STEP = re.compile(r"\.([A-Za-z_]\w*)|\[(\d+|\.\.\.)\]")


def decode(document: Document, type: type[T], *, path: str = "") -> T:
    """The part of a document at `path` as a struct, strictly. Raises ConfigError with line and field of a mistake."""
    value: Any = document.value
    for name, index in _STEP.findall(f".{path}" if path else ""):
        try:
            value = value[name or int(index)]
        except (LookupError, TypeError) as exc:
            raise document.error(path, "is required") from exc
    value = _settled(document, _marks_of(cast(Hashable, type)), value, path)
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as exc:
        # msgspec does not say which key of a mapping it means, so look for it, one key at a time.
        problem, place, kind = _explain(str(exc), value, type)
        field = _joined(path, place)
        raise _sentence(document, problem, field, kind) from exc


def _joined(path: str, place: list[str | int]) -> str:
    for step in place:
        path = f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}" if path else step
    return path


def _explain(message: str, value: Any, type: Any) -> tuple[str, list[str | int], inspect.Type]:
    """msgspec's problem, the steps to where it is, and the type that is wanted there."""
    problem, _, where = message.partition(" - at `")
    kind = inspect.type_info(type)
    steps: list[str | int] = []
    here = value
    for name, index in _STEP.findall(where.removesuffix("`").removeprefix("$")):
        step: str | int = name or (index if index == "..." else int(index))
        if step == "...":
            step = _guilty_key(value, steps, here, type, message)
        steps.append(step)
        here = here[step]
        kind = _inner(kind, step)
    return problem, steps, kind


def _guilty_key(whole: Any, steps: list[str | int], mapping: dict[str, Any], type: Any, message: str) -> str:
    for key, value in mapping.items():
        try:
            msgspec.convert(_replaced(whole, steps, {key: value}), type)
        except msgspec.ValidationError as exc:
            if str(exc) == message:
                return key
    return next(iter(mapping))


def _replaced(whole: Any, steps: list[str | int], part: object) -> Any:
    if not steps:
        return part
    copy = whole.copy()
    copy[steps[0]] = _replaced(copy[steps[0]], steps[1:], part)
    return copy


def _inner(kind: inspect.Type, step: str | int) -> inspect.Type:
    for option in kind.types if isinstance(kind, inspect.UnionType) else (kind,):
        if isinstance(option, inspect.StructType) and isinstance(step, str):
            for field in option.fields:
                if field.encode_name == step:
                    return field.type
        elif isinstance(option, inspect.DictType) and isinstance(step, str):
            return option.value_type
        elif isinstance(option, inspect.VarTupleType | inspect.ListType) and isinstance(step, int):
            return option.item_type
    return inspect.AnyType()


def _sentence(document: Document, problem: str, field: str, kind: inspect.Type) -> ConfigError:
    options = kind.types if isinstance(kind, inspect.UnionType) else (kind,)
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", problem, re.DOTALL):
        fields = [each for option in options if isinstance(option, inspect.StructType) for each in option.fields]
        known = [each.encode_name for each in fields if _Mark("unsupported") not in _marks(each.type)]
        return document.error(_joined(field, [found[1]]), f"is no field here; {nearest(found[1], known)}")
    if found := re.fullmatch(r"Object missing required field `(.*)`", problem):
        return document.error(_joined(field, [found[1]]), "is required")
    if found := re.fullmatch(r"Invalid enum value (.*)", problem, re.DOTALL):
        members = [str(each.value) for option in options if isinstance(option, inspect.EnumType) for each in option.cls]
        return document.error(field, f"{found[1]} is none of {', '.join(members)}")
    if found := re.fullmatch(r"Expected `(.*)`, got `(.*)`", problem):
        wanted = [_WORDS.get(name, name) for name in found[1].split(" | ") if name != "null"]
        got = _WORDS.get(found[2], found[2])
        hint = ": quote it" if wanted == ["text"] and found[2] in ("int", "float", "bool", "date", "datetime") else ""
        return document.error(field, f"must be {' or '.join(wanted)}, not {got}{hint}")
    if found := re.fullmatch(r"Expected `(?:int|float)` (>=|<=|>|<) (\S+)", problem):
        return document.error(field, "must be " + _BOUNDS[found[1]].format(f"{float(found[2]):.15g}"))
    return document.error(field, problem)


def nearest(name: str, known: list[str]) -> str:
    """`did you mean X?` where something known is close to `name`, else what is known."""
    import difflib  # for a mistake only: sidecars read their files without

    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
