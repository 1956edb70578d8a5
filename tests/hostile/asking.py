"""One exchange over a raw socket, and what the application has heard."""

import json
import socket

SECONDS = 10.0


def say(port: int, data: bytes, *, seconds: float = SECONDS, close: bool = False) -> bytes:
    """Send bytes, and return all that comes back until the other side closes; `close` closes our direction first."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as sock:
        try:
            sock.sendall(data)
            if close:
                sock.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed already: what it said can still be read
        return hear(sock)


def hear(sock: socket.socket) -> bytes:
    """All that comes until the end; a reset is one."""
    said = b""
    try:
        while data := sock.recv(65536):
            said += data
    except ConnectionResetError:
        pass
    return said


def origin_heard(port: int) -> list[str]:
    """Heads that reached the application since this was asked last."""
    answer = say(port, b"GET /seen HTTP/1.1\r\nhost: x\r\n\r\n", close=True)
    return json.loads(answer.partition(b"\r\n\r\n")[2])
