"""The proxy's end of the control stream: what it needs to know comes in, what it has seen goes out.

General theory. One task keeps one websocket to the control plane, for ever: when it breaks, it is dialled again after a
jittered pause, and everything that is wanted is asked for again. While there is none, nothing changes: what was applied
last stays in force, and counters keep growing where they are until somebody can take their deltas. On a live stream one
task reads, and applies what comes synchronously; another writes whatever is due: names, answers, taps, reports.

Rules:
- Nothing that waits to be sent grows without bound: names and answers are keyed by name, a report is drained when it
  can be sent, taps hold their own bound.
- A report that could not be sent is merged into the next.
- Silence for `silence` seconds ends a stream, and so does a message not taken for as long: a control plane that is
  stopped, not dead, answers nothing and refuses nothing.
- An update that cannot be applied is answered with a nack, and the one before it stays in force, whatever the cause.
"""

from __future__ import annotations

import os
import random
import socket
import time
import traceback
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol, assert_never

import msgspec
import trio
from trio_websocket import ConnectionClosed, ConnectionRejected, HandshakeError, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from mesh.model.config import ControlLink
from mesh.model.errors import ConfigError, ControlError
from mesh.model.explain import Question, Step
from mesh.model.push import (
    HEARTBEAT_SECONDS,
    MAX_MESSAGE,
    SILENCE_SECONDS,
    Ack,
    Alive,
    Explain,
    Explained,
    FromControl,
    FromProxy,
    Heartbeat,
    Hello,
    Nack,
    NotSigned,
    Refused,
    ServiceUpdate,
    Settings,
    Sign,
    Signed,
    Subscribe,
    Tapped,
    TapStart,
    TapStop,
    Unsubscribe,
    Welcome,
)
from mesh.model.reports import Seen, SeriesDelta, TapMatch, TcpDelta
from mesh.proxy.control_line import ControlLine
from mesh.proxy.unsent import Unsent, tapped_texts
from mesh.wire.tls import host_context

PATH = "/api/v1/proxies/connect"
CONNECT_SECONDS = 2.0
"""For the dial, and again for the websocket handshake."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before the first redial and between later ones, before jitter: a control plane that is back is soon found."""
REPORT_SECONDS = 1.0
TAP_SECONDS = 0.1
CLOSE_SECONDS = 0.5

MAX_WANTED = 4_000
"""Names asked for at once; the control plane takes some more."""
MAX_NAME = 1_024
SIGN_SECONDS = 5.0
"""That the control plane may take to answer a Sign."""
MAX_EXPLAINED = 32
"""Answers that wait to be sent; of more questions, the newest are not answered."""

Log = Callable[[str, str, str], None]
"""Takes an event's name, who it is about, and a detail."""

_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[FromControl] = msgspec.json.Decoder(FromControl)


class Applier(Protocol):
    """Puts an update in force."""

    def apply(self, update: ServiceUpdate) -> str | None:
        """None where the update is in force now, else why it is not; what was in force then stays so."""

    def settle(self, settings: Settings) -> str | None:
        """The same for what this proxy itself must know."""

    def explain(self, question: Question) -> tuple[Step, ...]:
        """What would become of a request."""


class Reports(Protocol):
    """Where counters grow."""

    def drain(self) -> tuple[list[SeriesDelta], list[TcpDelta]]:
        """What they grew by since the last call."""

    def drain_seen(self) -> list[Seen]:
        """Kinds of requests that came, and how many of each since the last call."""


class Signing:
    """Somebody waits for a certificate."""

    def __init__(self, csr: str) -> None:
        self.csr = csr
        self.asked = False
        self.answer: Signed | ControlError | None = None
        self.answered = trio.Event()

    def end(self, answer: Signed | ControlError) -> None:
        """This came of it."""
        self.answer = answer
        self.answered.set()


class Taps(Protocol):
    """Where exchanges are watched."""

    def start(self, session: int, match: TapMatch) -> None:
        """Begins a session."""

    def stop(self, session: int) -> None:
        """Ends a session; one that is not there is no error."""

    def stop_all(self) -> None:
        """Ends all: nobody is there to watch."""

    def take(self) -> list[Tapped]:
        """What was seen since the last call."""


