"""The document is the table."""

from mesh.control.openapi import document
from mesh.control.routes import Query, Route


async def test_every_route_is_in_it(plane):
    """Each path that the server answers, with its method, parameters and answer; and nothing else."""
    made = await plane.get("/api/v1/openapi.json")
    assert made["openapi"].startswith("3.1")
    operations = {(method.upper(), path) for path, item in made["paths"].items() for method in item}
    everything = "/api/v1/resources"
    one = everything + "/{kind}/{namespace}/{name}"
    assert operations == {
        *[("GET", f"/api/v1/{name}") for name in ("version", "stat", "edges", "proxies", "endpoints", "openapi.json")],
        *[("GET", f"/api/v1/{name}") for name in ("stat/watch", "tap/watch", "proxies/connect")],
        *[("GET", f"/api/v1/{name}") for name in ("audit", "authz", "identity", "seen")],
        *[("GET", "/api/v1/explain"), ("POST", "/api/v1/explain")],
        *[("GET", f"/api/v1/{name}") for name in ("identity", "audit", "seen", "explain", "authz")],
        ("POST", "/api/v1/explain"),
        *[("GET", everything), ("PUT", everything), ("GET", one), ("DELETE", one)],
        *[("GET", "/healthz"), ("GET", "/")],
    }
    async with plane.client() as client:
        for path in made["paths"]:
            filled = path.replace("{kind}", "Workload").replace("{namespace}", "demo").replace("{name}", "web")
            wanted = (400,) if path == "/api/v1/explain" else (200, 426)  # without a question
            assert (await client.get(filled)).status_code in wanted, path


async def test_references_lead_somewhere(plane):
    """Each schema that is referred to is there, also those within others."""
    made = await plane.get("/api/v1/openapi.json")
    schemas = made["components"]["schemas"]
    seen = list(references(made))
    assert "#/components/schemas/StatRow" in seen
    for reference in seen:
        assert reference.removeprefix("#/components/schemas/") in schemas


def references(value):
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_a_route_in_all_its_parts():
    """Parameters have their place, bounds and default; bodies and problems their schema; open needs no token."""

    async def handler(request):
        """Never called."""

    query = (
        Query("window", "how far", kind=float, default=60.0, most=900.0),
        Query("kind", "which", default="a", choices=("", "a")),
    )
    route = Route("PUT", "/x/{name}", "Do x.", int, handler=handler, query=query, takes="text/plain", problems=(422,))
    made = document([route, Route("GET", "/open", "See.", None, handler=handler, open=True)], "1")
    operation = made["paths"]["/x/{name}"]["put"]
    assert operation["parameters"] == [
        {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}},
        {
            "name": "window",
            "in": "query",
            "description": "how far",
            "schema": {"type": "number", "minimum": 0.0, "maximum": 900.0, "default": 60.0},
        },
        {
            "name": "kind",
            "in": "query",
            "description": "which",
            "schema": {"type": "string", "enum": ["a"], "default": "a"},
        },
    ]
    assert set(operation["responses"]) == {"200", "400", "401", "403", "422"}
    assert operation["responses"]["200"]["content"] == {"application/json": {"schema": {"type": "integer"}}}
    assert list(operation["requestBody"]["content"]) == ["text/plain"]
    assert made["paths"]["/open"]["get"]["security"] == []
