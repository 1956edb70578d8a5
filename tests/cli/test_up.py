"""conduit up: what it refuses before anything is started. Its life is tested in tests/end_to_end."""

from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from mesh.local import trust


@pytest.fixture
def mesh(tmp_path: Path) -> Path:
    """A mesh.yaml without workloads."""
    path = tmp_path / "mesh.yaml"
    path.write_text("")
    return path


def test_trust_is_three_files(conduit: Callable, mesh: Path, tmp_path: Path, own_runtime_folder: Path) -> None:
    """Some of them are none, and those that do not belong together are told by file."""
    files = trust.make(tmp_path)
    result = conduit("up", "-f", mesh, "--trust-anchors", files.anchors)
    assert result.code == 1
    assert "--issuer-cert and --issuer-key" in result.err
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    options = ["--trust-anchors", tmp_path / "other.pem", "--issuer-cert", files.issuer, "--issuer-key", files.key]
    result = conduit("up", "-f", mesh, *options)
    assert result.code == 1
    assert f"{files.issuer}: issuer: is not signed by any of the anchors" in result.err
    assert not own_runtime_folder.exists()


def test_files_must_be_there(conduit: Callable, mesh: Path, tmp_path: Path) -> None:
    """A path that leads nowhere is wrong usage."""
    assert conduit("up", "-f", mesh, "--issuer-key", tmp_path / "none").code == 2
    assert conduit("up", "-f", tmp_path / "none").code == 2
