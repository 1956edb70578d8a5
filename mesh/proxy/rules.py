"""The rules of a policy, compiled: whether one holds for a peer, and for an operation (pure). Hot: once per request.

`authorize.py` states what all of it means."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import NamedTuple

from mesh.model.authorization import Action, Operation, Rule, Source
from mesh.model.identity import ANYBODY, Identity, parse
from mesh.model.paths import comparable

# --- operations ----------------------------------------------------------------------------------------------------


class CompiledOperation:
    """An `Operation`, compiled; `wide` for what a doubt goes against the caller."""

    __slots__ = (
        "_all_paths",
        "_exact",
        "_grpc",
        "_grpc_all",
        "_grpc_asked",
        "_methods",
        "_prefixes",
        "_suffixes",
        "_wide",
        "by_path",
        "text",
    )

    def __init__(self, operation: Operation, wide: bool) -> None:
        self._wide = wide
        self._methods = frozenset(method.encode() for method in operation.methods)
        exact: list[bytes] = []
        prefixes: list[bytes] = []
        suffixes: list[bytes] = []
        self._all_paths = not operation.paths
        for path in operation.paths:
            if path == "*":
                self._all_paths = True
            elif path.endswith("*"):
                prefixes.append(_literal(path[:-1], path))
            elif path.startswith("*"):
                suffixes.append(_literal(path[1:], path))
            else:
                exact.append(_literal(path, path))
        self._exact = frozenset(exact)
        self._prefixes = tuple(prefixes)
        self._suffixes = tuple(suffixes)
        self._grpc_asked = bool(operation.grpc_methods)
        self._grpc_all = "*" in operation.grpc_methods
        calls: list[bytes] = []
        services: list[bytes] = []
        for name in operation.grpc_methods:
            if name.endswith("/*"):
                services.append(_literal(f"/{name[:-1]}", name))
            elif name != "*":
                calls.append(_literal(f"/{name}", name))
        self._grpc = _Calls(frozenset(calls), tuple(services))
        self.by_path = not self._all_paths or (self._grpc_asked and not self._grpc_all)
        self.text = _operation_text(operation)

    def holds(self, method: bytes, path: bytes, grpc: bool) -> bool:
        """`path` is comparable."""
        methods = self._methods
        if methods and method not in methods and not (self._wide and method.upper() in methods):
            return False
        if self._grpc_asked and not (grpc and self._grpc_all) and not ((grpc or self._wide) and self._grpc.hold(path)):
            return False
        if self._all_paths or path in self._exact:
            return True
        for prefix in self._prefixes:
            if path.startswith(prefix):
                return True
        for suffix in self._suffixes:  # noqa: SIM110  # a generator costs what the rest does
            if path.endswith(suffix):
                return True
        return False


class _Calls:
    """gRPC methods, as the paths that they are called by."""

    __slots__ = ("_methods", "_services")

    def __init__(self, methods: frozenset[bytes], services: tuple[bytes, ...]) -> None:
        self._methods = methods
        self._services = services

    def hold(self, path: bytes) -> bool:
        return path in self._methods or path.startswith(self._services)


def any_holds(operations: list[CompiledOperation], method: bytes, path: bytes, grpc: bool) -> bool:
    """Whether one of them does; `path` is comparable."""
    for operation in operations:  # noqa: SIM110  # a generator costs what the rest does
        if operation.holds(method, path, grpc):
            return True
    return False


def _literal(text: str, whole: str) -> bytes:
    """What a pattern compares as it is. Raises ValueError."""
    if "*" in text:
        raise ValueError(f"{whole!r:.80} has a * elsewhere than at its beginning or its end")
    return comparable(text.encode())


def _operation_text(operation: Operation) -> str:
    said = [", ".join(each) for each in (operation.methods, operation.paths) if each]
    if operation.grpc_methods:
        said.append("gRPC " + ", ".join(operation.grpc_methods))
    return " ".join(said) or "all operations"


# --- sources -------------------------------------------------------------------------------------------------------

Network = IPv4Network | IPv6Network
Address = IPv4Address | IPv6Address


def networks(texts: tuple[str, ...]) -> tuple[Network, ...]:
    """CIDR blocks or addresses. Raises ValueError."""
    return tuple(ip_network(text) for text in texts)


def address_of(text: str) -> Address | None:
    """The address that a text is, an IPv4 one where it carries that; None for what is none."""
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def within(address: Address | None, blocks: tuple[Network, ...]) -> Network | None:
    """The first block that an address is in."""
    if address is not None:
        for block in blocks:
            if address in block:
                return block
    return None


class Peer(NamedTuple):
    """Who calls, as far as it counts."""

    identity: Identity | None
    name: str
    """The identity's DNS spelling; empty where there is none."""
    address: Address | None
    text: str
    """For sentences."""


class CompiledSource:
    """A `Source`, compiled. Raises ValueError for a pattern that nothing could match."""

    __slots__ = ("_anybody", "_names", "_namespaces", "_networks", "_source", "_suffixes")

    def __init__(self, source: Source) -> None:
        self._source = source
        self._anybody = False
        names: list[str] = []
        suffixes: list[str] = []
        for pattern in source.identities:
            if pattern == ANYBODY:
                self._anybody = True
            elif pattern.startswith("*."):
                suffixes.append(pattern[1:].lower())
            else:
                identity = parse(pattern)
                if identity is None:
                    raise ValueError(f"{pattern!r:.80} is no identity")
                names.append(str(identity))
        self._names = frozenset(names)
        self._suffixes = tuple(suffixes)
        self._namespaces = frozenset(source.namespaces)
        self._networks = networks(source.networks)

    def match(self, peer: Peer) -> str:
        """What of a peer matches, for people; empty if it does not."""
        said: list[str] = []
        if self._source.identities:
            name = peer.name
            if not name or not (self._anybody or name in self._names or name.endswith(self._suffixes)):
                return ""
            said.append(f"is {name}")
        if self._namespaces:
            if peer.identity is None or peer.identity.namespace not in self._namespaces:
                return ""
            said.append(f"is of namespace {peer.identity.namespace}")
        if self._networks:
            block = within(peer.address, self._networks)
            if block is None:
                return ""
            said.append(f"is in {block}")
        return " and ".join(said) or "is anybody"


class CompiledRule:
    """A `Rule`, compiled."""

    __slots__ = ("action", "name", "operations", "sources")

    def __init__(self, rule: Rule) -> None:
        self.name = rule.name
        self.action = rule.action
        self.sources = [CompiledSource(source) for source in rule.sources]
        self.operations = [CompiledOperation(operation, rule.action is Action.DENY) for operation in rule.operations]

    def match(self, peer: Peer) -> str:
        """What of a peer matches, for people; empty if the rule is for others."""
        for source in self.sources:
            matched = source.match(peer)
            if matched:
                return matched
        return "" if self.sources else "is anybody"
