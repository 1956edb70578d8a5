"""Resources over HTTP, on a real control plane."""

import pytest

HEAD = "apiVersion: conduit.mesh/v1alpha1\nkind: TrafficPolicy\n"
POLICY = HEAD + "metadata: {name: p, namespace: demo}\nspec: {service: words, timeouts: {request: 2}}\n"


async def test_put_get_delete(plane):
    """What is put is in force when that is answered, is shown with its status, and can be taken back."""
    async with plane.client(**{"x-conduit-file": "mine.yaml"}) as client:
        answer = await client.put("/api/v1/resources", content=POLICY)
        [status] = answer.json()
        assert (answer.status_code, status["result"], status["accepted"]) == (200, "created", True)
        view = (await client.get("/api/v1/resources/TrafficPolicy/demo/p")).json()
        assert view["apiVersion"] == "conduit.mesh/v1alpha1"
        assert view["spec"] == {"service": "words", "timeouts": {"request": 2.0}}
        assert view["status"]["accepted"] is True
        [status] = (await client.put("/api/v1/resources", content=POLICY)).json()
        assert status["result"] == "unchanged"
        assert (await client.delete("/api/v1/resources/TrafficPolicy/demo/p")).json()["result"] == "deleted"
        assert (await client.get("/api/v1/resources/TrafficPolicy/demo/p")).status_code == 404
        assert (await client.delete("/api/v1/resources/TrafficPolicy/demo/p")).status_code == 404


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (POLICY + "---\n" + POLICY.replace("request: 2", "request: x"), {"line": 9, "field": "spec.timeouts.request"}),
        (b"\xff", {}),
        (b"", {}),
        ("{", {"line": 2}),
    ],
)
async def test_a_mistake_is_told_by_its_place(plane, body, problem):
    """422 with file, line and field, and nothing of the request is in force."""
    async with plane.client(**{"x-conduit-file": "mine.yaml"}) as client:
        answer = await client.put("/api/v1/resources", content=body)
        assert answer.status_code == 422
        assert answer.json()["file"] == "mine.yaml"
        assert problem.items() <= answer.json().items()
        assert (await client.get("/api/v1/resources?kind=TrafficPolicy")).json() == []


async def test_what_stands_in_a_file_is_not_deleted(plane):
    """409 that names the file."""
    async with plane.client() as client:
        answer = await client.delete("/api/v1/resources/Workload/demo/web")
        assert (answer.status_code, answer.json()["file"]) == (409, str(plane.source))


async def test_lists_show_what_was_refused(plane, until):
    """A bad file is seen with its reason beside what is still in force, in the list and by its name."""
    plane.source.write_text(plane.source.read_text().replace("name: web", "name: other").replace("[x]", "7"))

    async def refused():
        return [v for v in await plane.get("/api/v1/resources?kind=Workload") if not v["status"]["accepted"]]

    [view] = await until(refused)
    assert view["metadata"]["name"] == "words-v1"
    assert f"{plane.source}:5: spec.command: must be" in view["status"]["reason"]
    names = [v["metadata"]["name"] for v in await plane.get("/api/v1/resources") if v["status"]["accepted"]]
    assert names == ["web", "words-v1"]
    assert (await plane.get("/api/v1/resources/Workload/demo/words-v1"))["status"]["accepted"] is True


async def test_a_resource_that_was_only_ever_refused_is_found_by_name(plane, until):
    """Its view has no spec, and the reason."""
    text = POLICY.replace("request: 2", "request: soon")
    plane.source.write_text(plane.source.read_text() + "---\n" + text)

    async def refused():
        async with plane.client() as client:
            answer = await client.get("/api/v1/resources/TrafficPolicy/demo/p")
            return answer.json() if answer.status_code == 200 else None

    view = await until(refused)
    assert (view["spec"], view["status"]["accepted"]) == ({}, False)


async def test_an_unknown_kind_is_refused(plane):
    """400 that names the parameter."""
    async with plane.client() as client:
        answer = await client.get("/api/v1/resources?kind=Pod")
        assert (answer.status_code, answer.json()["field"]) == (400, "kind")


async def test_the_file_is_shown_as_it_is_called(plane):
    """The header's percent-encoding is undone, and the path stands in the status, not among the annotations."""
    async with plane.client(**{"x-conduit-file": "/home/r%C3%A8gles%20a.yaml"}) as client:
        [status] = (await client.put("/api/v1/resources", content=POLICY)).json()
        assert status["file"] == "/home/règles a.yaml"
        view = (await client.get("/api/v1/resources/TrafficPolicy/demo/p")).json()
        assert view["status"]["file"] == "/home/règles a.yaml"
        assert view["metadata"] == {"name": "p", "namespace": "demo"}
        assert (await client.get("/api/v1/resources?kind=TrafficPolicy")).json() == [view]


@pytest.mark.parametrize("file", ["a%00b", "a" * 5000])
async def test_a_file_that_cannot_be_is_refused(plane, file):
    """Nobody gets to run a program in a folder whose name the system would stumble over."""
    async with plane.client(**{"x-conduit-file": file}) as client:
        answer = await client.put("/api/v1/resources", content=POLICY)
        assert (answer.status_code, "x-conduit-file is no path" in answer.json()["error"]) == (422, True)


