"""The part of the API that speaks of the API itself: whether it lives, and what it offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mesh.control.openapi import document
from mesh.control.routes import Answer, Request, Route

PLAIN = ((b"content-type", b"text/plain; charset=utf-8"),)


class MetaApi:
    """Handlers. The document is made once, when all routes are known."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._document = b"{}"

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        return [
            Route("GET", "/", "Where to look.", None, handler=self.index),
            Route("GET", "/healthz", "Whether the control plane lives.", None, handler=self.healthz, open=True),
            Route("GET", "/api/v1/openapi.json", "This document.", dict[str, Any], handler=self.openapi),
        ]

    def describe(self, routes: Sequence[Route]) -> None:
        """Makes the document."""
        self._document = msgspec.json.encode(document(routes, self._version))

    async def index(self, request: Request) -> Answer:
        text = f"conduit {self._version}: control plane\nAPI: /api/v1/openapi.json\n"
        return Answer(200, text.encode(), PLAIN)

    async def healthz(self, request: Request) -> Answer:
        return Answer(200, b"ok\n", PLAIN)

    async def openapi(self, request: Request) -> Answer:
        return Answer(200, self._document)
