"""The OpenAPI 3.1 document, made from the table of routes and the types of their answers. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mesh.control.routes import Query, Route
from mesh.model.api import Problem

COMMON_PROBLEMS = (400, 401, 403)
REFERENCE = "#/components/schemas/{name}"
MEANINGS = {
    400: "The request cannot be understood.",
    401: "The token is missing or wrong.",
    403: "Not addressed to us, not from our own pages, or the token's role is not enough.",
    404: "There is no such thing.",
    409: "It is kept elsewhere, or nobody is there to be asked.",
    422: "A resource is wrong; file, line and field say where.",
    503: "Who would know has not answered.",
}


def document(routes: Sequence[Route], version: str) -> dict[str, object]:
    """The document, as plain JSON values. Websockets stand in it as GETs that answer 101, with what they send."""
    types = [Problem, *dict.fromkeys(kind for route in routes for kind in (*each(route.answer), *each(route.hears)))]
    schemas, components = msgspec.json.schema_components(types, ref_template=REFERENCE)
    known = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, object]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = operation(route, known)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Conduit control plane", "version": version},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}],
    }


def operation(route: Route, known: dict[Any, dict[str, Any]]) -> dict[str, object]:
    """One route; `known` holds the schemas by type."""
    good = json_body(schema(route.answer, known)) if route.answer is not None else {}
    answers: dict[str, object] = {}
    made: dict[str, object] = {"summary": route.about, "responses": answers}
    if route.socket is not None:
        answers["101"] = {"description": "A websocket; each message is JSON text."}
        made["x-websocket"] = {"sends": schema(route.answer, known)} | (
            {"receives": schema(route.hears, known)} if route.hears is not None else {}
        )
    else:
        answers["200"] = {"description": "Good.", **good}
    for status in (*COMMON_PROBLEMS, *route.problems) if not route.open else ():
        answers[str(status)] = {"description": MEANINGS[status], **json_body(known[Problem])}
    if route.open:
        made["security"] = []
    else:
        made["x-role"] = route.needed.value
    parameters = [in_path(part[1:-1]) for part in route.path.split("/") if part.startswith("{")]
    parameters += [in_query(query) for query in route.query]
    if parameters:
        made["parameters"] = parameters
    if route.takes:
        body = schema(route.hears, known) if route.hears is not None else {"type": "string"}
        made["requestBody"] = {"required": True, "content": {route.takes: {"schema": body}}}
    return made


def each(kind: Any) -> tuple[Any, ...]:
    """The types that a body may have."""
    return kind if isinstance(kind, tuple) else () if kind is None else (kind,)


def schema(kind: Any, known: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """The schema of a body that has the type, or one of the types."""
    return {"anyOf": [known[one] for one in kind]} if isinstance(kind, tuple) else known[kind]


def json_body(schema: object) -> dict[str, object]:
    """A body of JSON with this schema."""
    return {"content": {"application/json": {"schema": schema}}}


def in_path(name: str) -> dict[str, object]:
    """A parameter of the path."""
    return {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}


def in_query(query: Query) -> dict[str, object]:
    """A parameter of the query."""
    schema: dict[str, object] = {"type": "string"}
    if query.kind is float:
        schema = {"type": "number", "minimum": query.least, "maximum": query.most}
    if query.choices:
        schema["enum"] = [choice for choice in query.choices if choice]
    if query.default != "":
        schema["default"] = query.default
    return {"name": query.name, "in": "query", "description": query.about, "schema": schema}
