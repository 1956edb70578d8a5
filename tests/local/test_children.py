"""One child process: what it prints is heard, and it ends with all it started."""

import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from mesh.local import children
from mesh.local.children import LINE_BYTES, Child, ChildError, first_exit, until_ready
from mesh.local.guard import Guard

from .conftest import ListLog, gone, until

Start = Callable[..., AbstractAsyncContextManager[Child]]


@pytest.fixture
def start(nursery: trio.Nursery, log: ListLog, guard: Guard) -> Start:
    """Call it with Python code for a child that runs it while the block lasts."""

    def running(code: str, name: str = "child", grace: float = 5.0) -> AbstractAsyncContextManager[Child]:
        argv = [sys.executable, "-u", "-c", code]
        told = {"name": name, "grace": grace, "environment": os.environ, "directory": Path("/")}
        return children.running(nursery, argv, log=log, guard=guard, **told)

    return running


SLEEP = "import time; time.sleep(600)"


async def test_output_becomes_lines(start: Start, log: ListLog) -> None:
    """stdout and stderr, also bytes that are no UTF-8, CR LF, and a last line without an end."""
    code = r"import os; os.write(1, b'one\ntwo\r\n'); os.write(2, b'thr\xffee\n'); os.write(1, b'rest')"
    async with start(code) as child:
        assert await child.exited() == 0
        await child.heard_out()
    assert [text for _, text in log.lines] == ["one", "two", "thr\ufffdee", "rest"]
    assert child.last_words() == "rest"
    assert child.ending() == "exited with status 0"


async def test_endless_line_comes_in_pieces(start: Start, log: ListLog) -> None:
    """What never ends a line is not kept without bound, and nothing of it is lost."""
    length = 5 * LINE_BYTES + 7
    async with start(f"print('x' * {length}, end='')") as child:
        await child.exited()
        await child.heard_out()
    assert len(log.lines) > 1
    assert max(len(text) for _, text in log.lines) < 3 * LINE_BYTES
    assert "".join(text for _, text in log.lines) == "x" * length


async def test_last_words_are_heard_while_all_is_cancelled(log: ListLog, guard: Guard) -> None:
    """What it says about SIGTERM reaches the log although every task is being cancelled."""
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (print('goodbye'), sys.exit(3)))\n"
        "print('hello')\ntime.sleep(600)"
    )
    argv = [sys.executable, "-S", "-u", "-c", code]
    async with (
        trio.open_nursery() as nursery,
        children.running(
            nursery, argv, name="x", grace=5, environment={}, directory=Path("/"), log=log, guard=guard
        ) as child,
    ):
        await until(lambda: log.lines)
        nursery.cancel_scope.cancel()
        await trio.sleep_forever()
    assert [text for _, text in log.lines] == ["hello", "goodbye"]
    assert child.ending() == "exited with status 3"


async def test_the_group_of_a_dead_leader_ends(start: Start, log: ListLog) -> None:
    """A grandchild that was left behind goes as well, and its hold on the output delays nothing."""
    code = f"import subprocess, sys\np = subprocess.Popen([sys.executable, '-S', '-c', '{SLEEP}'])\nprint(p.pid)"
    async with start(code) as child:
        await child.exited()
        await until(lambda: log.lines)
        grandchild = int(log.lines[0][1])
        assert not gone(grandchild)
    await until(lambda: gone(grandchild))


async def test_deaf_child_is_killed(start: Start, log: ListLog) -> None:
    """SIGTERM ignored means SIGKILL after the grace."""
    code = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); {SLEEP}"
    async with start(code, grace=0.05) as child:
        await until(lambda: log.lines)
    assert child.ending() == "was killed by SIGKILL"


async def test_first_exit_and_ready(start: Start) -> None:
    """The one that ended is returned; a death before readiness is told with the last words."""
    async with (
        start(SLEEP, "long") as long,
        start("print('+-----'); print('no such table'); print('----'); exit(4)", "short") as short,
    ):
        assert await first_exit(long, short) is short
        with pytest.raises(ChildError, match=r"^short exited with status 4 before it was ready: no such table$"):
            await until_ready((long, short), trio.sleep_forever, "come up")
        await until_ready((long,), trio.lowlevel.checkpoint, "come up")
        assert repr(long).endswith("running>")
    assert repr(long).endswith("was killed by SIGTERM>")


async def test_patience_ends(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that lives and never becomes ready is told as such."""
    monkeypatch.setattr(children, "START_SECONDS", 0.05)
    async with start(SLEEP) as child:
        with pytest.raises(ChildError, match=r"^child did not come up within 0.05 s$"):
            await until_ready((child,), trio.sleep_forever, "come up")


async def test_missing_folder_is_named(nursery: trio.Nursery, log: ListLog, guard: Guard) -> None:
    """The folder, not the program, is what is wrong."""
    told = {"name": "x", "grace": 1.0, "environment": {}, "directory": Path("/no/such"), "log": log, "guard": guard}
    with pytest.raises(ChildError, match="cannot start 'true': /no/such: No such file"):
        async with children.running(nursery, ["true"], **told):
            pass
