"""One child process with everything it starts: its own session, its lines to the log, an end that is certain.

A child is stopped as a process group: SIGTERM, a grace, SIGKILL for whatever is left of the group, also where its
leader ended by itself. Its output is read until then by a task in the nursery it was started with, so that its last
words are heard even while everything is cancelled.
"""

from __future__ import annotations

import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from mesh.local.guard import Guard, signal_group
from mesh.local.log import Log
from mesh.model.errors import ConduitError

LINE_BYTES = 16 * 1024  # a longer line is shown in pieces
TAIL_LINES = 20  # kept to explain a failure
START_SECONDS = 60.0  # for a process to be ready: an application on a busy machine may need long
LAST_WORDS_SECONDS = 0.5  # how long output is awaited after the group is gone: only an escaped daemon holds it open


class ChildError(ConduitError):
    """A child process could not be started, ended, or did not become ready."""


class Child:
    """A process; made by `running`."""

    def __init__(self, name: str, process: trio.Process, log: Log, guard: Guard) -> None:
        self.name, self.process = name, process
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._log, self._guard = log, guard
        self._listening = trio.CancelScope(shield=True)
        self._silent = trio.Event()
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Child {self.name} pid={self.process.pid} {self.ending() or 'running'}>"

    @property
    def pid(self) -> int:
        return self.process.pid

    async def exited(self) -> int:
        """Waits for its end and returns its exit status, negative for a signal."""
        return await self.process.wait()

    async def heard_out(self) -> None:
        """Waits until its last line has been read."""
        await self._silent.wait()

    def last_words(self) -> str:
        """The last line with words in it (a traceback may end in a frame of dashes); empty where there is none."""
        return next((line.strip() for line in reversed(self.tail) if any(map(str.isalnum, line))), "")

    def ending(self) -> str:
        """How it ended, in words; empty while it runs."""
        status = self.process.returncode
        if status is None:
            return ""
        if status < 0:
            return f"was killed by {signal.Signals(-status).name}"
        return f"exited with status {status}"

    async def stop(self, grace: float) -> None:
        """Ends the whole group, within about `grace` seconds, and cannot be cancelled."""
        if self._stopped:
            return
        self._stopped = True
        with trio.CancelScope(shield=True):
            if self.process.returncode is None:
                signal_group(self.pid, signal.SIGTERM)
                with trio.move_on_after(grace):
                    await self.process.wait()
            signal_group(self.pid, signal.SIGKILL)
            await self.process.wait()
            self._guard.release(self.pid)
            with trio.move_on_after(LAST_WORDS_SECONDS):
                await self._silent.wait()
            self._listening.cancel()

    async def _listen(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        rest = b""
        with self._listening:
            try:
                while chunk := await stream.receive_some(LINE_BYTES):
                    *lines, rest = (rest + chunk).split(b"\n")
                    if len(rest) >= LINE_BYTES:
                        lines, rest = [*lines, rest], b""
                    for line in lines:
                        self._hear(line)
            except trio.BrokenResourceError:
                self._hear(b"(its output could not be read any further)")
        if rest:
            self._hear(rest)
        self._silent.set()
        await trio.aclose_forcefully(stream)

    def _hear(self, line: bytes) -> None:
        text = line.decode("utf-8", "replace").rstrip("\r")
        self.tail.append(text)
        self._log.line(self.name, text)


@asynccontextmanager
async def running(
    nursery: trio.Nursery,
    argv: Sequence[str],
    *,
    name: str,
    grace: float,
    environment: Mapping[str, str],
    directory: Path,
    log: Log,
    guard: Guard,
    capture: bool = True,
) -> AsyncIterator[Child]:
    """A process while the block runs, stopped with `grace` after it. Its output is read in `nursery`, and goes to the
    log, or, unless `capture`, where ours goes.

    Raises ChildError where there is no such program or folder.
    """
    pipe = subprocess.PIPE if capture else None
    try:
        process = await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.DEVNULL if capture else None,
            stdout=pipe,
            stderr=subprocess.STDOUT if capture else None,
            env=dict(environment),
            cwd=directory,
            start_new_session=True,
        )
    except OSError as exc:
        what = exc.filename if exc.filename is not None else argv[0]
        raise ChildError(f"{name}: cannot start {argv[0]!r}: {what}: {exc.strerror}") from exc
    guard.watch(process.pid)
    child = Child(name, process, log, guard)
    if capture:
        nursery.start_soon(child._listen, name=f"listen to {name}")
    else:
        child._silent.set()
    try:
        yield child
    finally:
        await child.stop(grace)


async def first_exit(*watched: Child) -> Child:
    """Waits until one of the children ends, and returns it."""
    first: Child | None = None
    async with trio.open_nursery() as nursery:

        async def watch(child: Child) -> None:
            nonlocal first
            await child.exited()
            first = first or child
            nursery.cancel_scope.cancel()

        for child in watched:
            nursery.start_soon(watch, child)
    assert first is not None
    return first


async def until_ready(watched: Sequence[Child], ready: Callable[[], Awaitable[None]], what: str) -> None:
    """Waits until the first child is ready; raises ChildError if one of them dies before, or it takes too long.

    `what` completes "it did not ...".
    """
    died: Child | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            nonlocal died
            died = await first_exit(*watched)
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        with trio.move_on_after(START_SECONDS) as patience:
            await ready()
        nursery.cancel_scope.cancel()
    if died is not None:
        with trio.move_on_after(LAST_WORDS_SECONDS):
            await died.heard_out()
        told = died.last_words()
        raise ChildError(f"{died.name} {died.ending()} before it was ready{told and ': '}{told}")
    if patience.cancelled_caught:
        raise ChildError(f"{watched[0].name} did not {what} within {START_SECONDS:g} s")
