"""The web site people see, over HTTP/1.1 (aiohttp and Jinja). Every page is put together from the other services.

Environment: PORT (default 8080); where the others are: CATALOG_URL (http://catalog), WORDS_URL (http://words),
VOTES_ADDRESS (votes:80). If one of them cannot be reached the page is a 503 that names it.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import jinja2
from aiohttp import web

messages, services = grpc.protos_and_services("votes.proto")

PEER_SECONDS = 2.0  # nobody waits longer for a page
CHANNEL_OPTIONS = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 1000)]
PEERS = {
    "catalog": os.environ.get("CATALOG_URL", "http://catalog"),
    "words": os.environ.get("WORDS_URL", "http://words"),
}

HTTP = web.AppKey("HTTP", aiohttp.ClientSession)
VOTES = web.AppKey("VOTES", Any)

templates = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True, auto_reload=False
)
routes = web.RouteTableDef()


class PeerError(Exception):
    """Another service failed us; `status` is what the visitor gets."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


async def ask(request: web.Request, peer: str, path: str) -> Any:
    """The JSON that `peer` answers to `GET path`; raises HTTPNotFound for its 404, PeerError for any other failure."""
    try:
        async with request.app[HTTP].get(PEERS[peer] + path) as reply:
            if reply.status == 200:
                return await reply.json()
            body = (await reply.text()).strip()[:200]
    except (aiohttp.ClientError, TimeoutError) as exc:
        raise PeerError(503, f"{peer} cannot be reached ({exc or type(exc).__name__})") from exc
    if reply.status == 404:
        raise web.HTTPNotFound(text=body)
    # Its own mistake is passed on as such; anything else means that it could not be asked.
    raise PeerError(500 if reply.status == 500 else 503, f"{peer} answered {reply.status}: {body}")


async def count(call: Awaitable[Any]) -> Any:
    """What a gRPC call to votes returns; raises PeerError if it fails."""
    try:
        return await call
    except grpc.aio.AioRpcError as exc:
        raise PeerError(503, f"votes answered {exc.code().name}: {exc.details()}") from exc


def page(name: str, status: int = 200, **values: Any) -> web.Response:
    return web.Response(text=templates.get_template(name).render(values), status=status, content_type="text/html")


@routes.get("/")
async def home(request: web.Request) -> web.Response:
    polls, words, turnout = await asyncio.gather(
        ask(request, "catalog", "/polls"),
        ask(request, "words", "/headline"),
        count(request.app[VOTES].Turnout(messages.TurnoutRequest(), timeout=PEER_SECONDS)),
    )
    return page("home.html", polls=polls, words=words, ballots=turnout.ballots, total=turnout.total)


@routes.get("/polls/{slug}")
async def poll(request: web.Request) -> web.Response:
    slug = request.match_info["slug"]
    found, words, tally = await asyncio.gather(
        ask(request, "catalog", f"/polls/{slug}"),
        ask(request, "words", "/headline"),
        count(request.app[VOTES].Tally(messages.TallyRequest(poll=slug), timeout=PEER_SECONDS)),
    )
    ballot = request.query.get("ballot")
    return page("poll.html", poll=found, words=words, ballots=tally.ballots, total=tally.total, ballot=ballot)


@routes.post("/polls/{slug}/votes")
async def vote(request: web.Request) -> web.Response:
    slug = request.match_info["slug"]
    choice = str((await request.post()).get("choice", ""))
    found = await ask(request, "catalog", f"/polls/{slug}")
    if choice not in found["choices"]:
        raise web.HTTPUnprocessableEntity(text=f"{slug} does not offer that choice")
    ballot = messages.Ballot(poll=slug, choice=choice)
    receipt = await count(request.app[VOTES].Cast(ballot, timeout=PEER_SECONDS))
    raise web.HTTPSeeOther(f"/polls/{slug}?ballot={receipt.ballot}")


@routes.get("/polls/{slug}/live")
async def live(request: web.Request) -> web.StreamResponse:
    """The count as server-sent events, a few times a second: `?updates=` says how many (1 to 100, default 4)."""
    updates = request.query.get("updates", "4")
    if not updates.isdecimal() or not 1 <= int(updates) <= 100:
        raise web.HTTPBadRequest(text="updates: a number from 1 to 100")
    watch = messages.WatchRequest(poll=request.match_info["slug"], updates=int(updates), interval_ms=150)
    counts = request.app[VOTES].Watch(watch, timeout=PEER_SECONDS + int(updates) * 0.15)
    response = web.StreamResponse(headers={"content-type": "text/event-stream", "cache-control": "no-store"})
    try:
        update = await count(counts.read())
        await response.prepare(request)
        while update is not grpc.aio.EOF:
            await response.write(f"data: {update.total}\n\n".encode())
            update = await count(counts.read())
    except PeerError as exc:
        if not response.prepared:
            raise
        await response.write(f"event: error\ndata: {exc}\n\n".encode())
    except ConnectionResetError:
        return response  # the visitor has left
    finally:
        counts.cancel()
    await response.write_eof()
    return response


@routes.get("/receipts/{ballot}")
async def receipt(request: web.Request) -> web.Response:
    words = await ask(request, "words", f"/receipt/{request.match_info['ballot']}")
    return page("receipt.html", words=words)


@routes.get("/archive")
async def archive(request: web.Request) -> web.Response:
    return page("archive.html", archive=await ask(request, "catalog", "/archive"))


@routes.get("/ready")
async def ready(request: web.Request) -> web.Response:
    """200 once every service this one needs has answered, before that a 503 that names the one missing."""
    await home(request)
    return web.Response(text="ready\n")


@web.middleware
async def explain(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns the failure of another service into a page that says which and why."""
    try:
        return await handler(request)
    except PeerError as exc:
        return page("error.html", status=exc.status, message=str(exc))


async def clients(app: web.Application) -> AsyncIterator[None]:
    """The connections to the other services, open as long as the site is."""
    timeout = aiohttp.ClientTimeout(total=PEER_SECONDS)
    address = os.environ.get("VOTES_ADDRESS", "votes:80")
    async with (
        aiohttp.ClientSession(timeout=timeout, trust_env=True, cookie_jar=aiohttp.DummyCookieJar()) as session,
        grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel,
    ):
        app[HTTP], app[VOTES] = session, services.VotesStub(channel)
        yield


def main() -> None:
    app = web.Application(middlewares=[explain])
    app.add_routes(routes)
    app.cleanup_ctx.append(clients)
    port = int(os.environ.get("PORT", "8080"))
    print(f"web listens on 127.0.0.1:{port}", flush=True)
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None, shutdown_timeout=1.0)


if __name__ == "__main__":
    main()
