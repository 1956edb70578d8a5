"""A real control plane on a loopback port, and what it is asked with."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import structlog
import trio
from trio_websocket import open_websocket_url

from mesh.control.issuer import TrustFiles
from mesh.control.run import serve

from .authorities import a_good_set

TOKEN = "secret"
BEARER = {"Authorization": f"Bearer {TOKEN}"}

MESH = """
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: words-v1, namespace: demo}
spec: {service: words, command: [x], port: auto, protocol: http1}
---
apiVersion: conduit.mesh/v1alpha1
kind: Workload
metadata: {name: web, namespace: demo}
spec: {command: [x], port: auto}
"""


class Plane:
    """One running control plane: its files and its address."""

    def __init__(self, folder: Path, url: str, scope: trio.CancelScope, anchors: Path | None = None) -> None:
        self.source = folder / "mesh.yaml"
        self.state = folder / "state"
        self.url = url
        self.scope = scope
        self.anchors = anchors

    @property
    def context(self) -> ssl.SSLContext | None:
        """For TLS to it, where it speaks it: who trusts its anchors and nothing else."""
        return ssl.create_default_context(cafile=self.anchors) if self.anchors else None

    @asynccontextmanager
    async def client(self, *, plain: bool = False, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
        """An HTTP client that carries the token, over TLS where there is TLS, unless it is to be `plain`."""
        url = self.url.replace("https", "http") if plain else self.url
        verify = self.context or False
        async with httpx.AsyncClient(base_url=url, headers=BEARER | headers, verify=verify, trust_env=False) as client:
            yield client

    async def get(self, path: str) -> object:
        """The JSON of one answer."""
        async with self.client() as client:
            answer = await client.get(path)
            assert answer.status_code == 200, answer.text
            return answer.json()

    def websocket(self, path: str, **headers: str):
        """A websocket that carries the token; `Authorization` may be given otherwise."""
        fields = [(name.encode(), value.encode()) for name, value in (BEARER | headers).items() if value]
        return open_websocket_url(self.url.replace("http", "ws") + path, ssl_context=self.context, extra_headers=fields)

    def put_endpoint(self, name: str, service: str, address: str, *, workload: str = "", pid: int = 0) -> None:
        """Writes an endpoint as a supervisor does."""
        text = f"""
apiVersion: conduit.mesh/v1alpha1
kind: Endpoint
metadata: {{name: {name}, namespace: demo}}
spec: {{service: {service}, workload: {workload or service}, address: "{address}", pid: {pid}}}
"""
        write(self.state / "endpoints" / f"{name}.yaml", text)


def write(path: Path, text: str) -> None:
    """Writes a file whole, by rename."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(text)
    temporary.rename(path)


@asynccontextmanager
async def running(folder: Path, **options: object) -> AsyncIterator[Plane]:
    """A control plane for the length of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "mesh.yaml"
    if not source.exists():
        source.write_text(MESH)
    given = {"sources": [source], "state": folder / "state", "listen": "127.0.0.1:0", "token": TOKEN} | options
    async with trio.open_nursery() as nursery:
        url = await nursery.start(partial(serve, **given))
        trust = options.get("trust")
        yield Plane(folder, url, nursery.cancel_scope, trust.anchors if isinstance(trust, TrustFiles) else None)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def plane(tmp_path):
    """A control plane with one source file, which declares words and web."""
    async with running(tmp_path / "plane") as plane:
        yield plane


@pytest.fixture
def trust(tmp_path):
    """The files of a root and an issuer."""
    return a_good_set(tmp_path / "trust")


@pytest.fixture
async def secure_plane(tmp_path, trust):
    """The same as `plane`, with identities and TLS."""
    async with running(tmp_path / "plane", trust=trust) as plane:
        yield plane


@pytest.fixture
def start_plane(tmp_path):
    """Call it for a control plane as a context manager, with other options, or on the same files again."""
    return partial(running, tmp_path / "plane")


async def until(condition, seconds=30.0):
    """Returns what an async condition returns once that is true."""
    with trio.fail_after(seconds):
        while True:
            found = await condition()
            if found:
                return found
            await trio.sleep(0.02)


@pytest.fixture(name="until")
def until_fixture():
    """Call it with an async condition; it polls with a deadline."""
    return until


@pytest.fixture
def log():
    """A log that keeps its events."""
    kept = []
    logger = structlog.wrap_logger(None, processors=[keep(kept)])
    logger.kept = kept
    return logger


def keep(kept):
    """A processor that keeps events and prints none."""

    def processor(logger, name, event):
        kept.append(event)
        raise structlog.DropEvent

    return processor
