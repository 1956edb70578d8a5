"""A service whose policies are switched while it runs, those who call it, and the same questions asked of `explain`.

`Deciding` is a control plane and whatever proxies hang on it. All that is sent here is sent on plain sockets and by
grpcio, so that what is compared is what a client sees.
"""

from __future__ import annotations

import json
import selectors
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import yaml

from mesh.control.tokens import proxy_token
from mesh.model.identity import Identity
from mesh.proxy.health_check import AGENT
from tests.conftest import Handle
from tests.end_to_end.sidecar import Config, Sidecar, Starter, wait_until
from tests.end_to_end.tcp_server import TcpServer, read_head, reset, serving
from tests.end_to_end.tls_peer import Files
from tests.end_to_end.traffic_yaml import OURS
from tests.end_to_end.trusting import Trusting

SECONDS = 30.0
PREFACE = b"PRI * HTTP/2.0"
WORDS = b"\x00words\n"
"""What no protocol that is told apart begins with."""


class Said(NamedTuple):
    """An answer over HTTP/1.1."""

    status: int
    headers: dict[str, str]
    body: bytes


class Line:
    """An HTTP/1.1 connection on which requests may be sent before earlier ones are answered."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._left = b""

    def ask(
        self, method: str, path: str, host: str, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> None:
        """One request."""
        fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        length = f"Content-Length: {len(body)}\r\n" if body or method in ("POST", "PUT") else ""
        self.sock.sendall(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{fields}{length}\r\n".encode() + body)

    def answer(self) -> Said:
        """The next answer. ConnectionError where there is none."""
        head, rest = read_head(self.sock, self._left)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", "0"))
        while len(rest) < length:
            more = self.sock.recv(1 << 16)
            if not more:
                raise ConnectionError("the peer has closed within a body")
            rest += more
        self._left = rest[length:]
        return Said(int(first.split(" ")[1]), headers, rest[:length])

    def close(self) -> None:
        self.sock.close()


class Any1(grpc.GenericRpcHandler):
    """Answers each unary call with what it was sent; counts them by method."""

    def __init__(self) -> None:
        self.calls: dict[str, int] = {}

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        self.calls[details.method] = self.calls.get(details.method, 0) + 1
        return grpc.unary_unary_rpc_method_handler(lambda request, context: request)


class Application:
    """Speaks HTTP/1.1, gRPC and an echo on one port, as it is spoken to. `requests` counts those over HTTP/1.1, but for
    the health `checks` of proxies; `connections` those that are neither."""

    def __init__(self, grpc_port: int) -> None:
        self.requests = self.checks = self.connections = 0
        self._grpc_port = grpc_port
        self.port = 0

    def handle(self, sock: socket.socket) -> None:
        """One connection, to its end."""
        data = sock.recv(1 << 16)
        if data.startswith(PREFACE[: len(data)]) and data:
            with socket.create_connection(("127.0.0.1", self._grpc_port), timeout=SECONDS) as further:
                further.sendall(data)
                splice(sock, further)
        elif data[:1].isalpha():
            while True:
                head, data = read_head(sock, data)
                if AGENT in head:
                    self.checks += 1
                else:
                    self.requests += 1
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nyes")
        elif data:
            self.connections += 1
            while data:
                sock.sendall(data)
                data = sock.recv(1 << 16)


def splice(one: socket.socket, other: socket.socket) -> None:
    """Bytes both ways until either side closes; in one thread, as TLS wants it."""
    ways = {one: other, other: one}
    with selectors.DefaultSelector() as waiting:
        for sock in ways:
            waiting.register(sock, selectors.EVENT_READ)
        while True:
            for key, _ in waiting.select(SECONDS):
                source: Any = key.fileobj
                while True:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    ways[source].sendall(data)
                    if not (isinstance(source, ssl.SSLSocket) and source.pending()):
                        break


class Way:
    """How one caller reaches the service: sockets from its address, in TLS if it has a certificate, or through the
    proxy beside it."""

    def __init__(
        self,
        port: int,
        *,
        source: str = "127.0.0.1",
        files: Files | None = None,
        name: str = "",
        through: str = "",
    ) -> None:
        """`files` prove who it is to the proxy called `name`; `through` is the authority to ask an outbound proxy
        for."""
        self.through = through
        self._port, self._source, self._name = port, source, name
        self._context: ssl.SSLContext | None = None
        if files is not None:
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
            self._context.load_cert_chain(files.cert, files.key)

    def dial(self) -> socket.socket:
        """A connection for HTTP."""
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=SECONDS, source_address=(self._source, 0))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock if self._context is None else self._context.wrap_socket(sock, server_hostname=self._name)

    def echoed(self) -> bool:
        """Whether a connection that is not HTTP is carried to the application, and back."""
        with self.dial() as sock:
            try:
                if self.through:
                    sock.sendall(f"CONNECT {self.through}:80 HTTP/1.1\r\nHost: {self.through}:80\r\n\r\n".encode())
                    head, rest = read_head(sock)
                    assert head.startswith(b"HTTP/1.1 200"), head
                    assert rest == b""
                sock.sendall(WORDS)
                answer = sock.recv(100)
            except OSError:
                return False
            if answer:
                assert answer == WORDS
                reset(sock)
            return bool(answer)

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """For gRPC; grpcio binds no address and shows no certificate of another's choice, so that a relay does."""
        authority = self.through or "cart"
        options = (
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.enable_retries", 0),
            ("grpc.default_authority", authority),
        )
        with ExitStack() as stack:
            port = self._port
            if self._context is not None or self._source != "127.0.0.1":

                def handle(sock: socket.socket) -> None:
                    with self.dial() as further:
                        splice(sock, further)

                port = stack.enter_context(serving(handle)).port
            yield stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{port}", options=options))


