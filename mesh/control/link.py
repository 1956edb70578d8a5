"""One connected proxy, as the control plane sees it: who it is, what it asked for, and what it has yet to be told."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

import trio

from mesh.control.cluster import ServiceKey
from mesh.control.plan import resolve
from mesh.control.speech import MAX_SUBSCRIPTIONS, MAX_WORD, Malformed
from mesh.model.api import ProxyInfo
from mesh.model.authorization import Egress
from mesh.model.push import FromControl, Hello

MAX_WAITING = 32
"""Messages of `send` that a proxy has yet to take: answers to what it or a person asked."""
SIGNS_PER_SECOND = 2.0
SIGNS_AT_ONCE = 5.0
"""Certificates for one proxy: it needs one in hours, or one a second where that is how long they hold."""


class Known(NamedTuple):
    """What the Settings last sent to a proxy said, without their version."""

    anchors: str = ""
    issuer: str = ""
    egress: Egress = Egress()


class Link:
    """What grows with a link is bounded: names by MAX_SUBSCRIPTIONS, all else by them, MAX_WAITING or the number of
    taps.

    `account` is whom its certificates name, as its token says. `id` tells it from all other proxies: what it calls
    itself, unless another workload's proxy has that name already.
    """

    def __init__(self, hello: Hello, account: str = "") -> None:
        self.hello = hello
        self.id = hello.proxy
        self.account = account or hello.workload
        self.workload = ServiceKey(hello.namespace, hello.workload)
        self.settings: Known | None = None
        self.settled = 0
        self.certificate_ends = 0.0
        self.certificate_issuer = ""
        self.waiting: deque[FromControl] = deque()
        self._signs, self._signs_at = SIGNS_AT_ONCE, 0.0
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
        self.skew = 0.0
        self.scope = trio.CancelScope()

    def __repr__(self) -> str:
        return f"<Link {self.id} pushed={self.pushed} acknowledged={self.acknowledged} dirty={list(self.dirty)}>"

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

    def send(self, message: FromControl) -> bool:
        """Has the message sent soon, in its turn; False where the proxy has too many to take already."""
        if len(self.waiting) >= MAX_WAITING:
            return False
        self.waiting.append(message)
        self.wake.set()
        return True

    def may_sign(self, now: float) -> bool:
        """Whether the proxy may have one more certificate at `now` (seconds); if so, it counts as had."""
        self._signs = min(SIGNS_AT_ONCE, self._signs + max(now - self._signs_at, 0.0) * SIGNS_PER_SECOND)
        self._signs_at = now
        if self._signs < 1:
            return False
        self._signs -= 1
        return True

    def resync(self) -> None:
        """All that the proxy must know is due again."""
        self.settings = None
        for name in self.subscriptions:
            self.mark(name)
        self.wake.set()

    def info(self) -> ProxyInfo:
        """What people see of it."""
        hello = self.hello
        return ProxyInfo(
            proxy=self.id,
            workload=hello.workload,
            namespace=hello.namespace,
            version=hello.version,
            admin=hello.admin,
            inbound=hello.inbound,
            outbound=hello.outbound,
            subscriptions=tuple(sorted(self.subscriptions)),
            acknowledged=self.acknowledged,
            nacks=dict(self.nacks),
            skew=self.skew,
        )
