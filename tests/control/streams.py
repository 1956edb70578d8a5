"""A proxy's end of a control stream, made of two memory channels, and a control plane's push side for it to meet."""

import msgspec
import trio

from mesh.control.aggregate import Aggregate
from mesh.control.cluster import Cluster, ServiceKey
from mesh.control.issuer import Certificate, NotSigned
from mesh.control.push import Push
from mesh.control.tap import Taps
from mesh.control.tokens import ADMIN
from mesh.model.errors import PeerError
from mesh.model.push import Alive, FromControl, Hello, Settings, Welcome
from mesh.model.resources import Endpoint, EndpointSpec, Metadata, Workload, WorkloadSpec

HELLO = Hello("web", "demo", "web/h/1", "0.1")
WORDS = ServiceKey("demo", "words")


class FakeSocket:
    """A proxy's end: what it says is queued, what it is told is taken when it likes."""

    def __init__(self):
        self.to_control, self.heard = trio.open_memory_channel(100)
        self.told, self.from_control = trio.open_memory_channel(0)

    async def receive(self):
        try:
            return await self.heard.receive()
        except trio.EndOfChannel:
            raise PeerError("gone") from None

    async def send(self, message, deadline):
        with trio.move_on_after(deadline) as scope:
            try:
                await self.told.send(message)
            except trio.BrokenResourceError:
                raise PeerError("gone") from None
        if scope.cancelled_caught:
            raise PeerError("takes nothing")

    def say(self, message):
        self.to_control.send_nowait(msgspec.json.encode(message))

    async def hear(self, kind=None):
        """The next message, or the next of a kind."""
        while True:
            message = msgspec.json.decode(await self.from_control.receive(), type=FromControl)
            if kind is None or isinstance(message, kind):
                return message


class Signer:
    """Signs by writing the name; refuses the request `bad`."""

    trust_domain = "cluster.local"
    anchors = "roots"
    fingerprint = "first"

    def sign(self, csr, identity):
        if csr == "bad":
            raise NotSigned("the request cannot be read")
        return Certificate(f"{csr} for {identity}", 0.0, 1000.0)


class Bench:
    """A control plane's push side with one service, words, of one workload, words-v1."""

    def __init__(self, log, signer=None):
        self.cluster, self.taps = Cluster(), Taps()
        self.aggregate = Aggregate(trio.current_time())
        self.push = Push(self.cluster, self.aggregate, self.taps, "epoch", log, signer=signer)
        self.cluster.set_file(
            "f", [Workload(Metadata("words-v1", "demo"), WorkloadSpec(("x",), service="words", port="auto"))]
        )

    def set_endpoints(self, *addresses):
        resources = [
            Endpoint(Metadata(f"w{n}", "demo"), EndpointSpec("words", "words-v1", address))
            for n, address in enumerate(addresses)
        ]
        self.push.changed(self.cluster.set_file("e", resources))

    def requests(self, direction="inbound"):
        window = self.aggregate.window(trio.current_time(), 0)
        return {s.service: c.requests for s, c in window.cells.items() if s.direction == direction}

    async def serve(self, socket, bearer=ADMIN):
        with socket.told:  # closed at the end, so that a test that still listens is told
            await self.push.serve(socket, bearer)

    async def connect(self, nursery, hello=HELLO, bearer=ADMIN):
        socket = FakeSocket()
        nursery.start_soon(self.serve, socket, bearer)
        socket.say(hello)
        assert isinstance(await socket.hear(), Welcome)
        assert isinstance(await socket.hear(), Settings)
        return socket


def addresses(update):
    return [endpoint.address for endpoint in update.service.endpoints]


async def keep_hearing(socket, answer=True):
    while True:
        await socket.hear()
        if answer:
            socket.say(Alive(0))
