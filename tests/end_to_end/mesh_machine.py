"""A whole mesh of real processes: `conduit up` in a runtime folder of its own, commands beside it, and a certain end.

Everything that a test starts here carries the test's own XDG_RUNTIME_DIR in its environment, and hands it on to what it
starts itself: that is how processes that were left behind are found. (Guards have no environment; they are looked for
among the descendants, which a test notes while their parents live.)
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.conftest import Handle
from tests.end_to_end.sidecar import Sidecar, wait_until

CONDUIT = Path(sys.executable).parent / "conduit"
ROOT = Path(__file__).parents[2]
APPLICATION = Path(__file__).parent / "mesh_application.py"
COMMAND_SECONDS = 60.0
READY_SECONDS = 60.0
OTHERS = ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "grpc_proxy")


class Done(NamedTuple):
    """What a shell would see of a command."""

    code: int
    out: str
    err: str


class Process(NamedTuple):
    """A process of the mesh, as /proc shows it."""

    pid: int
    argv: tuple[str, ...]
    environment: dict[str, str]


def gone(pid: int) -> bool:
    """Whether the process has ended; a zombie that nobody reaps (in a container without an init) has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def descendants(pid: int) -> set[int]:
    """All processes below this one."""
    below: set[int] = set()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            below |= {child} | descendants(child)
    return below


