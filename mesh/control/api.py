"""The one port of the control plane: HTTP/1.1 (h11) and websockets (trio-websocket) on it, over TLS or plain.

General theory. Each accepted connection is one task, which looks whether it is TLS (transport.py), reads heads with
h11, judges them (access.py), finds their route (routes.py) and answers. A websocket is judged and routed the same way,
while it is still HTTP; then its head is written out again and given to trio-websocket, in a nursery of its own.

Rules:
- Heads, bodies, connections and every wait for the peer are bounded.
- Whatever goes wrong in one connection ends there: it is counted, and a bug is logged with the connection's number.
- This file alone knows h11. It knows no route.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from ssl import SSLContext

import h11
import structlog
import trio
from trio_websocket import ConnectionClosed, wrap_server_stream
from wsproto.utilities import ProtocolError

from mesh.control.access import Access
from mesh.control.audit import Audit
from mesh.control.routes import Answer, Refusal, Request, Route, Router, check_known, parse_target
from mesh.control.transport import address_of, begins_tls, shake_hands
from mesh.control.websocket import Replay, WebSocket
from mesh.model.api import Problem
from mesh.model.errors import PeerError
from mesh.model.push import MAX_MESSAGE

MAX_CONNECTIONS = 4_096
"""A thousand proxies, and browsers that open six each."""
MAX_HEAD = 16 * 1024
MAX_BODY = 1024 * 1024
HEAD_SECONDS = 10.0
"""From a connection's beginning, or the first byte of a later head, to the head's end."""
BODY_SECONDS = 10.0
IDLE_SECONDS = 60.0
SEND_SECONDS = 10.0
HANDSHAKE_SECONDS = 5.0
CLOSE_SECONDS = 1.0
READ_BYTES = 16 * 1024

HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
)
"""On every answer, unless it has such a field itself: what is shown here is of this moment, and data."""


class Gone(Exception):
    """The client closed, was too slow, or spoke something else than HTTP; there is nobody to answer."""


class Api:
    """Serves listeners; `counters` count connections that ended badly, by reason.

    `tls` gives the context for a connection that begins now; without it, there is no TLS here.
    """

    def __init__(
        self,
        router: Router,
        access: Access,
        log: structlog.typing.FilteringBoundLogger,
        *,
        audit: Audit | None = None,
        tls: Callable[[], SSLContext] | None = None,
    ) -> None:
        self.counters: Counter[str] = Counter()
        self.connections = 0
        self._router, self._access, self._log = router, access, log
        self._audit, self._tls = audit, tls
        self._last = 0

    def __repr__(self) -> str:
        return f"<Api connections={self.connections} counters={dict(self.counters)}>"

    async def serve(
        self, listeners: Sequence[trio.SocketListener], task_status: trio.TaskStatus[object] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Serves until cancelled; every connection is a task in a nursery here."""
        async with trio.open_nursery() as connections:
            await trio.serve_listeners(
                self.connection, list(listeners), handler_nursery=connections, task_status=task_status
            )

    async def connection(self, stream: trio.SocketStream) -> None:
        """One connection, to its end; raises nothing but Cancelled."""
        self._last += 1
        name = f"connection {self._last}"
        if self.connections >= MAX_CONNECTIONS:
            self.counters["too many connections"] += 1
            await trio.aclose_forcefully(stream)
            return
        self.connections += 1
        try:
            await self._converse(stream, name)
        except* Gone as group:
            self.counters[str(group.exceptions[0])] += 1
        except* (PeerError, ConnectionClosed, ProtocolError, trio.BrokenResourceError, trio.ClosedResourceError):
            self.counters["websocket ended"] += 1
        except* Exception:  # noqa: BLE001 - a bug of ours must not end the control plane
            self.counters["bug"] += 1
            self._log.exception("connection ended by a bug", connection=name)
        finally:
            self.connections -= 1
            stream.socket.close()  # at once: aclose would be a checkpoint, and this may be a cancelled task

    async def _converse(self, stream: trio.SocketStream, name: str) -> None:
        source = address_of(stream)
        secured = await self._secured(stream)
        try:
            inner = secured or stream
            await Conversation(inner, name, source, secured is not None, self._router, self._access, self._audit).run()
        finally:
            if secured is not None:
                with trio.move_on_after(CLOSE_SECONDS):
                    await secured.aclose()

    async def _secured(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream] | None:
        """The stream inside TLS, None where the client speaks plain; raises Gone."""
        if self._tls is None:
            return None
        try:
            with trio.move_on_after(HEAD_SECONDS) as scope:
                if not await begins_tls(stream):
                    return None
            if scope.cancelled_caught:
                raise Gone("too slow")
            with trio.move_on_after(HANDSHAKE_SECONDS):
                return await shake_hands(stream, self._tls())
        except trio.BrokenResourceError as exc:
            raise Gone("no TLS handshake") from exc
        raise Gone("TLS handshake too slow")


