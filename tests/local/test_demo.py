"""The demo's pure parts; the whole of it runs in tests/cli/test_demo.py."""

import io
from pathlib import Path

import pytest

from mesh.local import demo
from mesh.local.demo import Demo, digits, find_example, missing_modules, summary_of
from mesh.local.log import StreamLog
from mesh.model.api import StatRow
from mesh.model.errors import ConduitError


def row(name: str, requests: int, success: float | None, p99: float | None = 9.0) -> StatRow:
    """A service's row."""
    return StatRow(name, "demo", "service", "http1", requests, 1.0, success, 1.23456, 5.0, p99, 1, 1)


def test_summary_adds_up() -> None:
    """Requests of all services, success by their weight, the rate since traffic began, latencies of the entry."""
    before = [row("web", 10, 1.0), row("words", 10, 0.5)]
    summary = summary_of(before, [row("words", 100, 0.5, 2.0), row("web", 300, 1.0, 7.0)], 10.0)
    assert (summary.requests, summary.success_rate, summary.rps) == (400, 0.875, 38.0)
    assert (summary.p50_ms, summary.p99_ms, summary.entry) == (1.235, 7.0, "web")
    assert [service.name for service in summary.services] == ["web", "words"]


def test_summary_of_nothing() -> None:
    """No request is no rate, not a division by zero."""
    summary = summary_of([], [row("web", 0, None, None)], 0.0)
    assert (summary.requests, summary.success_rate, summary.rps, summary.p99_ms) == (0, None, 0.0, None)
    assert digits(None) is None


def test_missing_modules_are_found(tmp_path: Path) -> None:
    """Imported ones, and those that a call needs; neither ours, nor the library's, nor what is installed."""
    (tmp_path / "a.py").write_text("import os, no_such_a.b\nfrom no_such_c.d import e\nimport b, trio\n")
    (tmp_path / "b.py").write_text("from . import a\nx = grpc.protos_and_services('v')\n")
    assert missing_modules(tmp_path) == ["no_such_a", "no_such_c"]


def test_missing_library_is_told_with_its_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is started."""
    (tmp_path / "mesh.yaml").write_text("")
    (tmp_path / "web.py").write_text("import no_such_library\n")
    monkeypatch.setattr(demo, "find_example", lambda: tmp_path / "mesh.yaml")
    with pytest.raises(ConduitError, match=r"need no_such_library: pip install 'conduit-mesh\[demo\]'"):
        Demo(StreamLog(io.StringIO()), lambda: None)  # type: ignore[arg-type, return-value]


def test_example_is_found() -> None:
    """In the checkout, or in an installed package."""
    assert find_example().parts[-2:] == ("polls", "mesh.yaml")
