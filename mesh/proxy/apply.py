"""Validate what the control plane says a service is, and put it in force; refuse it with a reason, and all stays as it
was."""

from __future__ import annotations

from mesh.model.config import Service
from mesh.model.push import ServiceUpdate
from mesh.proxy.authority import split_address
from mesh.proxy.directory import Directory
from mesh.proxy.plan import Plan

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
    return None


class Apply:
    """The proxy's end of the control stream puts updates in here; `refused` counts those that were not taken."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
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
