"""The audit log: who changed what over the API, who watched requests, and who was refused.

Rules:
- Noting never waits: an entry goes into a ring in memory, which is what `GET /api/v1/audit` shows, and to a task that
  appends it to `audit.jsonl` in the state folder. What the disk does not take in time is dropped, and counted.
- The file is ours alone (0600). At MAX_FILE it becomes `audit.jsonl.1`, in the place of the one before.
- Anybody can be refused as often as they like, so refusals are noted at a bounded rate; the next says how many were
  not.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog
import trio

from mesh.control.routes import Answer, Refusal, Request, Route, answer
from mesh.control.tokens import Role
from mesh.model.api import AuditEntry

NAME = "audit.jsonl"
MAX_FILE = 10_000_000
MAX_SHOWN = 2_000
"""Entries in memory: less than 1 MB."""
MAX_UNWRITTEN = 20_000
"""One request can apply some 10,000 resources."""
REFUSALS_PER_SECOND = 5.0
REFUSALS_AT_ONCE = 20.0
MAX_TEXT = 500
"""Characters of a result or a request."""


class Audit:
    """The log. `dropped` counts entries that are not in the file."""

    def __init__(
        self, folder: Path, log: structlog.typing.FilteringBoundLogger, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = folder / NAME
        self.dropped = 0
        self._log, self._clock = log, clock
        self._shown: deque[AuditEntry] = deque(maxlen=MAX_SHOWN)
        self._unwritten: deque[AuditEntry] = deque()
        self._wake = trio.Event()
        self._tokens, self._refilled = REFUSALS_AT_ONCE, clock()
        self._suppressed = 0
        self._failing = False

    def __repr__(self) -> str:
        return f"<Audit {self.path} shown={len(self._shown)} dropped={self.dropped}>"

    # --- what is noted

    def done(self, request: Request, route: Route, given: Answer | None = None) -> None:
        """A request to a route that is audited was carried out; for a watch, without an answer: it was opened."""
        if not route.audit:
            return
        if given is None:
            self._note(request, route.audit, "opened")
        for change in given.changes if given is not None else ():
            if change.result != "unchanged":
                self._note(request, route.audit, change.result, change.kind, change.namespace, change.name)

    def refused(self, request: Request, route: Route | None, refusal: Refusal) -> None:
        """A request was refused: for who asked, or for what was asked of a route that is audited."""
        of_who = refusal.status in (401, 403)
        if not of_who and (route is None or not route.audit):
            return
        if of_who and not self._admit():
            self._suppressed += 1
            return
        action = "refused" if of_who or route is None else route.audit
        key = [request.parameters.get(part, "") for part in ("kind", "namespace", "name")]
        self._note(request, action, f"{refusal.status}: {refusal.problem.error}", *key)

    def recent(self) -> list[AuditEntry]:
        """The newest entries, oldest first."""
        return list(self._shown)

    def _note(
        self, request: Request, action: str, result: str, kind: str = "", namespace: str = "", name: str = ""
    ) -> None:
        bearer = request.bearer
        entry = AuditEntry(
            at=self._clock(),
            action=action,
            who=bearer.name if bearer is not None else "",
            role=bearer.role.value if bearer is not None else "",
            source=request.source,
            result=result[:MAX_TEXT],
            kind=kind[:MAX_TEXT],
            namespace=namespace[:MAX_TEXT],
            name=name[:MAX_TEXT],
            request=f"{request.method} {request.path}"[:MAX_TEXT],
            suppressed=self._suppressed,
        )
        self._suppressed = 0
        self._shown.append(entry)
        if len(self._unwritten) >= MAX_UNWRITTEN:
            self.dropped += 1
            return
        self._unwritten.append(entry)
        self._wake.set()

    def _admit(self) -> bool:
        now = self._clock()
        self._tokens = min(REFUSALS_AT_ONCE, self._tokens + max(now - self._refilled, 0.0) * REFUSALS_PER_SECOND)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    # --- the file

    async def run(self) -> None:
        """Writes, until cancelled; what is noted by then is still written."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                lines = self._lines()
                problem = await trio.to_thread.run_sync(append, self.path, lines)
                self._written(len(lines), problem)
        finally:
            lines = self._lines()
            if lines:
                self._written(len(lines), append(self.path, lines))

    def _lines(self) -> list[bytes]:
        return [msgspec.json.encode(entry) + b"\n" for entry in self._unwritten]

    def _written(self, count: int, problem: str) -> None:
        for _ in range(count):
            self._unwritten.popleft()
        if problem:
            self.dropped += count
            if not self._failing:
                self._log.error("audit log cannot be written", file=str(self.path), reason=problem)
        self._failing = bool(problem)

    # --- the API

    def routes(self) -> list[Route]:
        """Its row of the table."""
        about = "Who changed what, opened a tap or was refused: the newest entries, oldest first."
        return [Route("GET", "/api/v1/audit", about, list[AuditEntry], handler=self.show, role=Role.ADMIN)]

    async def show(self, request: Request) -> Answer:
        return answer(self.recent())


def append(path: Path, lines: list[bytes]) -> str:
    """Adds the lines to the file, in whole; why not, where it cannot be."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(b"".join(lines))
            file.flush()
            size = os.fstat(descriptor).st_size
        if size >= MAX_FILE:
            os.replace(path, path.with_name(f"{path.name}.1"))
    except OSError as exc:
        return exc.strerror or str(exc)
    return ""