class Subscriptions:
    """The stream. `want` may be called at any time, from synchronous code, connected or not."""

    def __init__(
        self,
        link: ControlLink,
        *,
        applier: Applier,
        reports: Reports,
        taps: Taps,
        admin: str = "",
        inbound: tuple[str, ...] = (),
        outbound: tuple[str, ...] = (),
        log: Log | None = None,
        heartbeat: float = HEARTBEAT_SECONDS,
        silence: float = SILENCE_SECONDS,
        chance: random.Random | None = None,
    ) -> None:
        """`admin`, `inbound` and `outbound` are addresses to be shown. Raises ControlError where the URL is none."""
        self._line = ControlLine(link)
        self.connected = False
        """Whether the control plane has welcomed us and the stream lives."""
        self.ever_connected = False
        self.reason = "not connected yet"
        """Why it does not, while it does not."""
        self._token = link.token
        self._hello = Hello(
            workload=link.workload,
            namespace=link.namespace,
            proxy=f"{link.workload}/{socket.gethostname()}/{os.getpid()}",
            version=installed_version(),
            admin=admin,
            inbound=inbound,
            outbound=outbound,
        )
        self._log = log or silent
        self._applier, self._reports, self._taps = applier, reports, taps
        self._heartbeat, self._silence = heartbeat, silence
        self._chance = chance or random.Random()
        self._wanted: dict[str, None] = {}
        self._absent: dict[str, None] = {}
        self._due: dict[str, Subscribe | Unsubscribe] = {}
        self._answers: dict[str, Ack | Nack] = {}
        self._explained: list[Explained] = []
        self._wake = trio.Event()
        self._found = trio.Event()
        self._signing: Signing | None = None
        self._tapping: set[int] = set()
        self._seen = 0
        self._unsent = Unsent()
        self._drained_at = 0.0
        self._flushing = False
        self._flushed = trio.Event()

    def __repr__(self) -> str:
        state = "connected" if self.connected else self.reason
        return f"<Subscriptions {self._line} {state} wanted={list(self._wanted)} seen={self._seen}>"

    def want(self, name: str) -> None:
        """Asks for a destination, now and on every stream to come; asking twice is asking once.

        Of more than MAX_WANTED names, those that the mesh does not have are forgotten, the oldest first; if it has them
        all, and for an overlong name, nothing is asked.
        """
        if name in self._wanted or len(name) > MAX_NAME:
            return
        if len(self._wanted) >= MAX_WANTED:
            if not self._absent:
                self._log("too_many_destinations", name, f"more than {MAX_WANTED}")
                return
            self.unwant(next(iter(self._absent)))
        self._wanted[name] = None
        self._ask(name, Subscribe(name))

    def unwant(self, name: str) -> None:
        """No longer asks for it."""
        if name in self._wanted:
            del self._wanted[name]
            self._absent.pop(name, None)
            self._ask(name, Unsubscribe(name))

    async def flush(self) -> None:
        """Sends a report now, where there is a stream, and returns when it is sent: what is known at the end counts.

        The caller sets the deadline.
        """
        if self.connected:
            self._flushing, self._flushed = True, trio.Event()
            self._wake.set()
            await self._flushed.wait()

    async def sign(self, csr: str) -> Signed:
        """Has a request (PEM) signed, as soon as there is a stream. One at a time.

        Raises ControlError where it is not granted, and where no answer comes: within SIGN_SECONDS, or from a stream
        that ends before.
        """
        while not self.connected:
            await self._found.wait()
        signing = self._signing = Signing(csr)
        self._wake.set()
        try:
            with trio.move_on_after(SIGN_SECONDS):
                await signing.answered.wait()
        finally:
            self._signing = None
        if signing.answer is None:
            raise ControlError(f"the control plane has not signed within {SIGN_SECONDS:g} s")
        if isinstance(signing.answer, ControlError):
            raise signing.answer
        return signing.answer

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the stream, until cancelled. Started at once: a proxy does not wait for its control plane."""
        self._drained_at = trio.current_time()
        task_status.started()
        pause = FIRST_PAUSE
        while True:
            reason = await self._stream()
            if self.connected:
                pause = FIRST_PAUSE
            self._lost(reason)
            await trio.sleep(pause * self._chance.uniform(0.5, 1.0))
            pause = min(pause * 2, LONGEST_PAUSE)

    # --- one stream

    async def _stream(self) -> str:
        """One stream from dial to end; says why it ended."""
        reason = "ended"
        try:
            with trio.fail_after(CONNECT_SECONDS):
                stream = await self._line.dial()
        except ConfigError as exc:
            return f"cannot connect: {exc}"
        except (OSError, trio.BrokenResourceError, trio.TooSlowError) as exc:
            return f"cannot connect: {str(exc) or 'no answer'}"
        try:
            async with trio.open_nursery() as nursery:
                with trio.fail_after(CONNECT_SECONDS):
                    connection = await wrap_client_stream(
                        nursery,
                        stream,
                        str(self._line),
                        PATH,
                        extra_headers=[(b"Authorization", b"Bearer " + self._token.encode())],
                        max_message_size=MAX_MESSAGE,
                        receive_buffer_size=16 * 1024,
                    )
                self._begin()
                nursery.start_soon(self._write, connection)
                await self._read(connection)
        except* (HandshakeError, ConnectionClosed, ProtocolError, OSError, trio.BrokenResourceError) as group:
            reason = words(group.exceptions[0])
        except* trio.ClosedResourceError:
            reason = "closed"
        except* (trio.TooSlowError, ControlError) as group:
            reason = str(group.exceptions[0]) or "no answer"
        finally:
            with trio.CancelScope(shield=True):  # forcefully closing does not wait
                await trio.aclose_forcefully(stream)
        return reason

    def _begin(self) -> None:
        """Everything is asked for in the hello, and nothing of the last stream is owed to this one."""
        self._due.clear()
        self._answers.clear()
        self._explained.clear()
        self._seen = 0

    def _lost(self, reason: str) -> None:
        if self.connected or reason != self.reason:
            self._log("control_plane_lost", str(self._line), reason)
        self.connected = False
        self.reason = reason
        if self._found.is_set():  # else it is what `sign` waits for already
            self._found = trio.Event()
        if self._signing is not None:
            self._signing.end(ControlError(f"the control stream ended: {reason}"))
        self._tapping.clear()
        self._taps.stop_all()

    # --- what comes

    async def _read(self, connection: WebSocketConnection) -> None:
        while True:
            with trio.move_on_after(self._silence) as scope:
                text = await connection.get_message()
            if scope.cancelled_caught:
                raise ControlError(f"silent for {self._silence:g} s")
            try:
                message = _decoder.decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise ControlError(f"sent what is no message: {exc}") from exc
            self._take(message)

    def _take(self, message: FromControl) -> None:
        match message:
            case Welcome(epoch=epoch):
                self._log("control_plane_found", str(self._line), epoch)
                self.connected = self.ever_connected = True
                self._found.set()
            case ServiceUpdate():
                self._take_update(message)
            case Settings():
                self._take_settings(message)
            case Signed():
                if self._signing is not None:
                    self._signing.end(message)
            case NotSigned(reason=reason):
                if self._signing is not None:
                    self._signing.end(ControlError(f"the control plane does not sign: {reason}"))
            case Explain(number=number, question=question):
                self._take_question(number, question)
            case TapStart(session=session, match=match):
                self._tapping.add(session)
                self._taps.start(session, match)
                self._wake.set()
            case TapStop(session=session):
                self._tapping.discard(session)
                self._taps.stop(session)
            case Heartbeat(version=pushed):
                if pushed > self._seen:  # messages keep their order, so an update is not late but lost
                    self._log("update_lost", str(self._line), f"saw {self._seen}, {pushed} was pushed")
                    for name in self._wanted:
                        self._ask(name, Subscribe(name))
            case Refused(reason=reason):
                raise ControlError(f"refused us: {reason}")
            case _:
                assert_never(message)

    def _take_update(self, update: ServiceUpdate) -> None:
        self._seen = max(self._seen, update.version)
        if update.name not in self._wanted:
            return
        if update.service is None:
            self._absent[update.name] = None
        else:
            self._absent.pop(update.name, None)
        self._answer(update, partial(self._applier.apply, update))

    def _take_settings(self, settings: Settings) -> None:
        self._seen = max(self._seen, settings.version)
        self._answer(settings, partial(self._settle, settings))

    def _settle(self, settings: Settings) -> str | None:
        if settings.anchors:
            try:
                host_context(settings.anchors)
            except ConfigError as exc:
                return str(exc)
        reason = self._applier.settle(settings)
        if reason is None and settings.anchors:
            self._line.trust(settings.anchors)
        return reason

    def _answer(self, update: ServiceUpdate | Settings, put: Callable[[], str | None]) -> None:
        """Has an update put in force, and says what came of it."""
        name = update.name if isinstance(update, ServiceUpdate) else ""
        try:
            reason = put()
        except Exception as exc:  # noqa: BLE001 - a bug in applying costs this update, not the stream
            self._log("update_failed", name, traceback.format_exc())
            reason = f"{type(exc).__name__}: {exc}"
        self._answers[name] = Ack(name, update.version) if reason is None else Nack(name, update.version, reason)
        self._wake.set()

    def _take_question(self, number: int, question: Question) -> None:
        if len(self._explained) >= MAX_EXPLAINED:
            return
        try:
            steps = self._applier.explain(question)
        except Exception:  # noqa: BLE001 - a bug in explaining costs this answer, not the stream
            self._log("explain_failed", question.authority, traceback.format_exc())
            steps = (Step("end", "failed", "the proxy could not work it out: its log says why"),)
        self._explained.append(Explained(number, steps))
        self._wake.set()

    # --- what goes

    def _ask(self, name: str, message: Subscribe | Unsubscribe) -> None:
        self._due[name] = message
        self._wake.set()

    async def _write(self, connection: WebSocketConnection) -> None:
        hello = msgspec.structs.replace(self._hello, services=tuple(self._wanted))
        await self._send(connection, hello)
        now = trio.current_time()
        next_beat, next_report = now + self._heartbeat, now + REPORT_SECONDS
        while True:
            due = min(next_beat, next_report, trio.current_time() + (TAP_SECONDS if self._tapping else REPORT_SECONDS))
            with trio.move_on_at(due):
                await self._wake.wait()
            self._wake = trio.Event()
            for queue in (self._due, self._answers):
                while queue:
                    name = next(iter(queue))
                    await self._send(connection, queue.pop(name))
            while self._explained:
                await self._send(connection, self._explained.pop(0))
            if self._signing is not None and not self._signing.asked:
                self._signing.asked = True
                await self._send(connection, Sign(self._signing.csr))
            if self._tapping:
                await self._send_taps(connection)
            now = trio.current_time()
            if now >= next_report or self._flushing:
                self._flushing = False
                await self._send_report(connection)
                next_report = now + REPORT_SECONDS
            if now >= next_beat:
                await self._send(connection, Alive(self._seen))
                next_beat = now + self._heartbeat

    async def _send(self, connection: WebSocketConnection, message: FromProxy) -> None:
        await self._send_text(connection, _encoder.encode(message))

    async def _send_text(self, connection: WebSocketConnection, text: bytes) -> None:
        with trio.move_on_after(self._silence) as scope:
            await connection.send_message(text.decode())
        if scope.cancelled_caught:
            raise ControlError(f"takes nothing for {self._silence:g} s")

    async def _send_taps(self, connection: WebSocketConnection) -> None:
        for tapped in self._taps.take():
            for text in tapped_texts(tapped):
                await self._send_text(connection, text)

    async def _send_report(self, connection: WebSocketConnection) -> None:
        """Drains and sends; what a broken stream leaves unsent waits in `_unsent` and is merged into the next."""
        now = trio.current_time()
        self._unsent.add(*self._reports.drain(), self._reports.drain_seen())
        seconds = now - self._drained_at
        while (text := self._unsent.next_text(time.time(), seconds)) is not None:
            await self._send_text(connection, text)
            self._unsent.sent()
        self._drained_at = now
        self._flushed.set()


def words(exc: BaseException) -> str:
    """Why a stream ended, in words."""
    match exc:
        case ConnectionRejected():
            return f"refused with HTTP status {exc.status_code}"
        case ConnectionClosed():
            reason = exc.reason
            return f"closed: {reason.code} {reason.reason or reason.name}" if reason else "closed"
        case _:
            return str(exc) or type(exc).__name__


def installed_version() -> str:
    """The version of the distribution that this is part of."""
    try:
        return version("conduit-mesh")
    except PackageNotFoundError:
        return "0+unknown"


def silent(event: str, who: str, detail: str) -> None:
    """A log that nobody reads."""
