"""The whole proxy: built from its configuration, served, drained; in this process, and as one of its own."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import sys
from types import SimpleNamespace

import pytest
import trio

from mesh.model.config import (
    ControlLink,
    InboundListener,
    OutboundListener,
    Protocol,
    ProxyConfig,
    ProxyIdentity,
    ServiceEntry,
    Timeouts,
    TlsFiles,
)
from mesh.model.errors import ConfigError
from mesh.model.limits import Limits
from mesh.model.resources import Metadata, TrafficPolicy, TrafficPolicySpec
from mesh.model.traffic import Injection, RateLimit, Retry
from mesh.proxy.run import LOG_BYTES, Proxy, codec_factory, log, raise_descriptor_limit, service_of
from mesh.wire.codec import Role

SECURE = ControlLink("https://127.0.0.1:1", "secret", "web-0", anchors="anchors.pem")
GET = b"GET / HTTP/1.1\r\nHost: votes\r\n\r\n"


def http1(gate: trio.Event | None = None, asked: trio.Event | None = None):
    async def handle(stream: trio.SocketStream) -> None:
        while await stream.receive_some():
            if asked is not None:
                asked.set()
            if gate is not None:
                await gate.wait()
            await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")

    return handle


# --- building ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ngh2", "h2"])
def test_both_codecs_can_be_had(name: str) -> None:
    """Each is a factory of codecs that speak HTTP/2."""
    codec = codec_factory(name)(Role.CLIENT, Limits())
    assert codec.name == "http2"


def test_another_codec_is_a_config_error() -> None:
    """It names the field and what there is."""
    with pytest.raises(ConfigError, match="http2_codec: 'http3' is none of ngh2, h2"):
        codec_factory("http3")


def test_a_services_entry_becomes_a_service() -> None:
    """Endpoints in short or long form; a TrafficPolicy says more."""
    entry = ServiceEntry(("127.0.0.1:1",), Protocol.HTTP1)
    assert service_of("votes", entry, (), {"votes"}).protocol is Protocol.HTTP1
    spec = TrafficPolicySpec(service="votes", protocol=Protocol.HTTP2, timeouts=Timeouts(request=2.0))
    service = service_of("votes", entry, [TrafficPolicy(Metadata("votes"), spec)], {"votes"})
    assert (service.protocol, service.timeouts.request) == (Protocol.HTTP2, 2.0)
    assert [endpoint.address for endpoint in service.endpoints] == ["127.0.0.1:1"]


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (ProxyConfig(services={"votes": ServiceEntry(("127.0.0.1",))}), "services.votes"),
        (ProxyConfig(outbound=(OutboundListener("nonsense"),)), "outbound[0].listen"),
        (ProxyConfig(outbound=(OutboundListener("127.0.0.1:0", "nobody"),)), "outbound[0].service"),
        (ProxyConfig(inbound=(InboundListener("127.0.0.1:0", "nonsense"),)), "inbound[0].forward"),
        (ProxyConfig(http2_codec="http3"), "http2_codec"),
        (ProxyConfig(identity=ProxyIdentity("web")), "control"),
        (ProxyConfig(identity=ProxyIdentity("web"), control=ControlLink("http://127.0.0.1:1", "t", "w")), "control"),
        (ProxyConfig(identity=ProxyIdentity("web"), control=ControlLink("https://127.0.0.1:1", "t", "w")), "control"),
        (ProxyConfig(identity=ProxyIdentity("Web!"), control=SECURE), "identity"),
        (ProxyConfig(services={"votes": ServiceEntry(tls=TlsFiles("/no", "/no", "/no"))}), "/no: cert"),
    ],
)
def test_a_wrong_configuration_is_refused_with_its_field(config: ProxyConfig, field: str) -> None:
    """Before anything runs, as a ConfigError that says where."""
    with pytest.raises(ConfigError) as caught:
        Proxy(config)
    assert field in str(caught.value)


def policies(service: str) -> list[TrafficPolicy]:
    """A policy with a retry, a fault and a limit."""
    spec = TrafficPolicySpec(
        service=service, retry=Retry(), faults=(Injection(delay=1.0),), rate_limits=(RateLimit(1.0),)
    )
    return [TrafficPolicy(Metadata(service), spec)]


@pytest.mark.parametrize("service", ["votes", "web", "other"])
def test_inline_resources_reach_both_directions(service: str) -> None:
    """A service that is called gets all of its policy, the application beside us its limits; others get nothing."""
    config = ProxyConfig(
        outbound=(OutboundListener("127.0.0.1:0", "votes"),),
        inbound=(InboundListener("127.0.0.1:0", "127.0.0.1:2", service="web"),),
        services={"votes": ServiceEntry(("127.0.0.1:1",))},
    )
    proxy = Proxy(config, policies(service))
    called = proxy.directory.services["votes"].plan
    (beside,) = proxy.directory.inbound["web"]
    assert (called.retrying is not None, called.faults is not None) == (service == "votes",) * 2
    assert (called.rates is not None) is (service == "votes")
    assert (beside.plan.rates is not None) is (service == "web")
    assert beside.plan.retrying is None
    assert beside.plan.faults is None


def test_a_proxy_asks_for_the_policies_of_its_own_applications() -> None:
    """By the names of its inbound listeners, and of nothing before it is called."""
    config = ProxyConfig(
        inbound=(
            InboundListener("127.0.0.1:0", "127.0.0.1:2", service="web"),
            InboundListener("127.0.0.1:0", "127.0.0.1:3"),
        ),
        control=ControlLink("http://127.0.0.1:1", "secret", "web-0"),
    )
    proxy = Proxy(config)
    assert "wanted=['web']" in repr(proxy.subscriptions)
    assert "secret" not in repr(proxy.subscriptions)
    proxy.directory.resolve(b"votes", b"http")
    assert "wanted=['web', 'votes']" in repr(proxy.subscriptions)


def test_an_identity_reaches_both_ends() -> None:
    """What proves it is at hand for dialling and accepting; without a certificate the proxy is not ready."""
    identity = ProxyIdentity("web", "demo")
    inbound = (InboundListener("127.0.0.1:0", "127.0.0.1:2", service="web"),)
    proxy = Proxy(ProxyConfig(identity=identity, control=SECURE, inbound=inbound))
    name = "web.demo.serviceaccount.identity.cluster.local"
    assert proxy.credentials is not None
    assert proxy.credentials.name == name
    assert proxy.directory.resolve(b"votes", b"http").shared.credentials is proxy.credentials
    assert proxy.reports.certificate() == (0.0, 0, 0)
    assert proxy.unready() == "the control plane has not been reached yet"
    assert proxy.subscriptions is not None
    proxy.subscriptions.ever_connected = True
    assert proxy.unready() == "no certificate yet: none has been asked for yet"
    assert Proxy(ProxyConfig()).reports.certificate() is None


def test_the_proxys_zone_reaches_its_services() -> None:
    """For balancing that prefers it."""
    proxy = Proxy(ProxyConfig(zone="north", services={"votes": ServiceEntry(("127.0.0.1:1",))}))
    assert proxy.directory.services["votes"].shared.zone == "north"


def test_log_lines_are_json_whatever_is_in_them(capfd) -> None:
    """Line breaks and escape sequences of a peer's cannot forge a line."""
    log("event", "who\n", "detail\x1b[31m\nforged")
    (line,) = capfd.readouterr().err.splitlines()
    assert json.loads(line)["detail"] == "detail\x1b[31m\nforged"
    assert "\x1b" not in line


