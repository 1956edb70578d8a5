"""The trust of a local mesh: what is made, for whom it can be read, and what is taken instead."""

import time
from pathlib import Path

import pytest
import trustme
from cryptography import x509

from mesh.control.issuer import read
from mesh.local import trust
from mesh.model.errors import ConfigError


def test_what_is_made_signs(tmp_path: Path) -> None:
    """The control plane's own reader takes the three files: one root, and an issuer below it that may sign nothing but
    workloads."""
    files = trust.make(tmp_path)
    issuer = read(files, time.time())
    [root] = issuer.anchors
    assert issuer.certificate.issuer == root.subject != issuer.certificate.subject
    constraints = issuer.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)


def test_only_we_can_read_it(tmp_path: Path) -> None:
    """The folder is 0700, each file 0600, and the root's key is in none."""
    files = trust.make(tmp_path)
    assert (tmp_path / "identity").stat().st_mode & 0o777 == 0o700
    assert [path.stat().st_mode & 0o777 for path in files] == [0o600] * 3
    assert sorted(path.name for path in (tmp_path / "identity").iterdir()) == [
        "anchors.pem",
        "issuer.key",
        "issuer.pem",
    ]
    assert [b"PRIVATE KEY" in path.read_bytes() for path in files] == [False, False, True]


def test_two_meshes_share_nothing(tmp_path: Path) -> None:
    """Each has roots of its own name and key."""
    subjects = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        subjects.add(read(trust.make(tmp_path / name), time.time()).anchors[0].subject)
    assert len(subjects) == 2


def test_own_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All three or none; they are checked here, and told to the control plane by their full paths."""
    files = trust.make(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = trust.given(*(path.relative_to(tmp_path) for path in files))
    assert given == files
    assert trust.options(files) == [
        *("--trust-anchors", str(files.anchors)),
        *("--issuer-cert", str(files.issuer)),
        *("--issuer-key", str(files.key)),
    ]
    assert trust.given(None, None, None) is None
    with pytest.raises(ConfigError, match="--issuer-key"):
        trust.given(files.anchors, files.issuer, None)


def test_files_that_do_not_fit_together(tmp_path: Path) -> None:
    """An issuer that no root has signed is told before anything is started."""
    files = trust.make(tmp_path)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    with pytest.raises(ConfigError, match="is not signed by any of the anchors"):
        trust.given(tmp_path / "other.pem", files.issuer, files.key)
