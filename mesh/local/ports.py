"""Free ports on the loopback interface, chosen by the kernel.

Between the choice and its use somebody else may take the port: whoever uses one must be ready to fail and choose anew.
The same port is not given twice within a process, so that we do not race against ourselves.
"""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"

_given: set[int] = set()


def free_port() -> int:
    """A port that nothing listens on now."""
    while True:
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port: int = probe.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port
        if len(_given) > 10_000:  # a third of the ephemeral ports: those given long ago are free again or will fail
            _given.clear()


def is_free(port: int) -> bool:
    """Whether we could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
