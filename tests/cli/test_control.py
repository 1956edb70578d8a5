"""conduit control: what it is started with, its token, its end."""

import re
import signal
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trio
import trustme

from mesh.local.probe import status
from mesh.local.sidecar import CONDUIT

from .conftest import MESH


@pytest.mark.parametrize(
    ("source", "told"),
    [("kubernetes", "not in this version"), ("/no/such/folder", "no such folder or file")],
)
def test_bad_source_is_wrong_usage(conduit: Callable, source: str, told: str) -> None:
    """It is told at once, and nothing starts."""
    result = conduit("control", "--source", source)
    assert result.code == 2
    assert told in result.err


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
async def test_token_is_made_and_told(processes: Callable, tmp_path: Path, signum: int, code: int) -> None:
    """Without CONDUIT_TOKEN one is made; the URL on stderr opens it; signals end it."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    words = ["control", "--source", tmp_path / "mesh.yaml", "--state", tmp_path / "s", "--listen", "127.0.0.1:0"]
    handle = processes([*CONDUIT, *words], env={"CONDUIT_TOKEN": ""})
    found = None
    with trio.fail_after(30):
        while not found:
            found = re.search(r"conduit control: http://127.0.0.1:(\d+)/\?token=(\S+)\n", handle.output())
            await trio.sleep(0.01)
    assert await status(int(found[1]), "/api/v1/version") == 401
    assert await status(int(found[1]), "/api/v1/version", found[2]) == 200
    handle.send_signal(signum)
    assert await trio.to_thread.run_sync(handle.wait) == code


def test_port_in_use_is_told(conduit: Callable, control: str, tmp_path: Path) -> None:
    """One line that names the address, and exit code 1."""
    address = control.removeprefix("http://")
    result = conduit("control", "--source", tmp_path, "--state", tmp_path / "other", "--listen", address)
    assert result.code == 1
    [line] = [line for line in result.err.splitlines() if line.startswith("conduit: ")]
    assert address in line


TRUST = ("--trust-anchors", "--issuer-cert", "--issuer-key")


@pytest.fixture
def trust(tmp_path: Path) -> list[str]:
    """The options of a root that signs itself."""
    ca = trustme.CA()
    (tmp_path / "ca.pem").write_bytes(ca.cert_pem.bytes())
    (tmp_path / "ca.key").write_bytes(ca.private_key_pem.bytes())
    return [
        word
        for name, file in zip(TRUST, ("ca.pem", "ca.pem", "ca.key"), strict=True)
        for word in (name, str(tmp_path / file))
    ]


async def test_with_trust_the_port_speaks_tls(processes: Callable, tmp_path: Path, trust: list[str]) -> None:
    """Both ways on loopback, where the page for people is plain; trust domain and lifetime are what was said."""
    (tmp_path / "mesh.yaml").write_text(MESH)
    words = [
        "control",
        "--source",
        tmp_path / "mesh.yaml",
        "--state",
        tmp_path / "s",
        "--listen",
        "127.0.0.1:0",
        *trust,
    ]
    words += ["--trust-domain", "prod.example", "--certificate-lifetime", "10m", "--host", "mesh.example"]
    handle = processes([*CONDUIT, *words], env={"CONDUIT_TOKEN": ""})
    found = None
    with trio.fail_after(30):
        while not found:
            found = re.search(r"conduit control: (http://127.0.0.1:\d+)/\?token=(\S+)\n", handle.output())
            await trio.sleep(0.01)
    context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
    for url in (found[1], found[1].replace("http", "https")):
        async with httpx.AsyncClient(verify=context, trust_env=False) as client:
            answer = await client.get(f"{url}/api/v1/identity", headers={"Authorization": f"Bearer {found[2]}"})
        identity = answer.json()
        assert (identity["trust_domain"], identity["lifetime"]) == ("prod.example", 600.0)
        assert "mesh.example" in identity["serving"]["names"]


@pytest.mark.parametrize("left_out", [0, 2, 4])
def test_the_files_of_trust_come_together(conduit: Callable, tmp_path: Path, trust: list[str], left_out: int) -> None:
    """Two of three are wrong usage, which names the third."""
    words = [*trust[:left_out], *trust[left_out + 2 :]]
    result = conduit("control", "--source", tmp_path, "--state", tmp_path / "s", *words)
    assert result.code == 2
    assert f"{trust[left_out]}: needed" in result.err


def test_bad_files_of_trust_are_told(conduit: Callable, tmp_path: Path, trust: list[str]) -> None:
    """With file and field, and nothing listens."""
    (tmp_path / "ca.key").write_bytes(trustme.CA().private_key_pem.bytes())
    words = ["--source", tmp_path, "--state", tmp_path / "s", "--listen", "127.0.0.1:0", *trust]
    result = conduit("control", *words)
    assert result.code == 1
    assert f"{tmp_path / 'ca.key'}: key: is not the key of {tmp_path / 'ca.pem'}" in result.err


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--trust-domain", "Not A Domain", "no DNS name"),
        ("--trust-domain", "x" * 200, "no DNS name"),
        ("--certificate-lifetime", "0.5", "1s to ten years"),
        ("--certificate-lifetime", "soon", "not a duration"),
    ],
)
def test_wrong_values_are_told(conduit: Callable, tmp_path: Path, option: str, value: str, told: str) -> None:
    """Before anything starts."""
    result = conduit("control", "--source", tmp_path, option, value)
    assert result.code == 2
    assert told in result.err
