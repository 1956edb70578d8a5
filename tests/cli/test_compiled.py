"""The compiled build: what names it, when it is used, and that it is never older than the source."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mesh
from mesh.cli import compiled

ONE = ("wire/head",)
SAY_WHICH = """
import pathlib, sys
from mesh.cli import compiled
used = compiled.use(pathlib.Path(sys.argv[1]), ("wire/head",))
import mesh.wire.head as head
print(used, pathlib.Path(head.__file__).suffix, head.Head.response(204).status)
"""


@pytest.fixture(name="checkout")
def _checkout(tmp_path: Path) -> Path:
    """A copy of the source that a test may edit."""
    source = Path(mesh.__file__).parent
    shutil.copytree(source, tmp_path / "mesh", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def run(checkout: Path, code: str, *arguments: str, **environment: str) -> str:
    """What Python prints when it runs `code` against the checkout."""
    env = {**os.environ, "PYTHONPATH": str(checkout), **environment}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], env=env, capture_output=True, text=True, check=True, timeout=50
    )
    return done.stdout.strip()


def test_the_key_follows_every_source_file(checkout: Path):
    """An edit in any module of model, wire or proxy names another build, also one that is not compiled itself."""
    before = compiled.key(checkout / "mesh")
    assert before == compiled.key(checkout / "mesh")
    seen = {before}
    for name in ("model/limits.py", "wire/codec.py", "proxy/exchange.py"):
        with (checkout / "mesh" / name).open("a") as file:
            file.write("# edited\n")
        seen.add(compiled.key(checkout / "mesh"))
    assert len(seen) == 4
    assert compiled.key(checkout / "mesh", ONE) not in seen


def test_every_module_exists():
    """The list of hot modules names files that are there."""
    for module in compiled.MODULES:
        assert (Path(mesh.__file__).parent / f"{module}.py").is_file(), module


def test_without_a_build_it_runs_interpreted(checkout: Path, tmp_path: Path):
    """No build, no effect."""
    assert run(checkout, SAY_WHICH, str(tmp_path / "builds")) == "False .py 204"


def test_a_build_is_used_until_the_source_changes(checkout: Path, tmp_path: Path):
    """A build serves just the source it was made of; the switch in the environment turns it off."""
    assert compiled.missing() == ""
    builds = tmp_path / "builds"
    code = (
        f"import pathlib; from mesh.cli import compiled; print(compiled.build(pathlib.Path({str(builds)!r}), {ONE!r}))"
    )
    folder = Path(run(checkout, code))
    assert folder.parent == builds
    assert run(checkout, SAY_WHICH, str(builds)) == "True .so 204"
    assert run(checkout, SAY_WHICH, str(builds), CONDUIT_COMPILED="0") == "False .py 204"
    with (checkout / "mesh" / "wire" / "head.py").open("a") as file:
        file.write("# edited\n")
    assert run(checkout, SAY_WHICH, str(builds)) == "False .py 204"
    assert sorted(path.name for path in builds.iterdir()) == [folder.name]
