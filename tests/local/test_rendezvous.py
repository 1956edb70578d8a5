"""The file by which commands find the mesh: who may write it, when it is stale, what overrides it."""

import os
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from mesh.local import rendezvous
from mesh.model.api import RuntimeFile
from mesh.model.errors import ConduitError, ConfigError, ControlError

HERE = RuntimeFile("https://127.0.0.1:4190", "secret", "/state", os.getpid(), "/anchors.pem")


def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_announced_mesh_is_found_and_private(own_runtime_folder: Path) -> None:
    """Within the block it is found, by us alone; after it there is none."""
    with rendezvous.lock(own_runtime_folder), rendezvous.announce(own_runtime_folder, HERE):
        assert rendezvous.read(own_runtime_folder) == HERE
        assert own_runtime_folder.stat().st_mode & 0o777 == 0o700
        assert (own_runtime_folder / "mesh.json").stat().st_mode & 0o777 == 0o600
        assert rendezvous.find() == ("https://127.0.0.1:4190", "secret", "/anchors.pem")
        assert rendezvous.joined() == HERE
    assert rendezvous.read(own_runtime_folder) is None


def test_no_folder_is_no_mesh(own_runtime_folder: Path) -> None:
    """Where nothing ever ran, the error says how to start something."""
    assert rendezvous.read(own_runtime_folder) is None
    with pytest.raises(ControlError, match=r"conduit up -f mesh\.yaml"):
        rendezvous.find()
    with pytest.raises(ControlError, match="no mesh is running to join"):
        rendezvous.joined()


def test_mesh_of_a_dead_process_is_stale(own_runtime_folder: Path) -> None:
    """What a killed supervisor left is not taken for a running mesh."""
    rendezvous.make_folder(own_runtime_folder)
    with rendezvous.announce(own_runtime_folder, RuntimeFile("http://x", "t", "/s", dead_pid())):
        assert rendezvous.read(own_runtime_folder) is None


@pytest.mark.parametrize("mode", [0o750, 0o705, 0o770, 0o777])
def test_folder_that_others_can_enter_is_refused(own_runtime_folder: Path, mode: int) -> None:
    """Neither read nor written, whatever is in it."""
    own_runtime_folder.mkdir()
    own_runtime_folder.chmod(mode)
    with pytest.raises(ConduitError, match="others can enter it"):
        rendezvous.read(own_runtime_folder)
    with pytest.raises(ConduitError, match="others can enter it"), rendezvous.lock(own_runtime_folder):
        pass


def test_folder_that_is_a_link_is_refused(own_runtime_folder: Path, tmp_path: Path) -> None:
    """A link might lead anywhere tomorrow."""
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    own_runtime_folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConduitError, match="is not a folder"):
        rendezvous.read(own_runtime_folder)


