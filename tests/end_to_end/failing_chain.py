"""Applications that call one another: each passes the deadline that it was told on to the next, by way of its proxy.

They tell when they are cancelled, and stop working only then: an answer that says that the next one did not answer is
no reason to stop.
"""

import asyncio
from typing import Any

import httpx

from tests.end_to_end.failing_web import Web

DEADLINE = "conduit-timeout-ms"
SECONDS = 30.0


class Hop(Web):
    """One application of a chain. `next_url` is its proxy's listener for the next service; the last one has none, and
    does what its board says."""

    next_url = ""
    passes_on = True

    async def _http(self, scope: Any, receive: Any, send: Any) -> None:
        if not self.next_url:
            await super()._http(scope, receive, send)
            return
        await receive()
        self._note(scope, b"")
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        told = {DEADLINE: headers[DEADLINE]} if self.passes_on and DEADLINE in headers else {}
        gone = asyncio.ensure_future(receive())
        calling = asyncio.ensure_future(self._call(told))
        try:
            await asyncio.wait([gone, calling], return_when=asyncio.FIRST_COMPLETED)
            if calling.done() and calling.result() == 200:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": self.board.name.encode()})
                return
            await asyncio.wait([gone], timeout=SECONDS)
            if gone.done():
                self.board.gone()
        finally:
            gone.cancel()
            calling.cancel()
            await asyncio.gather(calling, return_exceptions=True)

    async def _call(self, headers: dict[str, str]) -> int:
        async with httpx.AsyncClient(trust_env=False, timeout=SECONDS, verify=False) as client:
            answer = await client.get(self.next_url, headers=headers)
        return answer.status_code
