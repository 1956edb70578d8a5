"""The part of the API that shows identities: what is trusted, who signs, and which proxy holds what."""

from __future__ import annotations

from mesh.control.authority import Authority
from mesh.control.push import Push
from mesh.control.routes import Answer, Request, Route, answer
from mesh.model.api import IdentityInfo


class IdentityApi:
    """Handlers. Without an authority the mesh has no identities, and the answer says so by being empty."""

    def __init__(self, push: Push, authority: Authority | None) -> None:
        self._push, self._authority = push, authority

    def routes(self) -> list[Route]:
        """Their rows of the table."""
        about = "Anchors, issuer, and whom the connected proxies speak for."
        return [Route("GET", "/api/v1/identity", about, IdentityInfo, handler=self.show)]

    async def show(self, request: Request) -> Answer:
        authority, proxies = self._authority, tuple(self._push.identities())
        if authority is None:
            return answer(IdentityInfo(proxies=proxies))
        anchors, issuer, serving = authority.shown()
        return answer(
            IdentityInfo(
                trust_domain=authority.trust_domain,
                lifetime=authority.lifetime,
                anchors=tuple(anchors),
                issuer=issuer,
                serving=serving,
                proxies=proxies,
                problem=authority.problem,
            )
        )