def test_folder_of_another_user_is_refused(own_runtime_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could have written what is in it."""
    rendezvous.make_folder(own_runtime_folder)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.raises(ConduitError, match=f"belongs to user {owner}, not to you"):
        rendezvous.read(own_runtime_folder)


def test_folder_that_can_be_replaced_is_refused(own_runtime_folder: Path) -> None:
    """Who can write in the folder above can put another in its place, unless a sticky bit forbids it."""
    rendezvous.make_folder(own_runtime_folder)
    own_runtime_folder.parent.chmod(0o777)
    with pytest.raises(ConduitError, match="others can replace"):
        rendezvous.read(own_runtime_folder)
    own_runtime_folder.parent.chmod(0o1777)
    assert rendezvous.read(own_runtime_folder) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o622])
def test_file_that_others_can_touch_is_refused(own_runtime_folder: Path, mode: int) -> None:
    """A token that others may have read, or an address that they may have written."""
    rendezvous.make_folder(own_runtime_folder)
    with rendezvous.announce(own_runtime_folder, HERE):
        (own_runtime_folder / "mesh.json").chmod(mode)
        with pytest.raises(ConduitError, match="others could have written or read it"):
            rendezvous.read(own_runtime_folder)


def test_garbage_is_told(own_runtime_folder: Path) -> None:
    """A file that we did not write is an error and not a traceback."""
    rendezvous.make_folder(own_runtime_folder)
    with rendezvous.announce(own_runtime_folder, HERE):
        (own_runtime_folder / "mesh.json").write_text("{")
        with pytest.raises(ConduitError, match="not what conduit wrote"):
            rendezvous.read(own_runtime_folder)


def test_second_lock_names_the_first(own_runtime_folder: Path) -> None:
    """Only one process may run the mesh; when it is done another may."""
    with (
        rendezvous.lock(own_runtime_folder),
        pytest.raises(ConduitError, match=rf"running already \(process {os.getpid()}\)"),
        rendezvous.lock(own_runtime_folder),
    ):
        pass
    with rendezvous.lock(own_runtime_folder):
        assert (own_runtime_folder / "mesh.lock").read_text() == f"{os.getpid()}\n"


OURS = HERE.control
FAR = {"CONDUIT_CONTROL": "http://far:1", "CONDUIT_TOKEN": "t"}


@pytest.mark.parametrize(
    ("given", "environment", "found"),
    [
        ((None, None), {}, (OURS, "secret", "/anchors.pem")),
        ((None, "other"), {}, (OURS, "other", "/anchors.pem")),
        (("https://far:1/", "t"), {}, ("https://far:1", "t", "")),
        (("https://far:1/", "t", "/ca"), {"CONDUIT_CA": "/other"}, ("https://far:1", "t", "/ca")),
        ((None, None), FAR, ("http://far:1", "t", "")),
        ((None, None), FAR | {"CONDUIT_CA": "/ca"}, ("http://far:1", "t", "/ca")),
        (("http://near:2", None), FAR, ("http://near:2", "t", "")),
        ((f"{OURS}/", None), {}, (OURS, "secret", "/anchors.pem")),
        ((OURS, "t"), {}, (OURS, "t", "/anchors.pem")),
        (("http://127.0.0.1:4190", None), {}, ("http://127.0.0.1:4190", "secret", "/anchors.pem")),
    ],
)
def test_what_overrides_what(
    own_runtime_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    given: tuple[str | None, ...],
    environment: dict[str, str],
    found: tuple[str, str, str],
) -> None:
    """Options go before the environment, which goes before the running mesh."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    rendezvous.make_folder(own_runtime_folder)
    with rendezvous.announce(own_runtime_folder, HERE):
        assert rendezvous.find(*given) == found


def test_local_token_is_not_sent_elsewhere(own_runtime_folder: Path) -> None:
    """The running mesh's token opens that mesh; another control plane never gets to see it."""
    rendezvous.make_folder(own_runtime_folder)
    with (
        rendezvous.announce(own_runtime_folder, HERE),
        pytest.raises(ControlError, match="no token for http://far:1"),
    ):
        rendezvous.find("http://far:1")


def test_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder) -> None:
    """XDG_RUNTIME_DIR if it is set, the platform's place if not, and no warning about it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert rendezvous.runtime_folder() == Path("/run/user/7/conduit")
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert rendezvous.runtime_folder().name == "conduit"
    assert not recwarn.list


def test_folder_that_cannot_be_trusted_vouches_for_nobody(own_runtime_folder: Path) -> None:
    """It does not keep us from another control plane either, of which all is given."""
    own_runtime_folder.mkdir(mode=0o755)
    own_runtime_folder.chmod(0o755)
    assert rendezvous.find(OURS, "t") == (OURS, "t", "")


def test_roots_to_verify_with(tmp_path: Path) -> None:
    """Those of a file alone, or of the system; a file without any is an error that names it."""
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    context = rendezvous.client_context(str(tmp_path / "ca.pem"))
    assert (len(context.get_ca_certs()), context.verify_mode, context.check_hostname) == (1, ssl.CERT_REQUIRED, True)
    assert rendezvous.client_context("").verify_mode is ssl.CERT_REQUIRED
    (tmp_path / "empty.pem").write_text("")
    with pytest.raises(ConfigError, match=r"empty\.pem: holds no PEM certificate"):
        rendezvous.client_context(str(tmp_path / "empty.pem"))
    with pytest.raises(ConfigError, match=r"none\.pem: cannot be read: No such file"):
        rendezvous.client_context(str(tmp_path / "none.pem"))
