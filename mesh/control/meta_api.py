"""The part of the API that speaks of the API itself: whether it lives, and what it offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from mesh.control.openapi import document
from mesh.control.routes import Answer, Request, Route


class MetaApi:
    """Handlers. The document is made once, when all routes are known."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._document = b"{}"

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        return [
            Route("GET", "/healthz", "Whether the control plane lives.", None, handler=self.healthz, open=True),
            Route("GET", "/api/v1/openapi.json", "This document.", dict[str, Any], handler=self.openapi),
        ]

    def describe(self, routes: Sequence[Route]) -> None:
        """Makes the document."""
        self._document = msgspec.json.encode(document(routes, self._version))

    async def healthz(self, request: Request) -> Answer:
        return Answer(200, b"ok\n", ((b"content-type", b"text/plain"),))

    async def openapi(self, request: Request) -> Answer:
        return Answer(200, self._document)