def test_log_lines_are_bounded_and_have_a_level(capfd) -> None:
    """A long traceback keeps its end, which says most; the line still is JSON that a pipe takes in one piece."""
    log("connection_failed", "who", "first\n" + "x\n" * 10_000 + "ValueError: last")
    (line,) = capfd.readouterr().err.splitlines()
    assert len(line) < LOG_BYTES
    said = json.loads(line)
    assert said["level"] == "error"
    assert said["detail"].endswith("ValueError: last")
    log("signal", "w" * 10_000, "SIGTERM")
    assert json.loads(capfd.readouterr().err)["level"] == "info"


def test_a_log_that_nobody_reads_does_not_block() -> None:
    """With the pipe behind stderr full, a line is lost and the proxy goes on."""
    reader, writer = os.pipe()
    kept = os.dup(2)
    try:
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"x" * 4096)
        os.set_blocking(writer, True)
        os.dup2(writer, 2)
        log("event", "who", "detail")
        assert set(os.read(reader, 1 << 20)) == {ord("x")}
    finally:
        os.dup2(kept, 2)
        for descriptor in (reader, writer, kept):
            os.close(descriptor)


def test_the_descriptor_limit_is_raised_as_far_as_it_goes() -> None:
    """Never lowered, never past the hard limit."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        raise_descriptor_limit(1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == before
        raise_descriptor_limit(1 << 40)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert soft == hard == before[1] or before[1] == resource.RLIM_INFINITY
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# --- serving ----------------------------------------------------------------------------


@pytest.fixture
def start(nursery: trio.Nursery, serve, free_port):
    """Await it with a handler and limits: a running proxy in front of it, its addresses, its end, how to cancel it."""

    async def run(handler, codec: str = "ngh2", **limits: object):
        admin, outbound, inbound = (f"127.0.0.1:{free_port()}" for _ in range(3))
        address = await serve(handler)
        config = ProxyConfig(
            admin=admin,
            outbound=(OutboundListener(outbound, "votes"),),
            inbound=(InboundListener(inbound, address, service="web"),),
            services={"votes": ServiceEntry((address,))},
            limits=Limits(**limits),
            http2_codec=codec,
        )
        proxy = Proxy(config)
        ended = trio.Event()

        async def supervise(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                await proxy.serve(task_status)
            ended.set()

        scope = trio.CancelScope()
        await nursery.start(supervise)
        return SimpleNamespace(
            proxy=proxy, admin=admin, outbound=outbound, inbound=inbound, ended=ended, cancel=scope.cancel
        )

    return run


async def test_both_directions_serve_and_are_counted(start, dialled, received) -> None:
    """A request out and a request in; /metrics tells both; /ready and /tasks answer."""
    running = await start(http1())
    for address in (running.outbound, running.inbound):
        async with await dialled(address) as client:
            await client.send_all(GET)
            assert (await received(client, b"ok")).startswith(b"HTTP/1.1 200 ")
    async with await dialled(running.admin) as client:
        ask = b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n"
        await client.send_all(ask % (b"/metrics", b"") + ask % (b"/tasks", b""))
        await client.send_all(ask % (b"/ready", b"Connection: close\r\n"))
        text = (await received(client)).decode()
    assert 'request_total{authority="votes"' in text
    assert 'direction="outbound"' in text
    assert 'request_total{authority="web"' in text
    assert 'direction="inbound"' in text
    listeners = f"outbound {running.outbound}", f"inbound {running.inbound}"
    for name in ("reactor", "deadlines", "upstreams", "admin", "votes", *listeners):
        assert f"  {name}" in text, name
    assert text.endswith("ready\n")


async def test_drain_finishes_what_is_under_way_and_ends(start, dialled, received) -> None:
    """Unready at once; the request is answered; then the proxy ends by itself, long before the timeout."""
    gate, asked = trio.Event(), trio.Event()
    running = await start(http1(gate, asked), drain_grace=0.01, drain_timeout=300.0)
    proxy, outbound = running.proxy, running.outbound
    async with await dialled(outbound) as busy, await dialled(outbound), trio.open_nursery() as nursery:
        await busy.send_all(GET)
        with trio.fail_after(30):
            await asked.wait()
        assert proxy.unready() is None
        nursery.start_soon(proxy.drain)
        await trio.testing.wait_all_tasks_blocked()
        assert proxy.unready() == "draining"
        assert not running.ended.is_set()
        gate.set()
        answer = await received(busy)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"ok")
        with trio.fail_after(30):
            await running.ended.wait()
    with pytest.raises(OSError):
        await dialled(outbound)


async def test_drain_cuts_off_what_does_not_end(start, dialled, received) -> None:
    """At most `drain_timeout`, whatever clients and applications do."""
    asked = trio.Event()
    running = await start(http1(trio.Event(), asked), drain_grace=0.01, drain_timeout=0.2)
    async with await dialled(running.outbound) as stuck:
        await stuck.send_all(GET)
        with trio.fail_after(30):
            await asked.wait()
            await running.proxy.drain()
            await running.ended.wait()
        assert b"HTTP/1.1 200" not in await received(stuck)


async def test_cancelling_it_leaves_nothing(start, dialled, received) -> None:
    """Its owner's cancellation ends every task and closes every socket."""
    running = await start(http1())
    async with await dialled(running.outbound) as client:
        await client.send_all(GET)
        await received(client, b"ok")
        running.cancel()
        assert await received(client) == b""
    with trio.fail_after(30):
        await running.ended.wait()
    assert not running.proxy.reactor.channels


