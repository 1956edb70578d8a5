"""The whole demo with both real planes, and the other commands beside it, each in a process of its own."""

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from mesh.cli.demo import how_we_are_called, line, table_screen
from mesh.local.sidecar import CONDUIT
from mesh.model.api import StatRow

ROW = StatRow("web", "demo", "service", "http1", 90, 9.0, 0.5, 1.25, 20.0, 300.0, 4, 2)
SERVICES = ["catalog", "votes", "web", "words"]


def test_line_a_second() -> None:
    """All services on one line; a control plane that is away is told."""
    assert line([ROW, ROW], 12.34) == ("  12.3 s  web 9.0rps 50.00% p99 300ms  |  web 9.0rps 50.00% p99 300ms")
    assert line([], 1) == "   1.0 s  the control plane is away"


def test_table_in_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """It stays on the screen after the end."""
    with table_screen() as show:
        show([ROW], 3.0)
    out = capsys.readouterr().out
    assert "50.00%" in out
    assert "3 s so far" in out


def test_how_we_are_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path to type if the shell would not find this program by its name."""
    program = tmp_path / "bin" / "conduit"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", [str(program)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert how_we_are_called() == "bin/conduit"
    monkeypatch.setenv("PATH", str(program.parent))
    assert how_we_are_called() == "conduit"


def test_json_needs_an_end(conduit: Callable) -> None:
    """-o json without --duration would never print."""
    assert conduit("demo", "-o", "json").code == 2


def ask(*words: str) -> str:
    """stdout of a command that must succeed."""
    done = subprocess.run([*CONDUIT, *words], capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def ask_all(**commands: str) -> dict[str, str]:
    """stdout of each command by its name; they run at the same time."""
    answers: dict[str, str] = {}

    async def run(name: str, words: str) -> None:
        answers[name] = await trio.to_thread.run_sync(ask, *words.split())

    async with trio.open_nursery() as nursery:
        for name, words in commands.items():
            nursery.start_soon(run, name, words)
    return answers


def with_folder(folder: str) -> list[int]:
    """Processes that belong to the mesh of that runtime folder, by their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"XDG_RUNTIME_DIR={folder}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # another's, or gone
    return sorted(set(found) - {os.getpid()})


@pytest.mark.timeout(180)
async def test_demo_and_all_that_can_be_asked_of_it(processes: Callable, own_runtime_folder: Path) -> None:
    """It shows every service, stat and tap see them, a client joins it, and after ^C nothing is left of it."""
    demo = processes([*CONDUIT, "demo", "--duration", "10m", "--rps", "60", "--headless", "-o", "json"])
    with trio.fail_after(90):
        while "ready. Try" not in demo.output():
            assert demo.returncode is None, demo.output()
            await trio.sleep(0.05)
    second = processes([*CONDUIT, "demo"])
    assert await trio.to_thread.run_sync(second.wait) == 1
    assert f"a mesh is running already (process {demo.pid})" in second.output()

    told = await ask_all(
        stat="stat -o json",
        events="tap --to words -o json --count 3",
        lines="tap votes --count 2",
        proxies="get proxies -o json",
        endpoints="get endpoints -o json",
        page="run me -n demo -- curl -sf http://web/",
    )
    assert [row["name"] for row in json.loads(told["stat"]) if row["requests"]] == SERVICES
    events = [json.loads(text) for text in told["events"].splitlines()]
    assert {event["service"].partition(".")[0] for event in events} == {"words"}
    assert [event["event"] for event in events].count("end") == 3
    lines = told["lines"].splitlines()
    assert all(" proxy=in " in text for text in lines if "/polls.v1.Votes/" in text)
    assert sum(text.endswith("grpc-status=OK") for text in lines) == 2
    workloads = {row["workload"] for row in json.loads(told["proxies"])} - {"me"}
    assert workloads == {"catalog", "load", "votes", "web", "words-v1", "words-v2"}
    assert len(json.loads(told["endpoints"])) == 7
    assert "polls" in told["page"].lower()

    shown = [text for text in demo.stderr.read_text().splitlines() if " p99 " in text]
    assert all(f"{name} " in shown[-1] for name in SERVICES), shown
    demo.send_signal(signal.SIGINT)
    assert await trio.to_thread.run_sync(demo.wait) == 130, demo.output()
    assert demo.stdout.read_text() == ""
    with trio.fail_after(30):
        while with_folder(str(own_runtime_folder.parent)):
            await trio.sleep(0.02)
