"""The programs and the policy of examples/authorizer do together what its README says, behind a proxy of our own."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.conftest import Handle

EXAMPLE = Path(__file__).parents[2] / "examples" / "authorizer"
CONDUIT = Path(sys.executable).parent / "conduit"


@contextmanager
def program(folder: Path, *command: str | Path, ready: int, **environment: str) -> Iterator[Handle]:
    """A process of the example that listens on `ready`, killed at the end; what it says is in its handle's files."""
    stem = folder / Path(command[1]).stem
    stdout, stderr = stem.with_suffix(".out"), stem.with_suffix(".err")
    with stdout.open("wb") as out, stderr.open("wb") as err:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=EXAMPLE,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
    handle = Handle(process, stdout, stderr)
    try:
        handle.wait_for_port(ready)
        yield handle
    finally:
        handle.kill()
        handle.reap()


@pytest.fixture
def running(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[tuple[httpx.Client, Handle]]:
    """A client of `notes`, through its proxy, and the running authoriser."""
    notes, keys, inbound = free_port(), free_port(), free_port()
    workloads = list(yaml.safe_load_all((EXAMPLE / "mesh.yaml").read_text()))
    [spec] = [one["spec"] for one in workloads if one["metadata"]["name"] == "keys" and one["kind"] == "Workload"]
    [policy] = [one for one in workloads if one["kind"] == "PolicyPlugin"]
    config = {
        "inbound": [{"listen": f"127.0.0.1:{inbound}", "forward": f"127.0.0.1:{notes}", "service": "notes.demo"}],
        "services": {"keys": {"protocol": spec["protocol"], "endpoints": [f"127.0.0.1:{keys}"]}},
        "resources": [policy],
    }
    path = tmp_path / "proxy.yaml"
    path.write_text(yaml.safe_dump(config))
    with ExitStack() as stack:
        stack.enter_context(program(tmp_path, sys.executable, "notes.py", ready=notes, PORT=str(notes)))
        authoriser = stack.enter_context(
            program(tmp_path, sys.executable, "keys.py", ready=keys, PORT=str(keys), **spec["environment"])
        )
        stack.enter_context(program(tmp_path, CONDUIT, "proxy", "--config", path, ready=inbound))
        client = stack.enter_context(httpx.Client(base_url=f"http://127.0.0.1:{inbound}", trust_env=False))
        yield client, authoriser


def test_the_example_does_what_its_readme_says(running: tuple[httpx.Client, Handle]) -> None:
    """Keys open what they are for, the application learns names instead of them, and what is told once holds."""
    client, authoriser = running
    answer = client.get("/notes/1")
    assert (answer.status_code, answer.text) == (401, "which key?\n")
    assert answer.headers["www-authenticate"] == "ApiKey"
    bob = {"x-api-key": "k-bob", "x-user": "alice"}
    for _ in range(3):
        answer = client.get("/notes/1", headers=bob)
        assert (answer.status_code, answer.text) == (200, "/notes/1: notes of bob, without a key\n")
        assert answer.headers["x-seen-as"] == "bob"
    answer = client.get("/admin/1", headers=bob)
    assert (answer.status_code, answer.text) == (403, "bob may not see that\n")
    assert client.get("/admin/1", headers={"x-api-key": "k-alice"}).status_code == 200
    assert client.get("/").text == "/: notes of nobody, without a key\n"
    assert authoriser.stdout.read_text().count("GET /notes/1 by somebody: yes") == 1
    authoriser.kill()
    authoriser.reap()
    answer = client.get("/notes/2", headers=bob)
    assert (answer.status_code, answer.headers["conduit-error"]) == (503, "authorizer_failed")
    assert "demo/keys" in answer.text
    assert client.get("/", headers=bob).status_code == 200