async def test_it_serves_with_the_reference_codec(start, dialled, received) -> None:
    """Where ngh2 has no wheel."""
    running = await start(http1(), codec="h2")
    async with await dialled(running.outbound) as client:
        await client.send_all(GET)
        assert (await received(client, b"ok")).startswith(b"HTTP/1.1 200 ")


# --- a process of its own ---------------------------------------------------------------

PROGRAM = """
import resource, sys
from mesh.model.config import OutboundListener, ProxyConfig, ServiceEntry
from mesh.model.limits import Limits
from mesh.proxy import run
listen, target, descriptors = sys.argv[1], sys.argv[2], int(sys.argv[3])
if descriptors:
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
config = ProxyConfig(
    outbound=(OutboundListener(listen, "votes"),),
    services={"votes": ServiceEntry((target,))},
    limits=Limits(drain_grace=0.01, drain_timeout=300.0),
)
sys.exit(run.main(config))
"""


async def launched(processes, target: str, port: int, descriptors: int = 0):
    argv = [sys.executable, "-c", PROGRAM, f"127.0.0.1:{port}", target, str(descriptors)]
    return await trio.to_thread.run_sync(lambda: processes(argv, ready_port=port))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_0(processes, serve, free_port, dialled, received, number: int) -> None:
    """The request under way is answered before the process ends."""
    gate, asked = trio.Event(), trio.Event()
    port = free_port()
    process = await launched(processes, await serve(http1(gate, asked)), port)
    async with await dialled(f"127.0.0.1:{port}") as client:
        await client.send_all(GET)
        with trio.fail_after(30):
            await asked.wait()
        process.send_signal(number)
        gate.set()
        assert (await received(client)).endswith(b"ok")
    assert await trio.to_thread.run_sync(process.wait) == 0


