"""PolicyPlugins that are Python: policies that a program writes from what the mesh is made of.

General theory. Every so often each plugin's *inputs* are looked at: its resource, its source files, and the workloads
and services of the mesh. Where they have changed, and two looks in a row saw the same, it is called in a worker thread
(entry_point.py). What it returns is checked as a file's content is, and takes the place of what it returned before, in
the cluster's state as a file of its own, `plugin:NAMESPACE/NAME`. Rules:

- A plugin that raises, returns what is wrong or takes longer than `deadline` is refused, with the reason in its
  resource's status; what it returned before stays in force. Other plugins, and all else, do not wait for it.
- Its last good policies are kept in the state folder: a control plane that starts anew with a plugin that is broken
  does not open what was closed.
- It writes AuthorizationPolicies, DefaultPolicies and EgressPolicies of its own namespace; of any namespace, if its
  target is the Mesh.
- A thread cannot be ended: one that never returns stays, and its plugin is refused as long as it does. There is at
  most one for each plugin.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from mesh.control.applied import SOURCE
from mesh.control.cluster import Cluster, Held, Key, ServiceKey
from mesh.control.entry_point import WRITTEN, Compiled, ServiceView, View, WorkloadView, call, frozen
from mesh.control.files import Seen, stat
from mesh.model.documents import Document, decode_resource
from mesh.model.errors import ConfigError
from mesh.model.identity import TRUST_DOMAIN, Identity, parse
from mesh.model.resources import Endpoint, PolicyPlugin, Resource, TargetKind, Workload

DEADLINE_SECONDS = 5.0
POLL_SECONDS = 0.3
RETRY_SECONDS = 30.0
"""After a failure, even if nothing has changed: it may have been late once."""
SCHEME = "plugin:"
KINDS = tuple(sorted(kind.kind for kind in WRITTEN))
PLUGIN_RANK = 2
"""What a person wrote goes before what a program did."""

Changed = Callable[[frozenset[ServiceKey]], None]
Shown = Callable[[Held], Held]


class Plugin:
    """One plugin, and what its last call was made for."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.file = file_of(key.namespace, key.name)
        self.resource: PolicyPlugin | None = None
        self.directory: Path | None = None
        self.files: tuple[str, ...] = ()
        self.settling: object = None
        self.done: object = None
        self.retry_at = math.inf
        self.running = False
        self.good = False
        """What it returned, now or in an earlier life of ours, is in force."""

    def __repr__(self) -> str:
        return f"<Plugin {self.file} running={self.running}>"

    def inputs(self, view: View) -> object:
        """Whatever its result may depend on, to be compared."""
        return self.resource, self.directory, self.stats(), view

    def stats(self) -> tuple[Seen | None, ...]:
        """What tells one version of its files from the next."""
        return tuple(stat(Path(file)) for file in self.files)


