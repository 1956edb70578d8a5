"""The requests that were tapped lately, each with what became of it: so that `explain` can be asked about one by id."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from mesh.control.cluster import ServiceKey
from mesh.model.explain import Happened
from mesh.model.reports import TapEvent

MOST = 1_000
"""Requests; the one whose head came first goes."""


class RequestKey(NamedTuple):
    """Whose proxy saw it, and the id that tap shows. A workload's replicas may use an id twice: the last one counts."""

    workload: ServiceKey
    id: str


class Tapped:
    """One request: its `head` (the req event), and the last event that has come of it."""

    __slots__ = ("head", "last", "workload")

    def __init__(self, workload: ServiceKey, head: TapEvent) -> None:
        self.workload = workload
        self.head = self.last = head

    def happened(self) -> Happened:
        """What became of it so far."""
        last = self.last
        return Happened(
            at=self.head.at,
            status=last.status,
            grpc_status=last.grpc_status,
            outcome=last.outcome,
            error=last.error,
            route=last.route or self.head.route,
            endpoint=last.dst or self.head.dst,
            policy=last.policy or self.head.policy,
            audited=last.audited or self.head.audited,
            tls=last.tls,
        )


class Recent:
    """The last MOST of them, while taps run."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[RequestKey, Tapped] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Recent {len(self._kept)} of {self._most}>"

    def add(self, workload: ServiceKey, event: TapEvent) -> None:
        """A proxy of this workload saw it."""
        key = RequestKey(workload, event.id)
        if event.event == "req":
            known = self._kept.get(key)
            if known is not None and known.head == event:
                return  # another tap shows it too
            self._kept.pop(key, None)
            if len(self._kept) >= self._most:
                self._kept.popitem(last=False)
            self._kept[key] = Tapped(workload, event)
        elif (tapped := self._kept.get(key)) is not None:
            tapped.last = event

    def find(self, workload: str, id: str) -> list[Tapped]:
        """Those of a workload (`name` or `name.namespace`) with this id: one, unless namespaces share a name."""
        return [
            tapped
            for key, tapped in self._kept.items()
            if key.id == id and workload in (key.workload.name, f"{key.workload.name}.{key.workload.namespace}")
        ]