async def test_a_second_signal_ends_it_at_once(processes, serve, free_port, dialled, received, until) -> None:
    """Who asks twice does not want to wait for a drain."""
    asked = trio.Event()
    port = free_port()
    process = await launched(processes, await serve(http1(trio.Event(), asked)), port)
    async with await dialled(f"127.0.0.1:{port}") as client:
        await client.send_all(GET)
        with trio.fail_after(30):
            await asked.wait()
        process.send_signal(signal.SIGTERM)
        await until(lambda: b"SIGTERM" in process.stderr.read_bytes())
        process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(process.wait)


async def test_descriptors_that_run_out_come_back(processes, serve, free_port, dialled, received, until) -> None:
    """At the limit of the process: those connected are served, no CPU is burnt, those that waited get their turn."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    process = await launched(processes, await serve(http1()), port, descriptors=40)
    first = await dialled(address)
    await first.send_all(GET)
    await received(first, b"ok")
    crowd = [socket.create_connection(("127.0.0.1", port)) for _ in range(60)]
    await first.send_all(GET)
    assert (await received(first, b"ok")).startswith(b"HTTP/1.1 200 ")
    last = await dialled(address)
    await last.send_all(GET)
    with open(f"/proc/{process.pid}/stat") as stat:
        before = sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
    with trio.move_on_after(0.5):
        await last.receive_some()
    with open(f"/proc/{process.pid}/stat") as stat:
        used = sum(map(int, stat.read().rpartition(")")[2].split()[11:13])) - before
    assert used / os.sysconf("SC_CLK_TCK") < 0.3
    for sock in crowd:
        sock.close()
    assert (await received(last, b"ok")).startswith(b"HTTP/1.1 200 ")
    await first.aclose()
    await last.aclose()
    process.terminate()
    assert await trio.to_thread.run_sync(process.wait) == 0
