"""Consistent hashing: keys stay, shares follow weights, all proxies agree."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.model.traffic import HashOn
from mesh.proxy.balance_hash import POINTS_MOST, Hashed, hash_key, ring
from mesh.wire.head import Head
from tests.proxy.balanced import One

_RANDOM = Random("keys")
KEYS = [_RANDOM.getrandbits(63) for _ in range(3000)]


def some(count: int, weight: int = 1) -> list[One]:
    return [One(f"10.0.{index // 250}.{index % 250}:8080", weight) for index in range(count)]


def homes(endpoints: list[One], fit: list[One] | None = None, excluded: tuple[One, ...] = ()) -> list[One]:
    """Whose each of KEYS is."""
    balancer = Hashed(endpoints, endpoints if fit is None else fit, Random(7).random)
    found = [balancer.choose(excluded, 0.0, key) for key in KEYS]
    assert None not in found
    return found  # type: ignore[return-value]


@pytest.mark.parametrize("count", [2, 3, 10, 60])
def test_equals_have_about_the_same_number_of_keys(count: int) -> None:
    """Within 15 % of each share, beside what 3,000 random keys vary by themselves."""
    found = Counter(homes(some(count)))
    share = len(KEYS) / count
    assert len(found) == count
    spread = 3.5 * share**0.5
    assert all(0.85 * share - spread < found[one] < 1.15 * share + spread for one in found)


def test_weights_decide_the_shares() -> None:
    """6, 3 and 1 have as many tenths of the keys, within a quarter; 0 has none."""
    endpoints = [One("a:1", 6), One("b:1", 3), One("c:1", 1), One("d:1", 0)]
    found = Counter(homes(endpoints))
    assert found[endpoints[3]] == 0
    for endpoint in endpoints[:3]:
        share = endpoint.load.weight / 10 * len(KEYS)
        assert 0.75 * share < found[endpoint] < 1.25 * share


@settings(max_examples=25)
@given(count=st.integers(2, 12), weights=st.lists(st.integers(1, 4), min_size=12, max_size=12), data=st.data())
def test_when_one_leaves_only_its_keys_move(count: int, weights: list[int], data: st.DataObject) -> None:
    """Whoever it is: every key of another stays where it was, so that about 1/n of the keys move."""
    endpoints = [One(f"10.0.0.{index}:80", weights[index]) for index in range(count)]
    gone = data.draw(st.sampled_from(endpoints))
    before = homes(endpoints)
    after = homes([one for one in endpoints if one is not gone])
    assert all(new is old for old, new in zip(before, after, strict=True) if old is not gone)
    assert gone not in after


def test_the_keys_of_one_that_left_go_to_all_others() -> None:
    """Not to a single neighbour."""
    endpoints = some(6)
    heirs = Counter(new for old, new in zip(homes(endpoints), homes(endpoints[1:]), strict=True) if old is endpoints[0])
    assert len(heirs) == 5
    assert max(heirs.values()) < 0.45 * heirs.total()


@pytest.mark.parametrize("count", [3, 40])
def test_unfit_gone_and_excluded_are_the_same_to_a_key(count: int) -> None:
    """A retry, an ejection and a removal lead a key to the same endpoint, so that caches there are warm already."""
    endpoints = some(count)
    first, rest = endpoints[0], endpoints[1:]
    assert homes(endpoints, fit=rest) == homes(rest) == homes(endpoints, excluded=(first,))
    assert homes(endpoints, fit=rest, excluded=(endpoints[1],)) == homes(endpoints[2:])


def test_exclusion_walks_over_all_distinct_endpoints() -> None:
    """Each further try of a key goes to another endpoint until all have been tried; then to its first again."""
    endpoints = some(7)
    balancer = Hashed(endpoints, endpoints, Random(7).random)
    tried: list[One] = []
    for _ in endpoints:
        chosen = balancer.choose(tried, 0.0, KEYS[0])
        assert chosen is not None
        assert chosen not in tried
        tried.append(chosen)
    assert balancer.choose(tried, 0.0, KEYS[0]) is tried[0]


def test_the_order_in_which_endpoints_are_known_does_not_matter() -> None:
    """Two proxies that were told of the same endpoints in another order agree on every key."""
    endpoints = some(9)
    shuffled = list(endpoints)
    Random(5).shuffle(shuffled)
    assert homes(endpoints) == homes(shuffled)


def test_without_a_key_load_decides() -> None:
    """Key -1 is balanced as by the default: the idle one of two; None if there is nobody."""
    idle, busy = One("a:1"), One("b:1", pending=9)
    balancer = Hashed([idle, busy], [idle, busy], Random(7).random)
    assert all(balancer.choose() is idle for _ in range(50))
    assert balancer.choose([idle]) is busy
    assert Hashed([], [], Random(7).random).choose((), 0.0, 5) is None
    assert Hashed([idle], [], Random(7).random).choose((), 0.0, 5) is None


def test_a_ring_is_bounded_and_kept() -> None:
    """Many or heavy endpoints get fewer points each, at least one, and the same set is computed once."""
    thousand = tuple(sorted((one.address, 1) for one in some(1000)))
    assert len(ring(thousand)) == 16_000
    assert ring(thousand) is ring(tuple(thousand))
    assert len(ring((("a:1", 1_000_000), ("b:1", 1)))) <= POINTS_MOST + 1
    assert ring(()) == []


@given(st.integers(0, 2**63 - 1))
def test_every_key_has_a_home(key: int) -> None:
    """The ends of the ring and of the range of keys are in bounds, with and without an exclusion."""
    endpoints = some(2)
    balancer = Hashed(endpoints, endpoints, Random(7).random)
    home = balancer.choose((), 0.0, key)
    assert home in endpoints
    assert balancer.choose([home], 0.0, key) not in (home, None)


# --- the key ------------------------------------------------------------------------------------------------------


def head(*fields: tuple[bytes, bytes]) -> Head:
    return Head.request(b"GET", b"/", authority=b"votes", fields=fields)


EVERYTHING = HashOn(header="X-User", cookie="session", source=True)


def test_the_first_that_is_there_is_hashed() -> None:
    """Header before cookie before source; an empty one is not there."""
    user = hash_key(head((b"x-user", b"bob"), (b"cookie", b"session=1")), EVERYTHING, "10.0.0.1:5")
    cookie = hash_key(head((b"x-user", b""), (b"cookie", b"session=1")), EVERYTHING, "10.0.0.1:5")
    source = hash_key(head((b"cookie", b"session="), (b"cookie", b"other=1")), EVERYTHING, "10.0.0.1:5")
    assert user == hash_key(head((b"x-user", b"bob")), HashOn(header="x-user"), "")
    assert cookie == hash_key(head((b"cookie", b"session=1")), HashOn(cookie="session"), "")
    assert source == hash_key(head(), HashOn(source=True), "10.0.0.1:6")
    assert len({user, cookie, source}) == 3


@pytest.mark.parametrize("on", [HashOn(), HashOn(header="x-user"), HashOn(cookie="session"), HashOn(source=True)])
def test_without_any_of_them_there_is_no_key(on: HashOn) -> None:
    """-1, also for nothing to hash on."""
    assert hash_key(head((b"cookie", b"xsession=1; session")), on, "") == -1


@pytest.mark.parametrize(
    "fields",
    [
        [(b"cookie", b"session=a=b")],
        [(b"cookie", b"x=1; session=a=b; y=2")],
        [(b"cookie", b"x=1"), (b"cookie", b" session = a=b ")],
        [(b"cookie", b"session=a=b; session=other")],
    ],
)
def test_cookies_are_found_however_they_are_sent(fields: list[tuple[bytes, bytes]]) -> None:
    """In one field or in many, with blanks, with `=` in the value; the first of a name counts."""
    assert hash_key(head(*fields), EVERYTHING, "") == hash_key(head((b"x-user", b"a=b")), EVERYTHING, "")


@pytest.mark.parametrize(
    ("one", "other"),
    [("10.0.0.1:1", "10.0.0.1:2"), ("[::1]:1", "[::1]:2"), ("10.0.0.1", "10.0.0.1:7"), ("[::1]", "[::1]:9")],
)
def test_a_source_is_its_address(one: str, other: str) -> None:
    """The port, of which a client has many, does not count."""
    on = HashOn(source=True)
    assert hash_key(head(), on, one) == hash_key(head(), on, other) != hash_key(head(), on, "10.0.0.9:1")
    assert hash_key(head(), on, "fe80::1") != hash_key(head(), on, "fe80::2")


def test_host_is_the_authority() -> None:
    """HTTP/1.1's `host` is no field of a head here, and can be hashed."""
    assert hash_key(head(), HashOn(header="Host"), "") == hash_key(head((b"x", b"votes")), HashOn(header="x"), "")


def test_keys_and_rings_are_the_same_in_every_process() -> None:
    """Another interpreter, with another seed for its own hashes, finds the same key and the same ring."""
    program = (
        "from mesh.model.traffic import HashOn; from mesh.wire.head import Head; "
        "from mesh.proxy.balance_hash import hash_key, ring; "
        "head = Head.request(b'GET', b'/', fields=((b'x-user', b'bob'),)); "
        "print(hash_key(head, HashOn(header='x-user'), ''), ring((('a:1', 1), ('b:1', 2)))[:50])"
    )
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r}); {program}"
    told = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed}
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    here = hash_key(head((b"x-user", b"bob")), EVERYTHING, "")
    assert told[0] == f"{here} {ring((('a:1', 1), ('b:1', 2)))[:50]}\n"


def test_a_key_is_of_63_bits_and_known() -> None:
    """What other versions of a proxy must agree on: this value never changes."""
    key = hash_key(head((b"x-user", b"bob")), HashOn(header="x-user"), "")
    assert key == 4213563397267214921
    assert 0 <= key < 2**63
