"""Real back ends, shared by all tests of a session where that is safe, and proxies, shared by a module at most."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trustme

from tests.conftest import Handle
from tests.end_to_end import grpc_server
from tests.end_to_end.nginx import Nginx, write_config
from tests.end_to_end.sidecar import Starter
from tests.end_to_end.tcp_server import TcpServer, echo, greeter, serving

CONDUIT = Path(sys.executable).parent / "conduit"
Run = Callable[..., Handle]
LIBRARY_SETTINGS = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy")


@pytest.fixture(scope="session", autouse=True)
def no_proxies_of_the_machine() -> Iterator[None]:
    """Clients reach loopback as the test says, whatever the developer's environment has set."""
    with pytest.MonkeyPatch.context() as patch:
        for name in LIBRARY_SETTINGS:
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@contextmanager
def processes_in(folder: Path) -> Iterator[Run]:
    """Call it to start processes; all are killed when the block is left. None may have shown a bug in its log."""
    started: list[Handle] = []

    def run(argv: Sequence[str | Path], *, ready_port: int | None = None) -> Handle:
        stem = f"{len(started)}-{Path(argv[0]).name}"
        stdout, stderr = folder / f"{stem}.stdout", folder / f"{stem}.stderr"
        with stdout.open("wb") as out, stderr.open("wb") as err:
            words = [str(word) for word in argv]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        handle = Handle(process, stdout, stderr)
        started.append(handle)
        if ready_port is not None:
            handle.wait_for_port(ready_port)
        return handle

    try:
        yield run
    finally:
        for handle in reversed(started):
            handle.kill()
            handle.reap()
    buggy = [text for handle in started if "Traceback" in (text := handle.output())]
    assert buggy == []


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """Signs every certificate of these tests."""
    return trustme.CA()


@pytest.fixture(scope="session")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int], authority: trustme.CA
) -> Iterator[Nginx]:
    """A running nginx."""
    folder = tmp_path_factory.mktemp("nginx")
    files = folder / "files"
    files.mkdir()
    (files / "page.txt").write_text("a page\n" * 100)
    certificate = authority.issue_cert("localhost", "127.0.0.1")
    certificate.private_key_pem.write_to_path(folder / "server.key")
    for blob in certificate.cert_chain_pems:
        blob.write_to_path(folder / "server.pem", append=True)
    ports = [free_port() for _ in range(5)]
    server = Nginx(*ports, files=files)
    with processes_in(folder) as run:
        executable = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/usr/local/bin")
        assert executable, "nginx is not installed"
        run([executable, "-p", folder, "-c", write_config(folder, server)], ready_port=server.http2_short)
        yield server


@pytest.fixture(scope="session")
def grpc_port() -> Iterator[int]:
    """A grpcio server with the methods of grpc_server.py."""
    with grpc_server.running() as port:
        yield port


@pytest.fixture(scope="session")
def echo_server() -> Iterator[TcpServer]:
    """Raw TCP, sent back."""
    with serving(echo) as server:
        yield server


@pytest.fixture(scope="session")
def greeting_server() -> Iterator[TcpServer]:
    """Raw TCP where the server speaks first."""
    with serving(greeter) as server:
        yield server


def starter(folder: Path, free_port: Callable[[], int], run: Run) -> Starter:
    """What both fixtures below hand out."""
    return Starter(run, free_port, folder, CONDUIT)


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory, free_port: Callable[[], int]) -> Iterator[Starter]:
    """Call it to start a proxy that lives as long as the module's tests."""
    folder = tmp_path_factory.mktemp("proxies")
    with ExitStack() as stack:
        yield starter(folder, free_port, stack.enter_context(processes_in(folder)))


@pytest.fixture
def proxy(tmp_path: Path, free_port: Callable[[], int]) -> Iterator[Starter]:
    """Call it to start a proxy for this test alone."""
    with processes_in(tmp_path) as run:
        yield starter(tmp_path, free_port, run)
