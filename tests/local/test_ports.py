"""Free ports must be free, and different ones."""

from __future__ import annotations

import socket

from mesh.local.ports import LOOPBACK, free_port, is_free


def test_ports_are_free_and_never_the_same():
    """A hundred calls give a hundred ports that can be listened on."""
    ports = [free_port() for _ in range(100)]
    assert len(set(ports)) == 100
    assert all(map(is_free, ports))


def test_a_port_that_is_taken_is_not_free():
    """Whoever listens has it, until it is closed."""
    with socket.socket() as taken:
        taken.bind((LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert not is_free(port)
    assert is_free(port)