@dataclass
class Machine:
    """A place where one mesh may run. `folder` is for files of the test, `runtime` is its XDG_RUNTIME_DIR."""

    folder: Path
    started: list[Handle] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.runtime = self.folder / "run"
        self.runtime.mkdir(mode=0o700)
        self.environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("CONDUIT_") and key.lower() not in OTHERS
        }
        self.environment["XDG_RUNTIME_DIR"] = str(self.runtime)

    def start(self, *words: object) -> Handle:
        """`conduit WORDS`, running on, as the leader of a group of its own."""
        stem = self.folder / f"{len(self.started)}-{words[0]}"
        stdout, stderr = Path(f"{stem}.stdout"), Path(f"{stem}.stderr")
        with stdout.open("wb") as out, stderr.open("wb") as err:
            process = subprocess.Popen(
                [str(CONDUIT), *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=self.environment,
                cwd=self.folder,
                start_new_session=True,
            )
        handle = Handle(process, stdout, stderr)
        self.started.append(handle)
        return handle

    def conduit(self, *words: object) -> Done:
        """`conduit WORDS`, run to its end."""
        handle = self.start(*words)
        code = handle.wait(COMMAND_SECONDS)
        return Done(code, handle.stdout.read_text(), handle.stderr.read_text())

    def ask(self, *words: object) -> Any:
        """What `conduit WORDS -o json` prints; it must succeed."""
        done = self.conduit(*words, "-o", "json")
        assert done.code == 0, done.err
        return json.loads(done.out)

    def processes(self) -> list[Process]:
        """All that carry our runtime folder in their environment, zombies aside."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                pairs = (path / "environ").read_bytes().decode(errors="replace").split("\0")
                argv = tuple((path / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0"))
            except OSError:
                continue  # another's, or gone
            environment = dict(pair.partition("=")[::2] for pair in pairs if pair)
            pid = int(path.name)
            if environment.get("XDG_RUNTIME_DIR") == str(self.runtime) and not gone(pid):
                found.append(Process(pid, argv, environment))
        return found

    def end(self) -> None:
        """End everything: politely, then by force, whatever has become of it."""
        for handle in self.started:
            if handle.returncode is None:
                handle.send_signal(signal.SIGCONT)
                handle.terminate()
        for handle in self.started:
            try:
                handle.wait(10.0)
            except subprocess.TimeoutExpired:
                handle.kill_group()
                handle.wait()
        for process in self.processes():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


@contextmanager
def machine_in(folder: Path) -> Iterator[Machine]:
    """A machine whose processes all end with the block."""
    machine = Machine(folder)
    try:
        yield machine
    finally:
        machine.end()


class Mesh:
    """`conduit up -f mesh.yaml`, with further options, on a machine."""

    def __init__(self, machine: Machine, documents: Sequence[dict[str, Any]], *options: object) -> None:
        self.machine = machine
        self.file = machine.folder / "mesh.yaml"
        self.write(documents)
        self.up = machine.start("up", "-v", "-f", self.file, *options)

    def write(self, documents: Sequence[dict[str, Any]]) -> None:
        """The mesh's YAML, from now on."""
        self.documents = list(documents)
        self.file.write_text(yaml.safe_dump_all(self.documents, sort_keys=False))

    @property
    def log(self) -> str:
        """All that `up` has said."""
        return self.up.stderr.read_text(errors="replace")

    def until(self, condition: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> None:
        """Waits, and fails at once, with the log, where the mesh has ended."""

        def met() -> object:
            assert self.up.returncode is None, self.log
            return condition()

        wait_until(met, what, seconds)

    def until_serving(self, *names: str) -> None:
        """Returns when each of these replicas has an endpoint."""
        self.until(lambda: set(names) <= self.serving(), f"{names} serve")

    def serving(self) -> set[str]:
        """Names of the replicas that have an endpoint now."""
        return {path.stem.partition(".")[2] for path in self.state.glob("endpoints/*.yaml")}

    @property
    def state(self) -> Path:
        """The mesh's state folder; a path that does not exist while there is none."""
        return next((self.machine.runtime / "conduit").glob("state-*"), self.machine.runtime / "none")

    def control_pid(self) -> int:
        """The control plane's process, 0 while there is none."""
        return next((p.pid for p in self.machine.processes() if p.argv[1:5] == ("-P", "-m", "mesh.cli", "control")), 0)

    def config(self, replica: str) -> dict[str, Any]:
        """The proxy.yaml of a replica's sidecar in its present life."""
        config: dict[str, Any] = yaml.safe_load((self.state / "replicas" / replica / "proxy.yaml").read_text())
        return config

    def sidecar_pid(self, replica: str) -> int:
        """The process of a replica's sidecar, 0 while there is none."""
        path = str(self.state / "replicas" / replica / "proxy.yaml")
        return next((p.pid for p in self.machine.processes() if p.argv[-1] == path), 0)

    def application_pid(self, replica: str) -> int:
        """The process of a replica's application, 0 while there is none."""
        port = self.config(replica)["inbound"][0]["forward"].rpartition(":")[2]
        return next((p.pid for p in self.machine.processes() if p.environment.get("PORT") == port), 0)

    def sidecar(self, replica: str) -> Sidecar:
        """A replica's sidecar; its `handle` is that of `up`."""
        config = self.config(replica)
        admin, forward = (int(text.rpartition(":")[2]) for text in (config["admin"], config["outbound"][0]["listen"]))
        return Sidecar(self.up, admin, forward, {})

    def connected(self) -> set[str]:
        """Workloads whose proxies have a stream to the control plane; empty while it does not answer."""
        done = self.machine.conduit("get", "proxies", "-o", "json")
        return {row["workload"] for row in json.loads(done.out)} if done.code == 0 else set()


def workload(name: str, *command: str, **spec: Any) -> dict[str, Any]:
    """A Workload; without a command, the application of mesh_application.py on a free port."""
    if not command:
        spec = {"port": "auto", "protocol": "http1", **spec}
    words = list(command) or ["python", str(APPLICATION)]
    return {
        "apiVersion": "conduit.mesh/v1alpha1",
        "kind": "Workload",
        "metadata": {"name": name},
        "spec": {"command": words, **spec},
    }


def client(name: str = "client") -> dict[str, Any]:
    """A Workload that does nothing, for the sake of its sidecar's outbound listener."""
    return workload(name, "python", "-c", "import signal; signal.pause()")


def policy(service: str, **spec: Any) -> str:
    """The text of a TrafficPolicy."""
    return yaml.safe_dump(
        {
            "apiVersion": "conduit.mesh/v1alpha1",
            "kind": "TrafficPolicy",
            "metadata": {"name": service},
            "spec": {"service": service, **spec},
        }
    )


def calls(**spec: Any) -> dict[str, Any]:
    """The gRPC service `calls` of mesh_calls.py."""
    words = ("python", "-m", "tests.end_to_end.mesh_calls")
    return workload("calls", *words, port="auto", protocol="http2", directory=str(ROOT), **spec)


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self.began = time.monotonic()

    def __call__(self) -> float:
        return time.monotonic() - self.began