async def test_why_a_resource_is_not_deleted(plane, until):
    """409 says what to edit instead: the file that it stands in, or the Workload of a replica's endpoint."""
    plane.put_endpoint("web-1", "web", "127.0.0.1:9")
    await until(lambda: plane.get("/api/v1/resources?kind=Endpoint"))
    async with plane.client() as client:
        kept = (await client.delete("/api/v1/resources/Workload/demo/web")).json()["error"]
        assert kept == "Workload demo/web was not applied but stands in this file: take it out there"
        answer = await client.delete("/api/v1/resources/Endpoint/demo/web-1")
        assert (answer.status_code, "comes and goes with its replica" in answer.json()["error"]) == (409, True)


ROUTE = """
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: canary, namespace: demo}
spec:
  parentRefs: [{group: "", kind: Service, name: words}]
  rules: [{backendRefs: [{name: words-v3}]}]
"""
WORKLOAD = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: words-v3, namespace: demo}
spec: {command: [x], port: auto}
"""


def conditions(status):
    return [(c["type"], c["status"], c["reason"]) for c in status["conditions"]]


async def test_conditions_are_live(plane):
    """They stand in what a change is answered with and in every view, and follow the rest of the mesh."""
    async with plane.client() as client:
        [status] = (await client.put("/api/v1/resources", content=ROUTE)).json()
        assert status["accepted"] is True
        assert conditions(status) == [("Accepted", True, "Accepted"), ("ResolvedRefs", False, "BackendNotFound")]
        assert "words-v3" in status["conditions"][1]["message"]
        await client.put("/api/v1/resources", content=WORKLOAD)
        view = (await client.get("/api/v1/resources/HTTPRoute/demo/canary")).json()
        assert view["apiVersion"] == "gateway.networking.k8s.io/v1"
        assert conditions(view["status"]) == [
            ("Accepted", True, "Accepted"),
            ("ResolvedRefs", True, "ResolvedRefs"),
        ]
        assert (await client.get("/api/v1/resources?kind=HTTPRoute")).json() == [view]


@pytest.mark.parametrize("parts", [[WORKLOAD, ROUTE], [ROUTE, WORKLOAD]])
async def test_the_order_in_a_request_does_not_matter(plane, parts):
    """Conditions are those after all of it is in force."""
    async with plane.client() as client:
        answer = await client.put("/api/v1/resources", content="---".join(parts))
        assert [c["status"] for status in answer.json() for c in status["conditions"]] == [True, True]


async def test_a_refused_route_leaves_the_one_before_in_force(plane):
    """What is wrong with it is told by its place."""
    async with plane.client() as client:
        await client.put("/api/v1/resources", content=ROUTE)
        wrong = ROUTE.replace("{backendRefs", "{matches: [{path: {type: RegularExpression, value: '/('}}], backendRefs")
        answer = await client.put("/api/v1/resources", content=wrong)
        assert (answer.status_code, answer.json()["field"]) == (422, "spec.rules[0].matches[0].path.value")
        view = (await client.get("/api/v1/resources/HTTPRoute/demo/canary")).json()
        assert view["spec"]["rules"] == [{"backendRefs": [{"name": "words-v3"}]}]


async def test_a_fault_of_no_service_is_told(plane):
    """It is in force as soon as there is such a service; until then its condition says that there is none."""
    text = HEAD.replace("TrafficPolicy", "Fault") + "metadata: {name: f, namespace: demo}\n"
    async with plane.client() as client:
        [status] = (await client.put("/api/v1/resources", content=text + "spec: {service: x, delay: 1s}\n")).json()
        assert conditions(status) == [("Accepted", False, "TargetNotFound")]


async def test_a_plugin_that_fails_says_so_in_its_status(plane, until):
    """In the list, once, and by its name: in force, not accepted, with the reason; mended, it is accepted."""
    code = plane.source.with_name("rules.py")
    code.write_text("def policies(view, options):\n    return view.nothing\n")
    plane.source.write_text(
        plane.source.read_text() + "---\napiVersion: conduit.mesh/v1alpha1\nkind: PolicyPlugin\n"
        "metadata: {name: rules}\n"
        "spec: {target: {kind: Namespace}, python: {function: 'rules:policies', directory: .}}\n"
    )
    one = "/api/v1/resources/PolicyPlugin/default/rules"

    async def status():
        views = await plane.get("/api/v1/resources?kind=PolicyPlugin")
        assert len(views) <= 1
        return views[0]["status"] if views else None

    async def failed():
        found = await status()
        return found and not found["accepted"] and found

    found = await until(failed)
    assert found["reason"].startswith(f"{code}:2: AttributeError")
    assert found["file"] == str(plane.source)
    assert (await plane.get(one))["status"] == found
    code.write_text("def policies(view, options):\n    return []\n")

    async def mended():
        return (await status())["accepted"]

    await until(mended)
    assert (await plane.get(one))["status"]["reason"] == ""