class Plugins:
    """All plugins. `shown` tells the file that a resource was written in, also where it was applied."""

    def __init__(
        self,
        cluster: Cluster,
        changed: Changed,
        shown: Shown,
        state: Path,
        log: structlog.typing.FilteringBoundLogger,
        *,
        trust_domain: str = TRUST_DOMAIN,
        deadline: float = DEADLINE_SECONDS,
    ) -> None:
        self._cluster, self._changed, self._shown, self._log = cluster, changed, shown, log
        self._folder = state / "plugins"
        self._trust_domain, self._deadline = trust_domain, deadline
        self._plugins: dict[Key, Plugin] = {}
        self._limiters: dict[Key, trio.CapacityLimiter] = {}
        """Each has the one thread that a plugin may have. They stay: so may the thread."""
        self._view: View | None = None
        self._viewed = -1

    def __repr__(self) -> str:
        return f"<Plugins {list(self._plugins.values())}>"

    async def prepare(self) -> None:
        """Calls all of them once, before anybody is told anything; returns when each has answered or is too late."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        plugins = self._look()
        for stale in set(self._folder.glob("*.json")) - {self._path(plugin.key) for plugin in plugins}:
            stale.unlink(missing_ok=True)
        async with trio.open_nursery() as nursery:
            for plugin in plugins:
                nursery.start_soon(self._run, plugin, self._seen())

    async def watch(self) -> None:
        """Looks again and again, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(POLL_SECONDS)
                for plugin in self._look():
                    inputs = plugin.inputs(self._seen())
                    if plugin.running or (inputs == plugin.done and trio.current_time() < plugin.retry_at):
                        continue
                    if inputs != plugin.settling:
                        plugin.settling = inputs  # it may still change: a person saves several files, replicas start
                        continue
                    plugin.running = True
                    nursery.start_soon(self._run, plugin, self._seen(), name=plugin.file)

    # --- what there is

    def _look(self) -> list[Plugin]:
        """The plugins that there are now; what those that are gone had written goes."""
        held = {}
        for each in self._cluster.held(PolicyPlugin.kind):
            resource = each.resource
            if isinstance(resource, PolicyPlugin) and resource.spec.python is not None:
                held[Key(resource.kind, resource.metadata.namespace, resource.metadata.name)] = each
        for key in self._plugins.keys() - held.keys():
            self._forget(self._plugins.pop(key))
        for key, each in held.items():
            plugin = self._plugins.get(key)
            if plugin is None:
                plugin = self._plugins[key] = Plugin(key)
            shown = self._shown(each)
            assert isinstance(shown.resource, PolicyPlugin)
            plugin.resource, entry = shown.resource, shown.resource.spec.python
            assert entry is not None
            folder = Path(shown.file).parent / entry.directory
            plugin.directory = Path(os.path.abspath(folder)) if entry.directory else None
        return list(self._plugins.values())

    def _seen(self) -> View:
        """The view of the cluster's present state; the same object while that is the same."""
        if self._view is None or self._viewed != self._cluster.version:
            view = view_of(self._cluster, self._trust_domain)
            self._viewed = self._cluster.version
            if view != self._view:
                self._view = view
        assert self._view is not None
        return self._view

    # --- one call

    async def _run(self, plugin: Plugin, view: View) -> None:
        """Calls it and takes in what it returns, whatever that is."""
        plugin.running = True
        resource, inputs, began = plugin.resource, plugin.inputs(view), time.time_ns()
        assert resource is not None
        assert resource.spec.python is not None
        compiled: Compiled | None = None
        try:
            with trio.move_on_after(self._deadline):
                compiled = await trio.to_thread.run_sync(
                    partial(call, resource.spec.python, plugin.directory, view),
                    abandon_on_cancel=True,
                    limiter=self._limiters.setdefault(plugin.key, trio.CapacityLimiter(1)),
                )
        finally:
            plugin.running = False
        if self._plugins.get(plugin.key) is not plugin:
            return  # it was taken away meanwhile
        if compiled is None:
            compiled = Compiled((), ConfigError(f"has not returned after {self._deadline:g} s"), plugin.files)
        plugin.done = inputs
        if compiled.files != plugin.files:
            plugin.files = compiled.files
            changed = any(each is not None and each.changed_ns >= began for each in plugin.stats())
            plugin.done = None if changed else plugin.inputs(view)
        plugin.retry_at = math.inf if compiled.error is None else trio.current_time() + RETRY_SECONDS
        self._take(plugin, resource, compiled)

    def _take(self, plugin: Plugin, resource: PolicyPlugin, compiled: Compiled) -> None:
        try:
            if compiled.error is not None:
                raise compiled.error
            self._put(plugin, resource, compiled.policies)
        except ConfigError as error:
            if not plugin.good:
                self._restore(plugin, resource)
            self._cluster.refuse_file(plugin.file, error, plugin.key)
            self._log.warning("plugin refused", plugin=plugin.file, reason=str(error))
            return
        try:
            write_whole(self._path(plugin.key), msgspec.json.encode(compiled.policies))
        except OSError as error:
            self._log.error("what a plugin returned cannot be kept", plugin=plugin.file, reason=str(error))

    def _put(self, plugin: Plugin, resource: PolicyPlugin, policies: Sequence[object]) -> None:
        resources = [checked(resource, plugin.file, index, policy) for index, policy in enumerate(policies)]
        changed = self._cluster.set_file(plugin.file, resources, rank=PLUGIN_RANK)
        plugin.good = True
        self._log.info("plugin called", plugin=plugin.file, policies=len(resources), version=self._cluster.version)
        if changed:
            self._changed(changed)

    # --- what is kept

    def _path(self, key: Key) -> Path:
        # Namespace and name are DNS labels, which decoding has checked: nothing in them can lead out of the folder.
        return self._folder / f"{key.namespace}.{key.name}.json"

    def _restore(self, plugin: Plugin, resource: PolicyPlugin) -> None:
        """Puts in force what it returned in an earlier life of ours, if that is known and still right."""
        try:
            kept = msgspec.json.decode(self._path(plugin.key).read_bytes(), type=list[dict[str, Any]])
            self._put(plugin, resource, kept)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError, ConfigError) as error:
            self._log.error("what a plugin returned before cannot be used", plugin=plugin.file, reason=str(error))

    def _forget(self, plugin: Plugin) -> None:
        self._path(plugin.key).unlink(missing_ok=True)
        changed = self._cluster.remove_file(plugin.file)
        self._log.info("plugin gone", plugin=plugin.file)
        if changed:
            self._changed(changed)


