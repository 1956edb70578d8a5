"""One connected proxy, as the control plane sees it: who it is, what it asked for, and what it has yet to be told."""

from __future__ import annotations

import trio

from mesh.control.cluster import ServiceKey
from mesh.control.plan import resolve
from mesh.control.speech import MAX_SUBSCRIPTIONS, MAX_WORD, Malformed
from mesh.model.api import ProxyInfo
from mesh.model.push import Hello


class Link:
    """What grows with a link is bounded: names by MAX_SUBSCRIPTIONS, all else by them or by the number of taps."""

    def __init__(self, hello: Hello) -> None:
        self.hello = hello
        self.workload = ServiceKey(hello.namespace, hello.workload)
        self.subscriptions: dict[str, ServiceKey | None] = {}
        self.dirty: dict[str, None] = {}  # in the order of becoming so: a busy name does not starve the others
        self.wake = trio.Event()
        self.pushed = 0
        self.pushed_at = 0.0
        self.acknowledged = 0
        self.nacks: dict[str, str] = {}
        self.tapping: set[int] = set()
        self.behind: set[ServiceKey] = set()
        self.refusal = ""
        self.scope = trio.CancelScope()

    def __repr__(self) -> str:
        return (
            f"<Link {self.hello.proxy} pushed={self.pushed} acknowledged={self.acknowledged} dirty={list(self.dirty)}>"
        )

    def subscribe(self, name: str) -> None:
        """Remembers the name, and that its meaning is due; raises Malformed where there are too many."""
        if len(name) > MAX_WORD:
            raise Malformed(f"a name of {len(name)} characters")
        if name not in self.subscriptions and len(self.subscriptions) >= MAX_SUBSCRIPTIONS:
            raise Malformed(f"more than {MAX_SUBSCRIPTIONS} subscriptions")
        self.subscriptions[name] = resolve(name, self.hello.namespace)
        self.mark(name)

    def unsubscribe(self, name: str) -> None:
        """Forgets the name."""
        self.subscriptions.pop(name, None)
        self.dirty.pop(name, None)
        self.nacks.pop(name, None)

    def mark(self, name: str) -> None:
        """The name's meaning is due."""
        self.dirty[name] = None
        self.wake.set()

    def info(self) -> ProxyInfo:
        """What people see of it."""
        hello = self.hello
        return ProxyInfo(
            proxy=hello.proxy,
            workload=hello.workload,
            namespace=hello.namespace,
            version=hello.version,
            admin=hello.admin,
            inbound=hello.inbound,
            outbound=hello.outbound,
            subscriptions=tuple(sorted(self.subscriptions)),
            acknowledged=self.acknowledged,
            nacks=dict(self.nacks),
        )
