"""Where the commands of one user find the mesh that runs on this machine: a 0600 file in a 0700 folder.

The folder is `$XDG_RUNTIME_DIR/conduit` or the platform's equivalent. Rules: a folder or file that somebody else owns
or could have written is refused, since the token in it opens the mesh and its address receives our requests. At most
one mesh per user runs at a time, which a lock held by its process ensures; what a killed one left behind is stale.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import ssl
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import msgspec
import platformdirs

from mesh.local.atomic import write_private
from mesh.model.api import RuntimeFile
from mesh.model.errors import ConduitError, ConfigError, ControlError

FILE_NAME = "mesh.json"
LOCK_NAME = "mesh.lock"


class Found(NamedTuple):
    """A control plane to talk to: where, what opens it, and the PEM file of who vouches for it (empty: the system)."""

    control: str
    token: str
    ca: str = ""


def runtime_folder() -> Path:
    """This user's folder, existing or not."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base:
        return Path(base) / "conduit"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the variable is not set is no news to whom it concerns
        return platformdirs.user_runtime_path("conduit")


def make_folder(folder: Path) -> None:
    """Makes the folder, 0700, and checks it; raises ConduitError where it cannot be trusted."""
    try:
        folder.mkdir(parents=True, mode=0o700, exist_ok=True)
    except OSError as exc:
        raise ConduitError(f"{folder}: cannot be made: {exc.strerror}") from exc
    check_folder(folder)


def check_folder(folder: Path) -> None:
    """Raises ConduitError unless we alone can write in it, and nobody can put another in its place."""
    ours = os.getuid()
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise ConduitError(f"{folder}: is not a folder (a link is not followed)")
    if found.st_uid != ours:
        raise ConduitError(f"{folder}: belongs to user {found.st_uid}, not to you ({ours})")
    if found.st_mode & 0o077:
        raise ConduitError(f"{folder}: others can enter it; `chmod 700 {folder}` and look who has been there")
    above = folder.parent.stat()
    if above.st_uid not in (ours, 0) or (above.st_mode & 0o022 and not above.st_mode & stat.S_ISVTX):
        raise ConduitError(f"{folder.parent}: others can replace what is in it")


def read(folder: Path) -> RuntimeFile | None:
    """The running mesh, or None where there is none; raises ConduitError where the file cannot be trusted."""
    try:
        check_folder(folder)
        descriptor = os.open(folder / FILE_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConduitError(f"{folder / FILE_NAME}: {exc.strerror}") from exc
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if found.st_uid != os.getuid() or found.st_mode & 0o077:
            raise ConduitError(f"{folder / FILE_NAME}: others could have written or read it; remove it")
        text = file.read()
    try:
        runtime = msgspec.json.decode(text, type=RuntimeFile)
    except msgspec.DecodeError as exc:
        raise ConduitError(f"{folder / FILE_NAME}: not what conduit wrote ({exc}); remove it") from exc
    return runtime if alive(runtime.pid) else None


def alive(pid: int) -> bool:
    """Whether there is such a process."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the right to run this user's mesh; raises ConduitError, naming the holder, where another process has it."""
    make_folder(folder)
    descriptor = os.open(folder / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            raise ConduitError(
                f"a mesh is running already (process {holder or 'unknown'}); stop it first, "
                "or join it with `conduit run` or `conduit apply`"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def announce(folder: Path, runtime: RuntimeFile) -> Iterator[None]:
    """Lets other commands find this mesh while the block runs; the caller holds `lock(folder)`."""
    write_private(folder / FILE_NAME, msgspec.json.encode(runtime))
    try:
        yield
    finally:
        (folder / FILE_NAME).unlink(missing_ok=True)


def find(control: str | None = None, token: str | None = None, ca: str | None = None) -> Found:
    """The control plane to talk to.

    What is given comes first, then CONDUIT_CONTROL, CONDUIT_TOKEN and CONDUIT_CA, then the mesh that runs on this
    machine. Raises ControlError, which says what to do, where there is none.
    """
    control = (control or os.environ.get("CONDUIT_CONTROL") or "").rstrip("/")
    token = token or os.environ.get("CONDUIT_TOKEN") or ""
    ca = ca or os.environ.get("CONDUIT_CA") or ""
    if control and token:
        return Found(control, token, ca or vouching(control))
    running = read(runtime_folder())
    if running is None:
        if control:
            raise ControlError(f"no token for {control}: give --token or set CONDUIT_TOKEN")
        raise ControlError(
            "no mesh is running: start one with `conduit up -f mesh.yaml` or `conduit demo`, or give --control URL"
        )
    if control and not same_place(control, running.control):
        raise ControlError(f"no token for {control}: give --token or set CONDUIT_TOKEN")
    return Found(control or running.control, token or running.token, ca or running.anchors)


def vouching(control: str) -> str:
    """The roots of the mesh on this machine, where this is the address of its control plane; empty where not."""
    if not control.startswith("https:"):
        return ""
    try:
        running = read(runtime_folder())
    except ConduitError:
        return ""  # a folder that cannot be trusted vouches for nobody
    return running.anchors if running is not None and same_place(control, running.control) else ""


def same_place(one: str, other: str) -> bool:
    """Whether two URLs lead to the same host and port: the control plane's port speaks with TLS and without."""
    return urlsplit(one).netloc == urlsplit(other).netloc


def client_context(anchors: str) -> ssl.SSLContext:
    """For asking a control plane whose certificate these roots vouch for; an empty path means the system's roots.

    Raises ConfigError where the file holds none.
    """
    if not anchors:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cafile=anchors)
    except ssl.SSLError as exc:
        raise ConfigError("holds no PEM certificate to trust", file=anchors) from exc
    except OSError as exc:
        raise ConfigError(f"cannot be read: {exc.strerror}", file=anchors) from exc
    return context


def joined() -> RuntimeFile:
    """The mesh that runs on this machine; raises ControlError where there is none to join."""
    running = read(runtime_folder())
    if running is None:
        raise ControlError("no mesh is running to join: start one with `conduit up -f mesh.yaml` or `conduit demo`")
    return running
