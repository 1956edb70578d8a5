"""The way to the control plane: who is believed to be it, and how each failure is told."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
import trustme

from mesh.model.config import ControlLink
from mesh.model.errors import ConfigError, ControlError
from mesh.proxy.control_line import ControlLine


def pem(authority: trustme.CA) -> str:
    return authority.cert_pem.bytes().decode()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def anchors(authority: trustme.CA, tmp_path: Path) -> Path:
    """The file that the link names."""
    path = tmp_path / "anchors.pem"
    path.write_text(pem(authority))
    return path


@pytest.fixture
async def plane(serve) -> Callable[..., object]:
    """Await it with an authority and names: the port of a TLS server that greets whoever comes."""

    async def start(authority: trustme.CA, *names: str) -> int:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert(*names).configure_cert(context)

        async def greet(stream: trio.SocketStream) -> None:
            secured = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
            await secured.send_all(b"hello")
            await secured.aclose()

        return int((await serve(greet)).rpartition(":")[2])

    return start


def line(port: int, anchors: Path | str, host: str = "127.0.0.1", scheme: str = "https") -> ControlLine:
    return ControlLine(ControlLink(f"{scheme}://{host}:{port}", "secret", "web", anchors=str(anchors)))


async def greeting(of: ControlLine) -> bytes:
    with trio.fail_after(30):
        async with await of.dial() as stream:
            return bytes(await stream.receive_some())


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_host_with_a_certificate_of_the_files_roots(plane, authority, anchors, host: str) -> None:
    """By address or by name."""
    there = line(await plane(authority, "localhost", "127.0.0.1"), anchors, host)
    assert await greeting(there) == b"hello"
    assert str(there).startswith(f"{host}:")


async def test_another_host_or_root_is_refused(plane, authority, anchors) -> None:
    """Nothing is sent to it, the token least of all, and the error says why."""
    with pytest.raises(OSError, match=r"TLS: the control plane's certificate was refused: .*mismatch"):
        await greeting(line(await plane(authority, "elsewhere"), anchors))
    with pytest.raises(OSError, match=r"TLS: the control plane's certificate was refused: .*issuer"):
        await greeting(line(await plane(trustme.CA(), "127.0.0.1"), anchors))


async def test_what_is_not_tls_is_told(serve, anchors) -> None:
    """As a failure of TLS, whatever came."""

    async def plain(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    with pytest.raises(OSError, match="TLS: "):
        await greeting(line(int((await serve(plain)).rpartition(":")[2]), anchors))


async def test_roots_are_replaced_in_the_file(plane, authority, anchors) -> None:
    """It is read for each dial."""
    other = trustme.CA()
    there = line(await plane(other, "127.0.0.1"), anchors)
    with pytest.raises(OSError, match="TLS: "):
        await greeting(there)
    anchors.write_text(pem(other))
    assert await greeting(there) == b"hello"


async def test_roots_that_were_told_are_trusted_beside_the_file(plane, authority, anchors) -> None:
    """Also when the file has gone; those that are told last count."""
    other = trustme.CA()
    port = await plane(other, "127.0.0.1")
    there = line(port, anchors)
    there.trust(pem(other))
    assert await greeting(there) == b"hello"
    anchors.unlink()
    assert await greeting(there) == b"hello"
    there.trust(pem(authority))
    with pytest.raises(OSError, match="TLS: "):
        await greeting(there)
    with pytest.raises(ConfigError, match="hold no PEM"):
        there.trust("nonsense")


@pytest.mark.parametrize(("content", "why"), [(None, "No such file"), ("", "hold no PEM"), ("nonsense", "hold no PEM")])
async def test_a_file_without_roots_is_told(tmp_path: Path, content: str | None, why: str) -> None:
    """Before anything is dialled, with the file's name and the field."""
    path = tmp_path / "anchors.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=f"anchors.pem: anchors: {why}"):
        await line(1, path).dial()


async def test_plain_http_is_dialled_without_tls(serve) -> None:
    """For a control plane on this machine that has no certificate."""

    async def greet(stream: trio.SocketStream) -> None:
        await stream.send_all(b"hello")

    port = int((await serve(greet)).rpartition(":")[2])
    assert await greeting(line(port, "", scheme="http")) == b"hello"


@pytest.mark.parametrize("url", ["", "127.0.0.1:1", "ftp://x", "http://"])
def test_a_link_must_be_a_url(url: str) -> None:
    """What cannot be dialled is refused at the start."""
    with pytest.raises(ControlError, match="is not http"):
        ControlLine(ControlLink(url, "t", "w"))
