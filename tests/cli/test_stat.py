"""conduit stat, against a real control plane without traffic."""

import json
from collections.abc import Callable

import pytest
import yaml

from mesh.cli.stat import show, update

ROW = (
    '{"name":"web","namespace":"demo","kind":"service","protocol":"http1","requests":90,"rps":9.0,'
    '"success_rate":0.5,"p50_ms":1.25,"p95_ms":20.0,"p99_ms":300.0,"tcp_open":4,"endpoints":2}'
)
ANSWER = f'{{"rows":[{ROW}],"window":10.0}}'


def test_service_without_traffic(conduit: Callable, control: str) -> None:
    """It is there, with dashes for what was not measured; in JSON those are null."""
    assert conduit("stat") == (
        0,
        "NAME    PROTOCOL   ENDPOINTS   SUCCESS      RPS   LATENCY_P50   LATENCY_P95   LATENCY_P99   TCP_CONN\n"
        "words   -                  0         -   0.0rps             -             -             -          0\n",
        "",
    )
    [row] = json.loads(conduit("stat", "svc", "-t", "1m", "-o", "json").out)
    assert (row["name"], row["requests"], row["success_rate"], row["p99_ms"]) == ("words", 0, None, None)
    [row] = yaml.safe_load(conduit("stat", "workload", "-o", "yaml").out)
    assert row["name"] == "words-v1"


def test_row_with_traffic() -> None:
    """Percent and milliseconds for people, the numbers themselves for programs."""
    title, line, _ = show(ANSWER, "wide").split("\n")
    assert line.split() == [*("web", "demo", "http1", "2", "50.00%", "9.0rps", "1.2ms", "20.0ms", "300ms", "4", "90")]
    assert [title.index(word) for word in ("NAME", "NAMESPACE")] == [0, 7]
    assert json.loads(show(ANSWER, "json")) == [json.loads(ROW)]


@pytest.mark.parametrize(("how", "ends"), [("json", "]\n"), ("yaml", "endpoints: 2\n"), ("table", "4\n\n")])
def test_updates_of_a_watch(capsys: pytest.CaptureFixture[str], how: str, ends: str) -> None:
    """One line each in JSON; documents in YAML; on no terminal, tables with a line between them."""
    assert update(how, ANSWER)
    out = capsys.readouterr().out
    assert out.endswith(ends)
    assert how != "json" or out.count("\n") == 1
    assert "\x1b" not in out


def test_bad_window_is_wrong_usage(conduit: Callable) -> None:
    """Before anything is asked."""
    assert conduit("stat", "-t", "soon").code == 2
