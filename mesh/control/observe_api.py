"""The part of the API that shows what is going on: rows, edges, taps, proxies, endpoints; and the control stream."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable

import msgspec
import trio
from msgspec.structs import replace

from mesh.control import edges as callers
from mesh.control import stat
from mesh.control.aggregate import HORIZON_SECONDS, Aggregate
from mesh.control.cluster import Cluster
from mesh.control.plan import endpoints, protocol
from mesh.control.push import Push
from mesh.control.redaction import redacted
from mesh.control.routes import Answer, Query, Refusal, Request, Route, answer, number, text
from mesh.control.tap import Taps, TooManyTaps
from mesh.control.tokens import Role
from mesh.control.websocket import Socket
from mesh.model.api import Edge, EndpointInfo, Problem, ProxyInfo, Stat, TapDropped, VersionInfo
from mesh.model.errors import PeerError
from mesh.model.push import FromControl, FromProxy
from mesh.model.reports import TapEvent, TapMatch

KIND = Query("kind", "What the rows are of.", default="service", choices=("service", "workload"))
WINDOW = Query(
    "window", "Seconds back from now; 0: since the start.", kind=float, default=60.0, most=float(HORIZON_SECONDS)
)
NAMESPACE = Query("namespace", "Only edges that begin or end in this namespace.")
SERVICE = Query("service", "Only of this service: `name` or `name.namespace`.")
WORKLOAD = Query("workload", "Only what the proxies of this workload see: `name` or `name.namespace`.")
TO = Query("to", "Only calls of this service.")
METHOD = Query("method", "Only this HTTP method.")
PATH = Query("path", "Only paths that begin so.")
AUTHORITY = Query("authority", "Only this authority.")
MAX_RPS = Query("max_rps", "At most so many exchanges a second.", kind=float, default=100.0, least=0.001, most=10_000.0)
SHOW = Query("show", "`query`: with the values in paths' queries, which only an admin may see.", choices=("", "query"))

WATCH_SECONDS = 1.0
PATIENCE_SECONDS = 60.0
"""A watcher that takes nothing for so long is let go; until then, what it misses is counted."""


class ObserveApi:
    """Handlers; all answer from memory."""

    def __init__(self, cluster: Cluster, aggregate: Aggregate, taps: Taps, push: Push, version: str) -> None:
        self._cluster, self._aggregate, self._taps, self._push = cluster, aggregate, taps, push
        self._version = version

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        watched = (KIND, WINDOW)
        tapped = (WORKLOAD, TO, METHOD, PATH, AUTHORITY, MAX_RPS, SHOW)
        return [
            Route("GET", "/api/v1/version", "What runs here.", VersionInfo, handler=self.version),
            Route("GET", "/api/v1/stat", "Golden metrics.", Stat, handler=self.stat, query=watched),
            Route(
                "GET",
                "/api/v1/stat/watch",
                "Golden metrics, once a second.",
                Stat,
                socket=self.watch_stat,
                check=self.rows,
                query=watched,
            ),
            Route(
                "GET",
                "/api/v1/edges",
                "Who calls whom, as whom, and whether it is secured.",
                list[Edge],
                handler=self.edges,
                query=(WINDOW, NAMESPACE),
            ),
            Route(
                "GET",
                "/api/v1/tap/watch",
                "Exchanges as they happen.",
                (TapEvent, TapDropped),
                socket=self.watch_tap,
                check=self.check_tap,
                query=tapped,
                role=Role.TAP,
                audit="tap",
            ),
            Route("GET", "/api/v1/proxies", "The proxies that are connected.", list[ProxyInfo], handler=self.proxies),
            Route(
                "GET",
                "/api/v1/endpoints",
                "Where requests are sent.",
                list[EndpointInfo],
                handler=self.endpoints,
                query=(SERVICE,),
            ),
            Route(
                "GET",
                "/api/v1/proxies/connect",
                "The control stream of a proxy.",
                FromControl,
                socket=self.connect,
                hears=FromProxy,
                role=Role.PROXY,
            ),
        ]

    async def version(self, request: Request) -> Answer:
        return answer(VersionInfo(self._version, self._push.epoch, self._cluster.version, time.time()))

    async def stat(self, request: Request) -> Answer:
        return answer(self.rows(request))

    async def watch_stat(self, request: Request, socket: Socket) -> None:
        async def show() -> None:
            while True:
                await socket.send(msgspec.json.encode(self.rows(request)), PATIENCE_SECONDS)
                await trio.sleep(WATCH_SECONDS)

        await while_watched(socket, show)

    async def edges(self, request: Request) -> Answer:
        window, namespace = number(request, WINDOW), text(request, NAMESPACE)
        found = callers.edges(self._aggregate.window(trio.current_time(), window))
        return answer([edge for edge in found if namespace in ("", edge.namespace, edge.to_namespace)])

    def check_tap(self, request: Request) -> None:
        """Raises Refusal where what is asked for is not possible."""
        tap_match(request)
        shows_query(request)
        if self._taps.are_full():
            raise Refusal(503, Problem("too many taps are being watched"))

    async def watch_tap(self, request: Request, socket: Socket) -> None:
        try:
            session = self._taps.open(tap_match(request), trio.current_time())
        except TooManyTaps as exc:
            raise PeerError("too many taps are being watched") from exc
        whole = shows_query(request)

        async def show() -> None:
            missed = 0
            next_told = trio.current_time()
            while True:
                with trio.move_on_at(next_told if missed else math.inf):
                    await session.wake.wait()
                events, dropped = session.take_out()
                missed += dropped
                for event in events:
                    shown = event if whole or not event.path else replace(event, path=redacted(event.path))
                    await socket.send(msgspec.json.encode(shown), PATIENCE_SECONDS)
                if missed and trio.current_time() >= next_told:
                    await socket.send(msgspec.json.encode(TapDropped(missed)), PATIENCE_SECONDS)
                    missed = 0
                    next_told = trio.current_time() + WATCH_SECONDS

        try:
            await while_watched(socket, show)
        finally:
            self._taps.close(session)

    async def proxies(self, request: Request) -> Answer:
        return answer(self._push.proxies())

    async def endpoints(self, request: Request) -> Answer:
        wanted = text(request, SERVICE)
        found = []
        for key in self._cluster.services():
            members = self._cluster.members(key)
            if members is None or wanted not in ("", key.name, f"{key.name}.{key.namespace}"):
                continue
            speaks = protocol(members).value
            found += [
                EndpointInfo(key.namespace, key.name, e.workload, e.address, e.version, speaks, e.weight)
                for e in endpoints(members)
            ]
        return answer(found)

    async def connect(self, request: Request, socket: Socket) -> None:
        assert request.bearer is not None
        await self._push.serve(socket, request.bearer)

    def rows(self, request: Request) -> Stat:
        """What /stat answers; raises Refusal where it is asked for what there is not."""
        kind, seconds = text(request, KIND), number(request, WINDOW)
        window = self._aggregate.window(trio.current_time(), seconds)
        if kind == "workload":
            rows = stat.workloads(window, self._cluster, self._aggregate, self._push.owners())
        else:
            rows = stat.services(window, self._cluster, self._aggregate)
        return Stat(rows, seconds)


def tap_match(request: Request) -> TapMatch:
    """What a tap's query asks for; raises Refusal."""
    words = {query.name: text(request, query) for query in (WORKLOAD, TO, METHOD, PATH, AUTHORITY)}
    for name, word in words.items():
        if len(word) > 1024:
            raise Refusal(400, Problem("is longer than 1024 characters", field=name))
    return TapMatch(**words, max_rps=number(request, MAX_RPS))


def shows_query(request: Request) -> bool:
    """Whether a tap shows the values in queries; raises Refusal where who asks may not, or feels for them by `path`."""
    if text(request, SHOW):
        if request.bearer is None or not request.bearer.may(Role.ADMIN):
            raise Refusal(403, Problem("only a token of the role admin shows the values in queries", field="show"))
        return True
    if "?" in text(request, PATH):
        raise Refusal(400, Problem("goes into the query, whose values are not shown without show=query", field="path"))
    return False


async def while_watched(socket: Socket, show: Callable[[], Awaitable[None]]) -> None:
    """Runs `show` until the watcher closes; what a watcher says meanwhile means nothing."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(show)
        try:
            while True:
                await socket.receive()
        except PeerError:
            nursery.cancel_scope.cancel()
