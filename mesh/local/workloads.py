"""Which workloads the YAML and what was applied ask for, and what one workload's replicas do to get there.

A group converges on the newest thing asked of it and never works off a queue. A changed workload is rolled: one new
replica at a time, and the old one goes when the new one answers; where the port is a fixed number, it must go first. A
new version that never answers stops the roll where it is, so that the old replicas go on serving.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
import trio

from mesh.control.applied import folder_of, without_source
from mesh.control.files import look
from mesh.local.replica import Place, Replica
from mesh.model.documents import decode_resource, load_documents
from mesh.model.errors import ConfigError
from mesh.model.resources import Workload


class Wanted(NamedTuple):
    """A workload and the folder that its `directory` is relative to."""

    workload: Workload
    directory: Path


class WorkloadKey(NamedTuple):
    """What a workload is addressed by."""

    namespace: str
    name: str


def read_workloads(
    sources: Sequence[Path], environment: Mapping[str, Mapping[str, str]] = {}
) -> dict[WorkloadKey, Wanted]:
    """Every Workload in the files and folders; raises ConfigError where one is wrong or stands there twice.

    `environment` has variables by workload's name, which go over what the file says.
    """
    wanted: dict[WorkloadKey, Wanted] = {}
    for path, workload in workloads_in(sources):
        key = key_of(workload)
        if key in wanted:
            raise ConfigError(f"a second Workload {key.namespace}/{key.name}", file=str(path))
        wanted[key] = Wanted(with_environment(workload, environment), path.parent.resolve())
    return wanted


def read_applied(folder: Path, environment: Mapping[str, Mapping[str, str]] = {}) -> dict[WorkloadKey, Wanted]:
    """Every Workload that the control plane keeps in this folder, with the folder of the file it was applied from.

    Raises ConfigError where one cannot be read, which only an edit behind the control plane's back brings about.
    """
    wanted: dict[WorkloadKey, Wanted] = {}
    for path, kept in workloads_in([folder]):
        workload, source = without_source(kept)
        assert isinstance(workload, Workload)
        directory = folder_of(source or str(path))
        wanted[key_of(workload)] = Wanted(with_environment(workload, environment), directory)
    return wanted


def workloads_in(sources: Sequence[Path]) -> Iterator[tuple[Path, Workload]]:
    """The Workloads in files and folders, each with its file; raises ConfigError, also for what other kinds get
    wrong."""
    for source in sources:
        for path in look(source):
            try:
                text = path.read_text()
            except FileNotFoundError:
                continue  # gone since we looked
            except (OSError, UnicodeDecodeError) as exc:
                raise ConfigError(f"cannot be read: {exc}", file=str(path)) from exc
            for document in load_documents(text, str(path)):
                resource = decode_resource(document)
                if isinstance(resource, Workload):
                    yield path, resource


def key_of(workload: Workload) -> WorkloadKey:
    """What it is addressed by."""
    return WorkloadKey(workload.metadata.namespace, workload.metadata.name)


def with_environment(workload: Workload, environment: Mapping[str, Mapping[str, str]]) -> Workload:
    """The workload with the variables that stand under its name."""
    over = environment.get(workload.metadata.name)
    if not over:
        return workload
    spec = msgspec.structs.replace(workload.spec, environment={**workload.spec.environment, **over})
    return msgspec.structs.replace(workload, spec=spec)


class Member(NamedTuple):
    """One replica that runs, and the handles to end it."""

    ordinal: int
    replica: Replica
    wanted: Wanted
    scope: trio.CancelScope
    gone: trio.Event


class Group:
    """The replicas of one workload."""

    def __init__(self, wanted: Wanted, place: Place) -> None:
        self.wanted: Wanted | None = wanted
        self.place = place
        self.members: list[Member] = []
        self._ordinal = 0
        self._changed = trio.Event()

    def want(self, wanted: Wanted | None) -> None:
        """From now on this; None: nothing, and `run` returns when all replicas are gone."""
        if wanted != self.wanted:
            self.wanted = wanted
            self._changed.set()

    async def run(self) -> None:
        """Converges until nothing is wanted any more."""
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                await self._converge(nursery, self._changed)
                if self.wanted is None and not self.members:
                    return
                await self._changed.wait()

    async def _converge(self, nursery: trio.Nursery, changed: trio.Event) -> None:
        wanted = self.wanted
        count = wanted.workload.spec.replicas if wanted else 0
        # Those least useful go first: what is not current or not ready, then what is youngest.
        self.members.sort(key=lambda m: (is_current(m, wanted), m.replica.ready.is_set(), -m.ordinal))
        while len(self.members) > count:
            await self._stop(self.members[0])
        if wanted is None:
            return
        while len(self.members) < count:
            self._start(nursery, wanted)
        for old in [member for member in self.members if not is_current(member, wanted)]:
            if changed.is_set():
                return
            if isinstance(wanted.workload.spec.port, int):
                await self._stop(old)
                self._start(nursery, wanted)
                continue
            new = self._start(nursery, wanted)
            await first_of(new.replica.ready, changed)
            if not new.replica.ready.is_set():
                return  # something else is wanted by now
            await self._stop(old)

    def _start(self, nursery: trio.Nursery, wanted: Wanted) -> Member:
        self._ordinal += 1
        name = f"{wanted.workload.metadata.name}-{self._ordinal}"
        replica = Replica(name, wanted.workload, wanted.directory, self.place)
        member = Member(self._ordinal, replica, wanted, trio.CancelScope(), trio.Event())
        self.members.append(member)
        nursery.start_soon(self._live, member, name=name)
        return member

    async def _live(self, member: Member) -> None:
        try:
            with member.scope:
                await member.replica.run()
        finally:
            self.members.remove(member)
            member.gone.set()

    async def _stop(self, member: Member) -> None:
        member.scope.cancel()
        await member.gone.wait()


def is_current(member: Member, wanted: Wanted | None) -> bool:
    """Whether it is as is wanted now; how many there should be is no difference."""
    if wanted is None or member.wanted.directory != wanted.directory:
        return False
    ours, theirs = member.wanted.workload, wanted.workload
    return ours.metadata == theirs.metadata and msgspec.structs.replace(ours.spec, replicas=0) == (
        msgspec.structs.replace(theirs.spec, replicas=0)
    )


async def first_of(*events: trio.Event) -> None:
    """Returns when any of them is set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
