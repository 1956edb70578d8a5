"""Visitors: sends the web site a realistic mix of requests at a steady average rate.

It waits until the site is ready, looks at the pages to learn which polls there are, and starts. Arrivals are random
and do not wait for answers, except that at most IN_FLIGHT visits are under way at a time.

Environment: WEB_URL (http://web), RPS (default 80), VISITS (default 0: no end), SEED (default 7).
"""

import asyncio
import os
import random
import re
import signal
import time
from collections import Counter, deque

import aiohttp

IN_FLIGHT = 128  # more than this means that the site is overloaded, and more load would tell nothing
LATE_SECONDS = 1.0  # how far behind the rate we may fall and still catch up
MIX = {"home": 30, "poll": 32, "vote": 22, "receipt": 8, "archive": 3, "live": 2, "lost": 3}


class Visitors:
    """Everybody who visits the site; `answers` counts what they were told, by status class."""

    def __init__(self, session: aiohttp.ClientSession, rng: random.Random) -> None:
        self.session = session
        self.rng = rng
        self.polls: dict[str, list[str]] = {}
        self.ballots: deque[str] = deque(["b000001"], maxlen=100)
        self.answers: Counter[str] = Counter()

    async def wait_until_ready(self) -> None:
        said = ""
        while True:
            try:
                async with self.session.get("/ready") as reply:
                    if reply.status == 200:
                        return
                    told = f"it answers {reply.status}"
            except (aiohttp.ClientError, TimeoutError) as exc:
                told = str(exc) or type(exc).__name__
            if told != said:
                print(f"load waits for the site: {told}", flush=True)
                said = told
            await asyncio.sleep(0.1)

    async def look_around(self) -> None:
        async with self.session.get("/") as reply:
            slugs = re.findall(r'href="/polls/([\w-]+)"', await reply.text())
        for slug in slugs:
            async with self.session.get(f"/polls/{slug}") as reply:
                self.polls[slug] = re.findall(r'name="choice" value="([^"]+)"', await reply.text())

    async def visit(self, kind: str) -> None:
        """One request of a kind named in MIX. A failure to answer is counted, not raised."""
        slug = self.rng.choice(list(self.polls))
        form = None
        match kind:
            case "home":
                path = "/"
            case "poll":
                path = f"/polls/{slug}"
            case "vote":
                path, form = f"/polls/{slug}/votes", {"choice": self.rng.choice(self.polls[slug])}
            case "receipt":
                path = f"/receipts/{self.rng.choice(self.ballots)}"
            case "archive":
                path = "/archive"
            case "live":
                path = f"/polls/{slug}/live"
            case _:
                path = "/polls/lost-and-found"
        method = "POST" if form else "GET"
        try:
            async with self.session.request(method, path, data=form, allow_redirects=False) as reply:
                await reply.read()
        except (aiohttp.ClientError, TimeoutError):
            self.answers["none"] += 1
            return
        self.answers[f"{reply.status // 100}xx"] += 1
        if ballot := reply.headers.get("location", "").partition("?ballot=")[2]:
            self.ballots.append(ballot)

    async def come(self, rps: float, visits: int) -> None:
        """Visits at `rps` a second on average, `visits` of them or, if that is 0, for ever."""
        kinds, weights = list(MIX), list(MIX.values())
        room = asyncio.Semaphore(IN_FLIGHT)
        at = time.monotonic()
        begun = 0
        async with asyncio.TaskGroup() as under_way:
            while not visits or begun < visits:
                at = max(at + self.rng.expovariate(rps), time.monotonic() - LATE_SECONDS)
                if (wait := at - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                await room.acquire()
                [kind] = self.rng.choices(kinds, weights)
                under_way.create_task(self.visit(kind)).add_done_callback(lambda _: room.release())
                begun += 1


async def main() -> None:
    rps = float(os.environ.get("RPS", "80"))
    rng = random.Random(int(os.environ.get("SEED", "7")))
    async with aiohttp.ClientSession(
        os.environ.get("WEB_URL", "http://web"),
        timeout=aiohttp.ClientTimeout(total=10),
        trust_env=True,
        connector=aiohttp.TCPConnector(limit=IN_FLIGHT),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        visitors = Visitors(session, rng)
        task = asyncio.current_task()
        assert task is not None
        for signum in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(signum, task.cancel)
        began = time.monotonic()
        try:
            await visitors.wait_until_ready()
            await visitors.look_around()
            print(f"load begins: {rps:g} visits a second", flush=True)
            began = time.monotonic()
            await visitors.come(rps, int(os.environ.get("VISITS", "0")))
        except asyncio.CancelledError:
            pass  # a signal: nobody else cancels the main task, and there is nothing left to do but to sum up
        finally:
            answers = " ".join(f"{answer}={n}" for answer, n in sorted(visitors.answers.items()))
            total, seconds = visitors.answers.total(), time.monotonic() - began
            print(f"load ends: {total} visits in {seconds:.1f} s: {answers}", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
