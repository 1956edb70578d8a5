"""A control plane, `conduit control`, with proxies that hang on it, and endpoints that tests add and take away."""

import json
import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import Handle
from tests.end_to_end.mesh_machine import CONDUIT, Done
from tests.end_to_end.sidecar import Config, Sidecar, Starter, wait_until
from tests.end_to_end.traffic_yaml import endpoint

COMMAND_SECONDS = 30.0


class Live:
    """See the module. `start` starts proxies; `environment` is for commands that are to find the control plane."""

    def __init__(self, run: Callable[..., Handle], free_port: Callable[[], int], folder: Path) -> None:
        self.state = folder / "state"
        self._folder = folder
        self._written = 0
        self._token = secrets.token_urlsafe(16)
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.environment = {**os.environ, "CONDUIT_TOKEN": self._token, "CONDUIT_CONTROL": self.url}
        sources = folder / "sources"
        sources.mkdir()
        words = ["env", f"CONDUIT_TOKEN={self._token}", CONDUIT, "control"]
        run([*words, "--source", sources, "--state", self.state, "--listen", f"127.0.0.1:{port}"], ready_port=port)
        self._start = Starter(run, free_port, folder, CONDUIT)
        wait_until(lambda: (self.state / "endpoints").is_dir(), "the control plane has its folder")

    def proxy(self, name: str, *services: str, **more: Any) -> Sidecar:
        """A proxy that has heard of the control plane. Its one listener goes by the authority; `ports` has it for
        each service."""
        link = {"url": self.url, "token": self._token, "workload": name}
        sidecar = self._start(control=link, name=name, **more)
        sidecar.ports = dict.fromkeys(services, sidecar.forward)
        wait_until(lambda: name in self.workloads(), "the proxy is connected")
        return sidecar

    def workloads(self) -> set[str]:
        """Names of the proxies that are connected."""
        done = self.conduit("get", "proxies", "-o", "json")
        return {row["workload"] for row in json.loads(done.out)} if done.code == 0 else set()

    def conduit(self, *words: object) -> Done:
        """`conduit WORDS`, run to its end."""
        argv = [str(CONDUIT), *map(str, words)]
        done = subprocess.run(
            argv, env=self.environment, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def begin(self, *words: object) -> subprocess.Popen[str]:
        """`conduit WORDS`, started; what it prints can be read from it. Its caller ends it."""
        argv = [str(CONDUIT), *map(str, words)]
        return subprocess.Popen(argv, env=self.environment, stdout=subprocess.PIPE, text=True)

    def apply(self, *documents: Config) -> None:
        """`conduit apply`; it must succeed."""
        file = self._folder / "applied.yaml"
        file.write_text(yaml.safe_dump_all(documents))
        done = self.conduit("apply", "-f", file)
        assert done.code == 0, done.err

    def add(self, name: str, service: str, port: int, **spec: Any) -> None:
        """An endpoint begins to serve, as the supervisor of a replica tells it."""
        text = yaml.safe_dump(endpoint(name, service, port, pid=os.getpid(), **spec))
        beside = self._folder / f"new-{name}.yaml"
        beside.write_text(text)
        beside.rename(self.state / "endpoints" / f"default.{name}.yaml")

    def remove(self, name: str) -> None:
        """It ceases to."""
        (self.state / "endpoints" / f"default.{name}.yaml").unlink()


@contextmanager
def living(run: Callable[..., Handle], free_port: Callable[[], int], folder: Path) -> Iterator[Live]:
    """A control plane whose processes end with those of `run`."""
    yield Live(run, free_port, folder)
