"""The list of polls, over HTTP/2 in plain text (Starlette on Hypercorn).

Environment: PORT (default 8081), SEED (default 7) for how slow the archive is each time.
"""

import asyncio
import os
import random
import signal

from hypercorn.asyncio import serve
from hypercorn.config import Config
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

POLLS = {
    "breakfast": {"question": "What makes a good breakfast?", "choices": ["porridge", "eggs", "pancakes", "coffee"]},
    "office-plant": {"question": "Which plant joins the office?", "choices": ["fern", "cactus", "monstera"]},
    "team-name": {"question": "What shall the team be called?", "choices": ["Otters", "Lanterns", "Plan B", "Seven"]},
    "friday-lunch": {"question": "Friday lunch?", "choices": ["ramen", "tacos", "salad bar", "leftovers"]},
}
ARCHIVE = [{"year": year, "question": f"Best moment of {year}?"} for year in range(2015, 2025)]
ARCHIVE_SECONDS = (0.1, 0.3)  # the archive is on a slow disk

rng = random.Random(int(os.environ.get("SEED", "7")))


async def polls(request: Request) -> JSONResponse:
    return JSONResponse([{"slug": slug, "question": poll["question"]} for slug, poll in POLLS.items()])


async def poll(request: Request) -> JSONResponse:
    slug = request.path_params["slug"]
    found = POLLS.get(slug)
    if found is None:
        return JSONResponse({"error": f"there is no poll called {slug}"}, status_code=404)
    return JSONResponse({"slug": slug, **found})


async def archive(request: Request) -> JSONResponse:
    await asyncio.sleep(rng.uniform(*ARCHIVE_SECONDS))
    return JSONResponse(ARCHIVE)


app = Starlette(routes=[Route("/polls", polls), Route("/polls/{slug}", poll), Route("/archive", archive)])


async def main() -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    config = Config()
    config.bind = [f"127.0.0.1:{os.environ.get('PORT', '8081')}"]
    config.graceful_timeout = 0.5
    config.loglevel = "WARNING"
    print(f"catalog listens on {config.bind[0]}", flush=True)
    await serve(app, config, shutdown_trigger=stop.wait)


if __name__ == "__main__":
    asyncio.run(main())