def file_of(namespace: str, name: str) -> str:
    """What a plugin's policies are from, where other resources name a file."""
    return f"{SCHEME}{namespace}/{name}"


def checked(plugin: PolicyPlugin, file: str, index: int, value: object) -> Resource:
    """One policy that a plugin returned, as a resource. Raises ConfigError where it is wrong, or not the plugin's to
    write."""
    home = plugin.metadata.namespace
    try:
        if not isinstance(value, dict):
            raise ConfigError("is no mapping of fields", file=file)
        if value.get("kind") not in KINDS:
            raise ConfigError(f"a plugin writes {', '.join(KINDS)}", file=file, field="kind")
        metadata = value.get("metadata")
        if isinstance(metadata, dict):
            value = {**value, "metadata": {"namespace": home, **metadata}}
        resource = decode_resource(Document(value, file, 0, {}))
        if resource.metadata.namespace != home and plugin.spec.target.kind is not TargetKind.MESH:
            reason = f"{resource.metadata.namespace!r} is not the plugin's namespace, {home}"
            raise ConfigError(reason, file=file, field="metadata.namespace")
    except ConfigError as exc:
        raise ConfigError(exc.reason, file=file, field=f"[{index}]" + (f".{exc.field}" if exc.field else "")) from exc
    return resource


def view_of(cluster: Cluster, trust_domain: str) -> View:
    """What plugins are told of the mesh: workloads that are declared, and those that are only seen as endpoints."""
    found: dict[ServiceKey, WorkloadView] = {}
    for each in cluster.held(Endpoint.kind):
        resource = each.resource
        assert isinstance(resource, Endpoint)
        name, home, service = resource.spec.workload, resource.metadata.namespace, resource.spec.service
        who = parse(resource.spec.identity) or Identity(name, home, trust_domain)
        found[ServiceKey(home, name)] = WorkloadView(name, home, service, who.account, str(who), frozen({}), frozen({}))
    for each in cluster.held(Workload.kind):
        declared = each.resource
        assert isinstance(declared, Workload)
        name, home, spec = declared.metadata.name, declared.metadata.namespace, declared.spec
        who = Identity(spec.account or name, home, trust_domain)
        service = (spec.service or name) if spec.port is not None else ""
        labels, notes = dict(declared.metadata.labels), dict(declared.metadata.annotations)
        notes.pop(SOURCE, None)
        view = WorkloadView(name, home, service, who.account, str(who), frozen(labels), frozen(notes))
        found[ServiceKey(home, name)] = view
    workloads = tuple(found[key] for key in sorted(found))
    services = tuple(ServiceView(key.name, key.namespace, behind(cluster, key)) for key in cluster.services())
    namespaces = {workload.namespace for workload in workloads} | {service.namespace for service in services}
    return View(workloads, services, tuple(sorted(namespaces)))


def behind(cluster: Cluster, service: ServiceKey) -> tuple[str, ...]:
    """The names of the workloads behind a service."""
    members = cluster.members(service)
    if members is None:
        return ()
    return tuple(sorted({w.metadata.name for w in members.workloads} | {e.spec.workload for e in members.endpoints}))


def write_whole(path: Path, content: bytes) -> None:
    """By rename, so that nobody reads half of it. Raises OSError."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
