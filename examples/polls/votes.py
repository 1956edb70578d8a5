"""Counts ballots in memory and tells the count, over gRPC.

Environment: PORT (default 50051). The stubs are made from votes.proto when the program starts.
"""

import asyncio
import os
import signal
from collections import Counter, defaultdict
from collections.abc import AsyncIterator

import grpc

messages, services = grpc.protos_and_services("votes.proto")


class Votes(services.VotesServicer):
    """The ballot box. It trusts its caller to know which polls and choices exist."""

    def __init__(self) -> None:
        self.polls: dict[str, Counter[str]] = defaultdict(Counter)
        self.cast = 0

    async def Cast(self, ballot, context):
        if not ballot.poll or not ballot.choice:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "a ballot needs a poll and a choice")
        self.cast += 1
        count = self.polls[ballot.poll]
        count[ballot.choice] += 1
        return messages.Receipt(ballot=f"b{self.cast:06}", total=count.total())

    async def Tally(self, request, context):
        return self._count(request.poll)

    async def Turnout(self, request, context):
        ballots = {poll: count.total() for poll, count in self.polls.items()}
        return messages.Count(ballots=ballots, total=self.cast)

    async def Watch(self, request, context) -> AsyncIterator:
        if not 1 <= request.updates <= 100 or not 20 <= request.interval_ms <= 10_000:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "updates: 1 to 100, interval_ms: 20 to 10000")
        yield self._count(request.poll)
        for _ in range(request.updates - 1):
            await asyncio.sleep(request.interval_ms / 1000)
            yield self._count(request.poll)

    def _count(self, poll: str):
        count = self.polls.get(poll, Counter())
        return messages.Count(ballots=count, total=count.total())


async def main() -> None:
    stop = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    # Two programs must not share a port by accident, which gRPC would otherwise allow.
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    services.add_VotesServicer_to_server(Votes(), server)
    port = server.add_insecure_port(f"127.0.0.1:{os.environ.get('PORT', '50051')}")
    await server.start()
    print(f"votes listens on 127.0.0.1:{port}", flush=True)
    await stop.wait()
    await server.stop(grace=0.5)


if __name__ == "__main__":
    asyncio.run(main())
