"""A chain of three applications, each with a proxy beside it, and one deadline for all of it.

Servers and client are one process, so that all times are of one clock. What the proxies do is read off what the
applications see: each tells when its caller's proxy gave its request up.
"""

import time
from collections.abc import Iterator

import pytest

from tests.end_to_end.asking import BOTH, ask, client
from tests.end_to_end.failing import Order, clear
from tests.end_to_end.failing_chain import DEADLINE, Hop
from tests.end_to_end.failing_web import web_servers
from tests.end_to_end.scale import FULL
from tests.end_to_end.sidecar import Sidecar, Starter, wait_until

NAMES = ("first", "second", "third")
LIMIT = 0.3
LATE = 0.1
"""Seconds after the deadline in which all of the chain must be cancelled."""
ROUNDS = 20 if FULL else 3


@pytest.fixture(scope="module")
def hops() -> Iterator[dict[str, Hop]]:
    """The applications."""
    with web_servers() as webs:
        yield {name: webs.add(name, Hop(name)) for name in NAMES}


@pytest.fixture(scope="module")
def sidecars(shared_proxy: Starter, hops: dict[str, Hop]) -> dict[str, Sidecar]:
    """A proxy beside each application, and the client's."""
    found: dict[str, Sidecar] = {}
    before = ["client", *NAMES]
    for name, caller in reversed(list(zip(NAMES, before, strict=False))):
        inbound = [{"forward": f"127.0.0.1:{hops[name].port}", "service": name}]
        later = NAMES[NAMES.index(name) + 1 : NAMES.index(name) + 2]
        found[name] = shared_proxy({one: meshed(found[one]) for one in later}, inbound=inbound)
        for one in later:
            hops[name].next_url = found[name].url(one, "/next")
        if caller == "client":
            found[caller] = shared_proxy({name: meshed(found[name])})
    return found


def meshed(sidecar: Sidecar) -> dict[str, object]:
    """The service beside a proxy."""
    return {"endpoints": [{"address": f"127.0.0.1:{sidecar.inbound[0]}", "meshed": True}]}


@pytest.fixture(autouse=True)
def fresh(hops: dict[str, Hop]) -> None:
    """All have seen nothing, pass deadlines on, and answer."""
    for hop in hops.values():
        clear(hop.board)
        hop.passes_on = True


def test_chain_answers(sidecars: dict[str, Sidecar], hops: dict[str, Hop]) -> None:
    """With time to spare the answer comes back, and each hop has less of it than the one before."""
    headers = {DEADLINE: "20000"}
    assert ask(sidecars["client"], "first", headers=headers).text == "first"
    told = [int(hops[name].board.seen()[0].headers[DEADLINE]) for name in NAMES]
    assert 20_000 >= told[0] >= told[1] >= told[2] > 0
    assert [hops[name].board.count() for name in NAMES] == [1, 1, 1]


def expire(sidecars: dict[str, Sidecar], hops: dict[str, Hop], version: str) -> float:
    """One request that hangs at the end of the chain; how long after the deadline the last application knew."""
    clear(*(hop.board for hop in hops.values()))
    hops["third"].board.always(Order(hang=True))
    with client(version) as session:
        began = time.monotonic()
        answer = ask(sidecars["client"], "first", by=session, headers={DEADLINE: f"{LIMIT * 1000:.0f}"})
        answered = time.monotonic()
    assert (answer.status, answer.reason) == (504, "timeout")
    wait_until(lambda: not any(hop.board.active for hop in hops.values()), "nobody works any more")
    assert [(hop.board.count(), len(hop.board.left)) for hop in hops.values()] == [(1, 1)] * 3
    deadline = began + LIMIT
    return max(answered, *(hop.board.left[0] for hop in hops.values())) - deadline


@pytest.mark.parametrize("version", BOTH)
def test_deadline_cancels_the_chain(sidecars: dict[str, Sidecar], hops: dict[str, Hop], version: str) -> None:
    """The last hangs: within 0.1 s of the deadline all are cancelled, and the client has its answer.

    At small size the middle one of three rounds must hold it, since another process may have had the machine.
    """
    late = sorted(expire(sidecars, hops, version) for _ in range(ROUNDS))
    print(f"cancelled after the deadline by ms: {[round(seconds * 1000) for seconds in late]}")
    assert late[-1 if FULL else len(late) // 2] <= LATE


def test_cancellation_needs_no_header(sidecars: dict[str, Sidecar], hops: dict[str, Hop]) -> None:
    """Applications that do not pass the deadline on are cancelled by those that called them."""
    for hop in hops.values():
        hop.passes_on = False
    expire(sidecars, hops, "http1")
    assert DEADLINE not in hops["second"].board.seen()[0].headers


def test_clients_that_leave_cancel_the_chain(sidecars: dict[str, Sidecar], hops: dict[str, Hop]) -> None:
    """So are all of them when the client goes away."""
    hops["third"].board.always(Order(hang=True))
    with client("http2", seconds=0.3) as session, pytest.raises(Exception, match="timed out"):
        ask(sidecars["client"], "first", by=session)
    wait_until(lambda: [len(hop.board.left) for hop in hops.values()] == [1, 1, 1], "all are cancelled")
