"""What a listener shows to who asks for an identity."""

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from mesh.local.certificates import look
from mesh.model.errors import ConfigError
from mesh.model.identity import Identity

WEB, OTHER = str(Identity("web", "demo")), str(Identity("other", "demo"))
Serve = Callable[[trustme.CA], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Call it with who signs for a listener that shows web's certificate and wants to see one; gives its address."""
    listeners: list[tuple[socket.socket, threading.Thread]] = []

    def start(authority: trustme.CA) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(WEB).configure_cert(context)
        authority.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        listener = socket.create_server(("127.0.0.1", 0))
        thread = threading.Thread(target=refuse_all, args=(listener, context))
        thread.start()
        listeners.append((listener, thread))
        return f"127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for listener, thread in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)
        listener.close()


def refuse_all(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Shakes hands until the listener is shut down."""
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        with plain, pytest.raises(ssl.SSLError):
            context.wrap_socket(plain, server_side=True)


@pytest.fixture
def root(tmp_path: Path) -> trustme.CA:
    """A root whose certificate stands in roots.pem."""
    root = trustme.CA()
    root.cert_pem.write_to_path(tmp_path / "roots.pem")
    return root


def test_chain_is_seen_and_verified(serve: Serve, root: trustme.CA, tmp_path: Path) -> None:
    """Although we are refused: the workload's certificate first, then who signed it."""
    issuer = root.create_child_ca()
    seen = look(serve(issuer), WEB, str(tmp_path / "roots.pem"))
    assert (seen.verified, seen.problem, seen.tls) == (True, "", "TLSv1.3")
    own, above = seen.chain
    assert own.names == (WEB,)
    assert own.issuer == above.subject != own.subject
    assert len(own.fingerprint) == 64


@pytest.mark.parametrize(
    ("identity", "ours", "problem"),
    [(WEB, False, "self-signed certificate|unable to get local issuer"), (OTHER, True, "not valid for 'other")],
)
def test_what_does_not_hold_is_shown_too(
    serve: Serve, root: trustme.CA, tmp_path: Path, identity: str, ours: bool, problem: str
) -> None:
    """A certificate that leads nowhere, or is for somebody else, with the reason."""
    seen = look(serve(root if ours else trustme.CA()), identity, str(tmp_path / "roots.pem"))
    assert seen.verified is False
    assert any(word in seen.problem for word in problem.split("|")), seen.problem
    assert seen.chain[0].names == (WEB,)


def test_without_roots_nothing_is_verified(serve: Serve, root: trustme.CA) -> None:
    """It is shown, and neither good nor bad."""
    seen = look(serve(root), WEB, "")
    assert (seen.verified, seen.problem, seen.chain[0].names) == (None, "", (WEB,))


def test_nobody_there(free_port: Callable[[], int], root: trustme.CA, tmp_path: Path) -> None:
    """Told as that."""
    seen = look(f"127.0.0.1:{free_port()}", WEB, str(tmp_path / "roots.pem"))
    assert (seen.verified, seen.problem) == (None, "it cannot be reached from here: Connection refused")


def test_plain_text_shows_none(root: trustme.CA, tmp_path: Path) -> None:
    """A listener that does not speak TLS has no certificate, rather than a bad one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as stream:
                stream.recv(4096)
                stream.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        seen = look(f"127.0.0.1:{listener.getsockname()[1]}", WEB, str(tmp_path / "roots.pem"))
        thread.join(10)
    assert seen.verified is None
    assert seen.problem.startswith("it shows no certificate: ")


def test_roots_that_are_none(tmp_path: Path) -> None:
    """Our own mistake is told before anybody is asked."""
    with pytest.raises(ConfigError, match="holds no PEM certificate to trust"):
        look("127.0.0.1:1", WEB, str(tmp_path / "none.pem"))
