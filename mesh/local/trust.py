"""What a mesh on one machine trusts: a root of its own, and the certificate below it that signs what workloads show.

Made once, before the control plane starts, into `identity/` of the state folder: a control plane that dies and comes
back signs with the same key, and nobody's certificate becomes worthless. The root's key is never written: when the
process that made it ends, nothing can be signed with it any more. Whoever wants another root gives files of their own.

From here on the control plane watches the files, so a new root or issuer is put in force by replacing them.
"""

from __future__ import annotations

import secrets
import time
from pathlib import Path

import trustme

from mesh.control.authority import trust_files
from mesh.control.issuer import TrustFiles, read
from mesh.local.atomic import write_private

FOLDER = "identity"
"""In the state folder."""
ORGANIZATION = "Conduit"


def make(state: Path) -> TrustFiles:
    """A new root and issuer (EC P-256), in files that we alone can read."""
    folder = state / FOLDER
    folder.mkdir(mode=0o700)
    number = secrets.token_hex(4)
    root = trustme.CA(path_length=1, organization_name=ORGANIZATION, organization_unit_name=f"root {number}")
    issuer = trustme.CA(
        parent_cert=root, path_length=0, organization_name=ORGANIZATION, organization_unit_name=f"issuer {number}"
    )
    files = TrustFiles(folder / "anchors.pem", folder / "issuer.pem", folder / "issuer.key")
    write_private(files.anchors, root.cert_pem.bytes())
    write_private(files.issuer, issuer.cert_pem.bytes())
    write_private(files.key, issuer.private_key_pem.bytes())
    return files


def given(anchors: Path | None, issuer: Path | None, key: Path | None) -> TrustFiles | None:
    """The user's own files, None where there are none; raises ConfigError where only some are given, or they are not
    good together."""
    files = trust_files(anchors, issuer, key)
    if files is None:
        return None
    read(files, time.time())
    return TrustFiles(*(path.resolve() for path in files))


def options(files: TrustFiles) -> list[str]:
    """As the command line of the control plane wants them."""
    names = ("--trust-anchors", "--issuer-cert", "--issuer-key")
    return [word for name, path in zip(names, files, strict=True) for word in (name, str(path))]