class Conversation:
    """What is said on one connection: requests and answers in turn, or one websocket to the end.

    `source` is the client's address, `secure` whether the stream is inside TLS.
    """

    def __init__(
        self,
        stream: trio.abc.Stream,
        name: str,
        source: str,
        secure: bool,
        router: Router,
        access: Access,
        audit: Audit | None,
    ) -> None:
        self._stream, self._name, self._router, self._access = stream, name, router, access
        self._source, self._secure, self._audit = source, secure, audit
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    def __repr__(self) -> str:
        return f"<Conversation {self._name} {self._http.states}>"

    async def run(self) -> None:
        """Until either side has had enough; raises Gone where it was the client, in an ill manner."""
        deadline = trio.current_time() + HEAD_SECONDS
        while True:
            try:
                head = await self._event(deadline)
                if not isinstance(head, h11.Request):
                    return  # closed between requests
                if await self._respond(head):
                    return
            except h11.RemoteProtocolError as exc:
                await self._refuse_bytes(exc)
                raise Gone("not HTTP") from exc
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                await self._linger()
                return
            self._http.start_next_cycle()
            deadline = await self._idle()

    # --- one request

    async def _respond(self, head: h11.Request) -> bool:
        """Answers one request; True where the connection is used up because it was a websocket."""
        request = Request("", "", source=self._source, secure=self._secure)
        route: Route | None = None
        try:
            request = replace(understand(head), source=self._source, secure=self._secure)
            websocket = wants_websocket(request)
            if not self._router.is_open(request.path):
                found = self._access.check(request, websocket=websocket)
                if isinstance(found, Answer):
                    await self._send(found)
                    return False
                request = replace(request, bearer=found)
            route, parameters = self._router.find(request.method, request.path, websocket=websocket)
            request = replace(request, parameters=parameters)
            self._access.permit(request, route)
            check_known(request, route)
            if route.socket is not None:
                if route.check is not None:
                    route.check(request)
                await self._upgrade(head, request, route)
                return True
            body = await self._body(head)
            assert route.handler is not None
            answer = await route.handler(replace(request, body=body))
            if self._audit is not None:
                self._audit.done(request, route, answer)
            await self._send(answer)
        except Refusal as refusal:
            if self._audit is not None:
                self._audit.refused(request, route, refusal)
            await self._send(refusal.answer())
        return False

    async def _body(self, head: h11.Request) -> bytes:
        """All of the body; raises Refusal where it is more than MAX_BODY."""
        if self._http.they_are_waiting_for_100_continue:
            await self._write(self._http.send(h11.InformationalResponse(status_code=100, headers=[])))
        deadline = trio.current_time() + BODY_SECONDS
        body = bytearray()
        while True:
            event = await self._event(deadline)
            if isinstance(event, h11.EndOfMessage):
                return bytes(body)
            if not isinstance(event, h11.Data):
                raise Gone("closed in a body")
            body += event.data
            if len(body) > MAX_BODY:
                raise Refusal(413, Problem(f"the body is longer than {MAX_BODY} bytes"))

    async def _upgrade(self, head: h11.Request, request: Request, route: Route) -> None:
        if not isinstance(await self._event(trio.current_time() + HEAD_SECONDS), h11.EndOfMessage):
            raise Refusal(400, Problem("a websocket request has no body"))
        if self._http.trailing_data[0]:  # RFC 6455 4.1: a client waits for the answer; the library would sit on it
            raise Refusal(400, Problem("a websocket client must wait for the answer before it goes on"))
        lines = [head.method + b" " + head.target + b" HTTP/" + head.http_version]
        lines += [name + b": " + value for name, value in head.headers]
        stream = Replay(self._stream, b"\r\n".join(lines) + b"\r\n\r\n")
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(HANDSHAKE_SECONDS) as handshake:
                proposal = await wrap_server_stream(
                    nursery, stream, max_message_size=MAX_MESSAGE, receive_buffer_size=READ_BYTES
                )
                connection = await proposal.accept()
            if handshake.cancelled_caught:
                nursery.cancel_scope.cancel()
                raise Gone("no websocket handshake")
            try:
                assert route.socket is not None
                if self._audit is not None:
                    self._audit.done(request, route)
                await route.socket(request, WebSocket(connection, self._name))
            finally:
                with trio.move_on_after(CLOSE_SECONDS):
                    await connection.aclose()
            nursery.cancel_scope.cancel()

    # --- bytes

    async def _event(self, deadline: float) -> object:
        """h11's next event; raises Gone where the client has not said enough by the deadline."""
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event
            with trio.move_on_at(deadline) as scope:
                try:
                    data = await self._stream.receive_some(READ_BYTES)
                except trio.BrokenResourceError as exc:
                    raise Gone("reset") from exc
            if scope.cancelled_caught:
                raise Gone("too slow")
            self._http.receive_data(bytes(data))

    async def _idle(self) -> float:
        """Waits for the first byte of the next head; the time by which the head must be there."""
        if not self._http.trailing_data[0]:
            with trio.move_on_after(IDLE_SECONDS) as scope:
                try:
                    self._http.receive_data(bytes(await self._stream.receive_some(READ_BYTES)))
                except trio.BrokenResourceError as exc:
                    raise Gone("reset") from exc
            if scope.cancelled_caught:
                raise Gone("idle")
        return trio.current_time() + HEAD_SECONDS

    async def _send(self, answer: Answer) -> None:
        given = {name for name, _ in answer.headers}
        fields = [*answer.headers, *(field for field in HEADERS if field[0] not in given)]
        fields.append((b"content-length", str(len(answer.body)).encode()))
        if self._http.their_state is not h11.DONE:
            fields.append((b"connection", b"close"))  # what follows of the request is not read
        data = self._http.send(h11.Response(status_code=answer.status, headers=fields)) or b""
        data += self._http.send(h11.Data(data=answer.body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        await self._write(data)

    async def _write(self, data: bytes | None) -> None:
        with trio.move_on_after(SEND_SECONDS) as scope:
            try:
                await self._stream.send_all(data or b"")
            except trio.BrokenResourceError as exc:
                raise Gone("reset") from exc
        if scope.cancelled_caught:
            raise Gone("takes no answer")

    async def _refuse_bytes(self, exc: h11.RemoteProtocolError) -> None:
        if self._http.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            await self._send(Refusal(exc.error_status_hint, Problem(str(exc)[:200])).answer())
            await self._linger()

    async def _linger(self) -> None:
        """Lets the client read our answer before the connection closes upon what it still sends; bounded."""
        with trio.move_on_after(CLOSE_SECONDS):
            try:
                if isinstance(self._stream, trio.SocketStream):  # TLS knows no half
                    await self._stream.send_eof()
                for _ in range(MAX_BODY // READ_BYTES):
                    if not await self._stream.receive_some(READ_BYTES):
                        return
            except trio.BrokenResourceError:
                return


def understand(head: h11.Request) -> Request:
    """The request as routes see it; raises Refusal where its target or a header is no text."""
    try:
        target = parse_target(head.target.decode("ascii"))
        headers: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("ascii"), raw_value.decode("utf-8")
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    except UnicodeDecodeError as exc:
        raise Refusal(400, Problem("the head is not text")) from exc
    return Request(head.method.decode("ascii"), target.path, target.query, headers)


def wants_websocket(request: Request) -> bool:
    """Whether it asks to become one (RFC 6455 4.2.1)."""
    connection = {option.strip().lower() for option in request.headers.get("connection", "").split(",")}
    return "upgrade" in connection and request.headers.get("upgrade", "").lower() == "websocket"