class Deciding:
    """A control plane over whose API policies are switched, and its proxies."""

    def __init__(self, run: Callable[..., Handle], start: Starter, folder: Path, port: int) -> None:
        self.trusting = Trusting(run, start, folder, port)
        self._host = f"127.0.0.1:{port}"
        self._address = ("127.0.0.1", port)
        self._lines: list[Line] = []
        self._kept: set[tuple[str, str, str]] = set()
        self._changes = 0
        self._endpoints: dict[str, Config] = {}
        """Of proxies beside a service, by workload."""

    # --- the API

    def line(self) -> Line:
        """A connection to the API."""
        return Line(socket.create_connection(self._address, timeout=SECONDS))

    def ask(self, method: str, path: str, body: bytes = b"", by: Line | None = None) -> Any:
        """One request to the API, which must be granted."""
        if not self._lines:
            self._lines.append(self.line())
        line = by or self._lines[0]
        self.send(line, method, path, body)
        return self.heard(line)

    def send(self, line: Line, method: str, path: str, body: bytes = b"") -> None:
        """The same in two halves."""
        line.ask(method, path, self._host, {"Authorization": f"Bearer {self.trusting.token}"}, body)

    def heard(self, line: Line) -> Any:
        said = line.answer()
        assert said.status == 200, said
        return json.loads(said.body)

    def explain(self, to: str, **ask: Any) -> dict[str, Any]:
        """The trace of a request; `sender` stands for `from`."""
        if "sender" in ask:
            ask["from"] = ask.pop("sender")
        found: dict[str, Any] = self.ask("POST", "/api/v1/explain", json.dumps({"to": to, **ask}).encode())
        return found

    def acknowledged(self) -> dict[str, int]:
        """Version that each proxy has in force, by workload."""
        rows = self.ask("GET", "/api/v1/proxies")
        return {f"{row['workload']}.{row['namespace']}": row["acknowledged"] for row in rows}

    def put(self, *documents: Config | str) -> set[tuple[str, str, str]]:
        """Put resources in force; returns their keys when each proxy beside a service says that they are.

        So that each has something to say, its endpoint is another one each time, in what nothing depends on."""
        self._changes += 1
        for endpoint in self._endpoints.values():
            endpoint["spec"]["zone"] = f"change-{self._changes}"
        before = self.acknowledged()
        told = [*documents, *self._endpoints.values()]
        text = "\n---\n".join(each if isinstance(each, str) else json.dumps(each) for each in told)
        rows = self.ask("PUT", "/api/v1/resources", text.encode())
        keys = {(row["kind"], row["namespace"], row["name"]) for row in rows if row["kind"].endswith("Policy")}
        self._kept |= keys

        def all_have() -> bool:
            now = self.acknowledged()
            return all(now.get(proxy, 0) > before.get(proxy, 0) for proxy in self._endpoints)

        wait_until(all_have, f"{list(self._endpoints)} have heard of it")
        return keys

    def only(self, *documents: Config | str) -> None:
        """Put these policies in force, and take all others away that were."""
        stale = self._kept - self.put(*documents)
        if not stale:
            return
        for kind, namespace, name in sorted(stale):
            self.ask("DELETE", f"/api/v1/resources/{kind}/{namespace}/{name}")
        self._kept -= stale
        self.put()

    # --- proxies

    def proxy(
        self,
        workload: str,
        namespace: str,
        *,
        account: str = "",
        certified: bool = True,
        inbound: Sequence[Config] = (),
        **more: Any,
    ) -> Sidecar:
        """A proxy that is ready. Without being `certified` it has no identity."""
        trusting, account = self.trusting, account or workload
        link = {
            "url": trusting.url,
            "token": proxy_token(trusting.token, workload, namespace, account),
            "workload": workload,
            "namespace": namespace,
            "anchors": str(trusting.files.anchors),
        }
        if certified:
            more["identity"] = {"account": account, "namespace": namespace}
        sidecar = trusting.start(inbound=inbound, control=link, name=workload, **more)
        wait_until(lambda: sidecar.ask("/ready")[0] == 200, f"{workload}.{namespace} is ready")
        wait_until(lambda: f"{workload}.{namespace}" in self.acknowledged(), f"{workload}.{namespace} is connected")
        return sidecar

    def serve(self, sidecar: Sidecar, service: str, workload: str, namespace: str, *, which: int = 0) -> None:
        """One of its inbound listeners is an endpoint of a service from now on."""
        spec = {
            "service": service,
            "workload": workload,
            "address": f"127.0.0.1:{sidecar.inbound[which]}",
            "meshed": True,
            "identity": str(Identity(workload, namespace)),
        }
        metadata = {"name": f"{workload}-{sidecar.inbound[which]}", "namespace": namespace}
        made = {"apiVersion": OURS, "kind": "Endpoint", "metadata": metadata, "spec": spec}
        self.ask("PUT", "/api/v1/resources", yaml.safe_dump(made).encode())
        wait_until(lambda: self.acknowledged()[f"{workload}.{namespace}"] > 0, "the proxy has heard of its service")
        self._endpoints[f"{workload}.{namespace}"] = made


@contextmanager
def application() -> Iterator[tuple[Application, Any1]]:
    """One that runs, and what counts its gRPC calls."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(16) as pool:
        calls = Any1()
        server = grpc.server(pool, handlers=[calls])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            made = Application(port)
            with serving(made.handle) as tcp:
                made.port = tcp.port
                yield made, calls
        finally:
            server.stop(None).wait()


def policy(
    kind: str, name: str, namespace: str, target: str = "Namespace", named: str = "", /, **spec: Any
) -> dict[str, Any]:
    """A document of one of our kinds; `from_` stands for `from`."""
    told: dict[str, Any] = {"kind": target, **({"name": named} if named else {})}
    if "from_" in spec:
        spec["from"] = spec.pop("from_")
    return {
        "apiVersion": OURS,
        "kind": kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"target": told, **spec},
    }


__all__ = [
    "Any1",
    "Application",
    "Deciding",
    "Line",
    "Said",
    "TcpServer",
    "Way",
    "application",
    "policy",
]
