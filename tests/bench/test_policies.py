"""conduit and Envoy are told the same policies, accept them, and apply them to the benchmark's requests."""

import http.client
import http.server
import os
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from bench import peers
from bench.peers import Ports, build
from bench.policies import ELSEWHERE, RETRIES, RULES, SERVICE
from bench.process import free_ports, running, wait_listening
from bench.run import Plan, execute
from bench.scenarios import SCENARIOS, SMALL_PATH, Protocol, Scenario
from mesh.model.proxy_yaml import load_proxy_config, resources_in
from mesh.model.traffic import PathMatch
from mesh.proxy.route import Routes
from mesh.proxy.run import service_of
from mesh.wire.head import Head

CORE = min(os.sched_getaffinity(0))
PROXIES = ("conduit", "envoy")
TAKEN = next(at for at, rule in enumerate(RULES) if rule.service == SERVICE)
"""The rule of the load."""


class Failing(http.server.BaseHTTPRequestHandler):
    """503 as often as `failures` says, then 200; `seen` counts requests."""

    protocol_version = "HTTP/1.1"
    failures = 0
    seen = 0

    def do_GET(self) -> None:
        kind = type(self)
        kind.seen += 1
        self.send_response(503 if kind.seen <= kind.failures else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet."""


@contextmanager
def back_end(failures: int) -> Iterator[tuple[type[Failing], tuple[int, ...]]]:
    """A server on two ports that fails first; its handler, which counts, and the ports."""
    handler = type("Handler", (Failing,), {"failures": failures})
    with ExitStack() as stack:
        ports = []
        for _ in range(2):
            server = stack.enter_context(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            stack.callback(thread.join)
            stack.callback(server.shutdown)
            ports.append(server.server_port)
        yield handler, tuple(ports)


@contextmanager
def proxy(name: str, upstreams: tuple[int, ...], folder: Path) -> Iterator[Ports]:
    """The proxy with its policies, in front of HTTP/1.1."""
    listen, admin = free_ports(2)
    ports = Ports(listen, upstreams, admin)
    config = folder / f"{name}.conf"
    peer = build(name, "http1", ports, config, governed=True)
    # What no endpoint takes is answered soon.
    config.write_text(peer.config + ("limits: {pending_timeout: 0.5}\n" if name == "conduit" else ""))
    with running(name, peer.command, CORE, config.with_suffix(".log")) as program:
        wait_listening(program, listen)
        yield ports


def status(port: int, path: str, headers: dict[str, str]) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    finally:
        connection.close()


def written(name: str, protocol: Protocol) -> str:
    return build(name, protocol, Ports(1111, (2222, 2223), 3333), Path("proxy.conf"), governed=True).config


@pytest.fixture
def routes() -> Routes:
    """conduit's routes, as the proxy makes them of its file."""
    config = load_proxy_config(written("conduit", "http2"), "proxy.yaml")
    service = service_of(SERVICE, config.services[SERVICE], resources_in(config), config.services)
    assert service.traffic.routed
    return Routes(service.traffic.routes)


def request(path: str, *fields: tuple[bytes, bytes]) -> Head:
    return Head.request(b"GET", path.encode(), authority=b"x", fields=fields)


def test_the_table_stands_in_the_order_of_precedence(routes: Routes) -> None:
    """conduit, which sorts, tries the rules in the order in which Envoy, which does not, is given them."""
    found = [one.route.match.path or PathMatch() for one in routes.compiled]
    assert [(path.kind.value, path.value) for path in found] == [(rule.kind, rule.path) for rule in RULES]
    assert [one.rank for one in routes.compiled if not one.route.backends[0].service] == [TAKEN]
    assert not any(backend.problem for one in routes.compiled for backend in one.route.backends)


def test_the_load_takes_a_late_rule(routes: Routes) -> None:
    """The requests of every scenario with policies take the one rule that leads to the back end, late in the
    table."""
    assert len(RULES) // 2 <= TAKEN
    for scenario in SCENARIOS:
        if scenario.policies:
            found = routes.find(request(scenario.path))
            assert found is not None
            assert found.rank == TAKEN
    canary = routes.find(request(SMALL_PATH, (b"x-canary", b"yes")))
    assert canary is not None
    assert canary.route.backends[0].service == ELSEWHERE


def test_conduit_applies_every_policy() -> None:
    """Of conduit's file arrive routes with timeouts, retries with a budget, the breaker and both limits."""
    config = load_proxy_config(written("conduit", "http2"), "proxy.yaml")
    service = service_of(SERVICE, config.services[SERVICE], resources_in(config), config.services)
    traffic = service.traffic
    assert [endpoint.address for endpoint in service.endpoints] == ["127.0.0.1:2222", "127.0.0.1:2223"]
    assert {(route.timeout, route.try_timeout) for route in traffic.routes} == {(10.0, 3.0)}
    assert traffic.retry is not None
    assert (traffic.retry.attempts, traffic.retry.statuses, traffic.budget.percent) == (2, (502, 503, 504), 20.0)
    assert (traffic.breaker.failures, traffic.breaker.eject_most) == (5, 50.0)
    assert [limit.per_second for limit in traffic.rate_limits] == [1_000_000]
    assert traffic.concurrency is not None
    assert (traffic.concurrency.most, traffic.concurrency.adaptive) == (10_000, False)


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_envoy_accepts_its_configuration(protocol: Protocol, tmp_path: Path) -> None:
    """Envoy itself finds nothing wrong with the file."""
    config = tmp_path / "envoy.json"
    config.write_text(written("envoy", protocol))
    command = [peers.executable("envoy"), "--mode", "validate", "-c", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", PROXIES)
def test_both_retry(name: str, tmp_path: Path) -> None:
    """The client sees no error where no more tries failed than there are retries, and one where one more did."""
    with back_end(RETRIES) as (seen, upstreams), proxy(name, upstreams, tmp_path) as ports:
        assert status(ports.listen, SMALL_PATH, {}) == 200
        assert seen.seen == RETRIES + 1
    with back_end(RETRIES + 1) as (seen, upstreams), proxy(name, upstreams, tmp_path) as ports:
        assert status(ports.listen, SMALL_PATH, {}) == 503
        assert seen.seen == RETRIES + 1


@pytest.mark.parametrize("name", PROXIES)
def test_both_route(name: str, tmp_path: Path) -> None:
    """Only requests of the load's rule reach the back end: a run in which others did would fail."""
    with back_end(0) as (seen, upstreams), proxy(name, upstreams, tmp_path) as ports:
        assert status(ports.listen, "/", {}) == 503
        assert status(ports.listen, SMALL_PATH + "er", {}) == 503
        assert status(ports.listen, "/orders/7/items", {}) == 503
        assert status(ports.listen, SMALL_PATH, {"x-canary": "yes"}) == 503
        assert seen.seen == 0
        assert status(ports.listen, SMALL_PATH, {"x-canary": "no"}) == 200
        assert seen.seen == 1


def test_envoy_counts_what_passes_its_policies(tmp_path: Path) -> None:
    """The rate limit and the breaker are in force: the one has counted the request, the other watches both
    endpoints."""
    with back_end(0) as (_, upstreams), proxy("envoy", upstreams, tmp_path) as ports:
        assert status(ports.listen, SMALL_PATH, {}) == 200
        with urllib.request.urlopen(f"http://127.0.0.1:{ports.admin}/stats", timeout=20) as answer:
            lines = dict(line.rsplit(": ", 1) for line in answer.read().decode().splitlines() if ": " in line)
    assert lines["echo.http_local_rate_limit.enforced"] == "0"
    assert lines["echo.http_local_rate_limit.ok"] == "1"
    assert lines["cluster.echo.outlier_detection.ejections_active"] == "0"
    assert lines["cluster.echo.circuit_breakers.default.rq_open"] == "0"


@pytest.mark.parametrize("protocol", ["http1", "http2"])
def test_a_small_benchmark_with_policies(protocol: Protocol, tmp_path: Path) -> None:
    """Both proxies, and no others, carry a scenario with policies without a failed request."""
    scenario = Scenario("small", "", protocol, 4, 4 if protocol == "http2" else 1, requests=200, policies=True)
    samples = execute(Plan([scenario], ["conduit", "envoy", "haproxy"], 1, CORE, CORE), lambda line: None)
    assert [(one.peer, one.error) for one in samples] == [("conduit", ""), ("envoy", "")]
