"""Authorities and addresses, taken apart."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.proxy.authority import join_address, own_address, service_name, split_address


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:80", ("127.0.0.1", 80)),
        ("votes.demo:8080", ("votes.demo", 8080)),
        ("[::1]:443", ("::1", 443)),
        ("[fe80::1]:0", ("fe80::1", 0)),
        ("host:65535", ("host", 65535)),
    ],
)
def test_addresses_are_split(address: str, parts: tuple[str, int]) -> None:
    """Host without brackets, port as a number."""
    assert split_address(address) == parts
    assert split_address(address, 1) == parts


@pytest.mark.parametrize(
    ("address", "host"), [("votes", "votes"), ("[::1]", "::1"), ("::1", "::1"), ("10.0.0.1", "10.0.0.1")]
)
def test_a_default_port_stands_in(address: str, host: str) -> None:
    """Only where it is given; without one the address is refused."""
    assert split_address(address, 80) == (host, 80)
    with pytest.raises(ValueError, match="no port"):
        split_address(address)


@pytest.mark.parametrize(
    "address", ["", ":", ":80", "[]:80", "host:", "host:http", "host:65536", "host:-1", "host:+1", "host:٣", "host: 1"]
)
def test_bad_addresses_are_refused(address: str) -> None:
    """No host, or a port that is none in ASCII digits."""
    with pytest.raises(ValueError):
        split_address(address)


@pytest.mark.parametrize(
    ("authority", "name"),
    [
        ("votes", "votes"),
        ("Votes.Demo", "votes.demo"),
        ("votes.demo.:8080", "votes.demo"),
        ("[::1]:80", "::1"),
        ("127.0.0.1:9", "127.0.0.1"),
    ],
)
def test_a_service_is_named_by_its_host(authority: str, name: str) -> None:
    """Lower case, without port and final dot."""
    assert service_name(authority) == name


@pytest.mark.parametrize("authority", ["", "user@votes", "a:b@votes:80", ":80", "votes:x", "."])
def test_what_is_no_authority_is_refused(authority: str) -> None:
    """User information (a way to disguise the host), and what has no host or no port."""
    with pytest.raises(ValueError):
        service_name(authority)


@pytest.mark.parametrize(
    ("authority", "address"),
    [("a", "a:80"), ("a:8080", "a:8080"), ("[::1]", "[::1]:80"), ("[::1]:443", "[::1]:443"), ("A:080", "A:80")],
)
def test_an_own_address_spells_the_port_out(authority: str, address: str) -> None:
    """In one spelling, so that equal addresses are equal strings."""
    assert own_address(authority, 80) == address


@given(st.ip_addresses(), st.integers(0, 65535))
def test_own_addresses_can_be_split_again(ip: object, port: int) -> None:
    """Either family: to an address and back."""
    text = f"[{ip}]:{port}" if ":" in str(ip) else f"{ip}:{port}"
    assert own_address(text, 1) == text
    assert split_address(text) == (str(ip), port)


@given(st.text(max_size=40))
def test_nothing_but_valueerror_is_raised(authority: str) -> None:
    """Whatever a client sends as its authority."""
    try:
        assert service_name(authority) == service_name(authority).lower()
    except ValueError:
        with pytest.raises(ValueError):
            service_name(authority)


@pytest.mark.parametrize("address", ["10.0.0.7:80", "[::1]:8080", "votes:1"])
def test_joining_undoes_splitting(address: str) -> None:
    """An address comes back as it was written."""
    assert join_address(*split_address(address)) == address
