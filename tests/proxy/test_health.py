"""Thresholds as a table of results, and the loop that asks, by a clock that jumps."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from types import SimpleNamespace

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from mesh.model.config import Endpoint as EndpointSpec
from mesh.model.limits import Limits
from mesh.model.traffic import HealthCheck, HealthKind
from mesh.proxy.cluster import Shared
from mesh.proxy.health import Health, watch
from mesh.proxy.health_check import Unhealthy
from mesh.proxy.report import Reports
from mesh.wire.http2 import Http2

# --- thresholds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("results", "fit"),
    [
        ("", True),
        ("--", True),
        ("---", False),
        ("--+--", True),
        ("---+", False),
        ("---++", True),
        ("---+-+", False),
        ("---++--", True),
        ("---++---", False),
    ],
)
def test_results_in_a_row_decide(results: str, fit: bool) -> None:
    """Three failures in a row make an endpoint unfit, two passes in a row make it fit again."""
    health = Health(HealthCheck(unhealthy=3, healthy=2))
    for result in results:
        if result == "+":
            health.passed()
        else:
            health.failed("answered 503")
    assert health.fit is fit
    assert health.cause == ("" if fit else "answered 503")


@given(st.lists(st.booleans()), st.integers(0, 4), st.integers(0, 4))
def test_a_change_is_told_exactly_when_there_is_one(results: list[bool], unhealthy: int, healthy: int) -> None:
    """What `passed` and `failed` return says whether `fit` is another than before; the cause is that of the last."""
    health = Health(HealthCheck(unhealthy=unhealthy, healthy=healthy))
    for number, passes in enumerate(results):
        before = health.fit
        changed = health.passed() if passes else health.failed(str(number))
        assert changed is (health.fit is not before)
        assert bool(health.cause) is not health.fit
        if not passes and not health.fit:
            assert health.cause == str(number)


def test_repr_tells_the_state() -> None:
    """Fit or not, why, and how far it is from the other."""
    health = Health(HealthCheck(unhealthy=2))
    health.failed("answered 500")
    assert repr(health) == "<Health fit, 1 in a row against it>"
    health.failed("answered 500")
    assert repr(health) == "<Health unfit (answered 500), 0 in a row against it>"


# --- the loop -------------------------------------------------------------------------------------------------------


class Watched:
    """An endpoint that is only watched: notes when it was told of a change, and what it was then."""

    def __init__(self, health: Health, address: str = "127.0.0.1:1") -> None:
        self.address = address
        self.spec = EndpointSpec(address)
        self.cluster = SimpleNamespace(http2=None)
        self.health = health
        self.told: list[tuple[float, bool]] = []
        self.changed = trio.Event()

    def health_changed(self) -> None:
        self.told.append((trio.current_time(), self.health.fit))
        self.changed.set()
        self.changed = trio.Event()


def shared(logged: list[tuple[str, str, str]]) -> Shared:
    limits = Limits()
    return Shared(
        SimpleNamespace(), limits, Reports(limits.metric_series), Random(1).random, Http2, lambda *a: logged.append(a)
    )


async def run(
    policy: HealthCheck, seconds: float, checks: Callable[[int], object]
) -> tuple[Watched, list[float], list[tuple[str, str, str]]]:
    """Watch for so long, where the n-th check is `await checks(n)`; the endpoint, when it was asked, what was
    logged."""
    asked: list[float] = []
    logged: list[tuple[str, str, str]] = []

    async def check(*_: object, **__: object) -> None:
        asked.append(trio.current_time())
        await checks(len(asked) - 1)

    health = Health(policy)
    watched = Watched(health)
    began = trio.current_time()
    with trio.move_on_after(seconds):
        await watch(watched, health, name="votes", tls=None, shared=shared(logged), ask=check)
    return watched, [at - began for at in asked], logged


async def test_an_endpoint_is_asked_at_intervals(autojump_clock) -> None:
    """Every 5 s within a tenth, the first time within a second, however long a check takes; nothing is told."""

    async def slow(number: int) -> None:
        await trio.sleep(number % 4)

    watched, asked, logged = await run(HealthCheck(interval=5.0), 500.0, slow)
    gaps = [later - earlier for earlier, later in pairwise(asked)]
    assert 0.0 <= asked[0] <= 1.0
    assert all(4.499 <= gap <= 5.501 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.5  # jitter
    assert 95 <= len(asked) <= 105
    assert (watched.told, logged) == ([], [])


async def test_a_change_is_told_once(autojump_clock) -> None:
    """Five failures, then passes: told with the third failure and with the second pass."""

    async def checks(number: int) -> None:
        await trio.sleep(0)
        if number < 5:
            raise Unhealthy(f"answered {number}", peer="somebody")

    watched, asked, _ = await run(HealthCheck(interval=1.0, unhealthy=3, healthy=2), 30.0, checks)
    assert [fit for _, fit in watched.told] == [False, True]
    assert watched.told[0][0] - watched.told[1][0] == pytest.approx(asked[2] - asked[6])


async def test_a_check_that_takes_longer_than_the_interval_is_followed_at_once(autojump_clock) -> None:
    """Never two at a time, and no backlog of those that were missed."""

    async def checks(number: int) -> None:
        await trio.sleep(3.0)

    _, asked, _ = await run(HealthCheck(interval=1.0), 60.0, checks)
    assert all(later - earlier == pytest.approx(3.0) for earlier, later in pairwise(asked))


async def test_a_bug_in_a_check_is_a_failure_that_is_told(autojump_clock) -> None:
    """The proxy lives on, says what happened, and does not use an endpoint that it cannot check."""

    async def checks(number: int) -> None:
        await trio.sleep(0)
        raise KeyError("oops")

    watched, asked, logged = await run(HealthCheck(interval=1.0, unhealthy=2), 10.0, checks)
    assert [fit for _, fit in watched.told] == [False]
    assert watched.health.cause == "the check itself failed"
    assert len(asked) > 8
    assert all(what == "connection_failed" and "oops" in detail for what, _, detail in logged)


async def test_an_interval_of_nothing_does_not_spin(autojump_clock) -> None:
    """A policy from a file that nobody checked cannot make the proxy ask without end."""

    async def checks(number: int) -> None:
        await trio.sleep(0)

    _, asked, _ = await run(HealthCheck(interval=0.0), 1.0, checks)
    assert 80 <= len(asked) <= 120


async def test_a_real_endpoint_that_goes_and_comes(nursery) -> None:
    """By TCP: a listener that closes is found unfit with its cause, and fit again once it listens again."""
    policy = HealthCheck(kind=HealthKind.TCP, interval=0.02, timeout=2.0, unhealthy=2, healthy=2)
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = listener.socket.getsockname()[1]
    health = Health(policy)
    watched = Watched(health, f"127.0.0.1:{port}")
    logged: list[tuple[str, str, str]] = []
    # bound and not listening: refused, and nobody else gets the port
    with trio.fail_after(10):
        await listener.aclose()
        with trio.socket.socket() as held:
            held.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
            await held.bind(("127.0.0.1", port))
            changed = watched.changed
            nursery.start_soon(lambda: watch(watched, health, name="votes", tls=None, shared=shared(logged)))
            await changed.wait()
            assert not health.fit
            assert "refused" in health.cause
            changed = watched.changed
            held.listen(100)
            await changed.wait()
            assert health.fit
    assert logged == []
    nursery.cancel_scope.cancel()
