"""Validate what the control plane says a service is, and put it in force; refuse it with a reason, and all stays as it
was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mesh.model.config import Service
from mesh.model.errors import ConfigError
from mesh.model.explain import Question, Step
from mesh.model.push import ServiceUpdate, Settings
from mesh.proxy.authority import split_address
from mesh.proxy.authorize import Compiled
from mesh.proxy.directory import Directory
from mesh.proxy.egress import Gate
from mesh.proxy.ext_authz import missing
from mesh.proxy.plan import Plan

if TYPE_CHECKING:
    from mesh.proxy.credentials import Credentials

WEIGHT_MOST = 1_000_000
ENDPOINTS_MOST = 10_000


def problem_with(service: Service) -> str | None:
    """Why this proxy cannot take `service`, as a sentence that names the field; None if it can."""
    if len(service.endpoints) > ENDPOINTS_MOST:
        return f"endpoints: {len(service.endpoints)} are more than {ENDPOINTS_MOST}"
    seen = set()
    for index, endpoint in enumerate(service.endpoints):
        field = f"endpoints[{index}]"
        try:
            split_address(endpoint.address)
        except ValueError as exc:
            return f"{field}.address: {exc}"
        if endpoint.address in seen:
            return f"{field}.address: {endpoint.address} is there twice"
        seen.add(endpoint.address)
        if not 0 <= endpoint.weight <= WEIGHT_MOST:
            return f"{field}.weight: {endpoint.weight} is not between 0 and {WEIGHT_MOST}"
    for name in service.timeouts.__struct_fields__:
        value = getattr(service.timeouts, name)
        if not value >= 0:  # nor is it NaN
            return f"timeouts.{name}: {value} is not a time of 0 s or more"
    try:
        for outbound in (True, False):  # at the caller's and beside the application: not the same parts are compiled
            Plan(service, outbound, None, 0.0)
    except ValueError as exc:
        return f"traffic: {exc}"
    if service.authorization is not None:
        try:
            Compiled(service.authorization)
        except ValueError as exc:
            return f"authorization: {exc}"
        if service.authorization.authorizers and (why := missing()):
            return f"authorization.authorizers: {why}"
    return None


class Apply:
    """The proxy's end of the control stream puts updates in here; `refused` counts those that were not taken."""

    def __init__(self, directory: Directory, credentials: Credentials | None = None) -> None:
        self._directory = directory
        self._credentials = credentials
        self.applied = self.refused = 0

    def apply(self, update: ServiceUpdate) -> str | None:
        """Put the update in force now. Returns None, or why it was refused."""
        if update.service is not None:
            problem = problem_with(update.service)
            if problem is not None:
                self.refused += 1
                return problem
        self._directory.apply(update.name, update.service)
        self.applied += 1
        return None

    def settle(self, settings: Settings) -> str | None:
        """Put what this proxy itself must know in force now. Returns None, or why it was refused."""
        problem = self._settle(settings)
        if problem is not None:
            self.refused += 1
        return problem

    def _settle(self, settings: Settings) -> str | None:
        try:
            Gate(settings.egress)
        except ValueError as exc:
            return f"egress: {exc}"
        if self._credentials is not None:
            try:
                self._credentials.follow(settings.anchors, settings.issuer)
            except ConfigError as exc:
                return str(exc)
        self._directory.follow(settings.egress)
        return None

    def explain(self, question: Question) -> tuple[Step, ...]:
        """What would become of a request, from what is in force now."""
        from mesh.proxy.explain import Explainer  # most proxies are never asked

        return Explainer(self._directory).explain(question)
