"""What the API says of itself."""

from __future__ import annotations

import msgspec
import pytest

from mesh.control.meta_api import MetaApi
from mesh.control.routes import Request


def request() -> Request:
    """A request of which these handlers look at nothing."""
    return Request("GET", "/")


@pytest.mark.parametrize(("path", "needs_token"), [("/", True), ("/healthz", False), ("/api/v1/openapi.json", True)])
async def test_each_route_answers(path, needs_token):
    """The three of them are there; only the health check is open to all."""
    api = MetaApi("1.2.3")
    api.describe(api.routes())
    [route] = [route for route in api.routes() if route.path == path]
    assert route.open is not needs_token
    answer = await route.handler(request())
    assert answer.status == 200
    assert answer.body


async def test_the_index_tells_the_version_and_where_to_look():
    """Whoever opens the bare address learns what this is."""
    answer = await MetaApi("1.2.3").index(request())
    assert b"1.2.3" in answer.body
    assert b"/api/v1/openapi.json" in answer.body


async def test_the_document_describes_what_it_was_given():
    """Every route is in it, with its method."""
    api = MetaApi("1.2.3")
    api.describe(api.routes())
    document = msgspec.json.decode((await api.openapi(request())).body)
    assert document["info"]["version"] == "1.2.3"
    assert "get" in document["paths"]["/healthz"]
