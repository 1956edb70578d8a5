"""The proxy's hot modules, compiled by mypyc (ADR 0004): `make setup` builds them, `conduit proxy` uses them.

The source stays what it is, typed Python, and runs without this: tests run it interpreted, and where there is no C
compiler so does the proxy, at about twice the CPU per request of its own code. What was built is kept outside the
source tree under a key that all of model, wire and proxy go into, so an edit is never shadowed by an older build: it
runs interpreted until the next.

    python -m mesh.cli.compiled        build what is missing; says on stderr what it did
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import mesh

MODULES = (
    *("wire/head", "wire/http1", "wire/http1_head", "wire/http1_memo", "wire/http1_write"),
    *("wire/http2", "wire/messages", "wire/allowance"),
    *(
        "proxy/access",
        "proxy/again",
        "proxy/authorize",
        "proxy/egress",
        "proxy/inquiry",
        "proxy/rules",
        "proxy/witness",
    ),
    *("proxy/balance", "proxy/balance_hash", "proxy/balance_kinds", "proxy/balance_policy"),
    *("proxy/begin", "proxy/breaker", "proxy/budget", "proxy/care", "proxy/cluster", "proxy/deadlines"),
    *("proxy/downstream", "proxy/edit", "proxy/endpoint", "proxy/exchange", "proxy/faults", "proxy/hedge"),
    *("proxy/latencies", "proxy/leg", "proxy/limit", "proxy/mirror", "proxy/outgoing", "proxy/plan"),
    *("proxy/reactor", "proxy/report", "proxy/retry", "proxy/route", "proxy/upstream"),
)
"""What each request passes through. One group, so that calls between them are C calls."""
FORMAT = "1"
"""Changes when builds of the same source by this file would differ."""
KEPT = 3
"""Builds kept, for checkouts that share an environment."""
_SOURCE = Path(mesh.__file__).parent
_PACKAGES = ("model", "wire", "proxy")
_DONE = "complete"


def home() -> Path:
    """Where builds are kept: in the environment that this Python runs in."""
    return Path(sys.prefix) / "lib" / "conduit-compiled"


def key(source: Path = _SOURCE, modules: tuple[str, ...] = MODULES) -> str:
    """Names a build: the same for the same source, Python and platform. `source` is the folder of the package
    `mesh`."""
    digest = hashlib.sha256(f"{FORMAT} {sys.version} {sysconfig.get_platform()} {modules}".encode())
    for package in _PACKAGES:
        for path in sorted((source / package).glob("*.py")):
            digest.update(f"\0{package}/{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:32]


def use(builds: Path | None = None, modules: tuple[str, ...] = MODULES) -> bool:
    """Have the compiled modules imported from here on, if there is a build of just this source; tells whether there is.

    To be called before any of them is imported. `CONDUIT_COMPILED=0` in the environment keeps everything interpreted.
    """
    if os.environ.get("CONDUIT_COMPILED") == "0":
        return False
    folder = (builds or home()) / key(modules=modules)
    if not (folder / _DONE).is_file():
        return False
    sys.path.append(str(folder))  # the group's shared library is a module of its own
    for package in ("mesh.wire", "mesh.proxy"):
        importlib.import_module(package).__path__.insert(0, str(folder / package.replace(".", "/")))
    return True


def missing() -> str:
    """What a build needs and does not find, as a sentence; empty if nothing."""
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) is None:
        return f"there is no C compiler ({compiler})"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python's C headers are not installed"
    if importlib.util.find_spec("mypyc") is None:
        return "mypyc is not installed (pip install mypy)"
    return ""


def build(builds: Path | None = None, modules: tuple[str, ...] = MODULES) -> Path:
    """Compile `modules` from this source, if that has not been done, and return the folder that holds them.

    Raises CalledProcessError with the compiler's output."""
    builds = builds or home()
    target = builds / key(modules=modules)
    if (target / _DONE).is_file():
        return target
    builds.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=builds, prefix="building-") as work:
        copy = Path(work)
        shutil.copytree(_SOURCE, copy / "mesh", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        # of what is compiled, should somebody be editing the source just now
        target = builds / key(copy / "mesh", modules)
        files = [f"mesh/{module}.py" for module in modules]
        environment = {**os.environ, "MYPYC_OPT_LEVEL": "3"}
        command = [sys.executable, "-m", "mypyc", "--strict", *files]
        subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, text=True)
        built = copy / "built"
        for library in [*copy.glob("*.so"), *(copy / "mesh").rglob("*.so")]:
            place = built / library.relative_to(copy)
            place.parent.mkdir(parents=True, exist_ok=True)
            library.rename(place)
        (built / _DONE).touch()
        if not target.exists():
            built.rename(target)
    _forget_old(builds)
    return target


def _forget_old(builds: Path) -> None:
    done = [folder for folder in builds.iterdir() if (folder / _DONE).is_file()]
    for folder in sorted(done, key=lambda folder: folder.stat().st_mtime)[:-KEPT]:
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    """Build if it can be built. 1 only where it should have worked and did not."""
    lacking = missing()
    if lacking:
        print(f"conduit: the proxy will run interpreted: {lacking}", file=sys.stderr)
        return 0
    try:
        folder = build()
    except subprocess.CalledProcessError as exc:
        print(f"conduit: mypyc failed:\n{exc.stdout}{exc.stderr}", file=sys.stderr)
        return 1
    print(f"conduit: the proxy's hot modules are compiled ({folder.name})", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
