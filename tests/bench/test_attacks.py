"""What is measured beside attacks, and how it is told."""

import os

from bench import attacks
from bench.attacks import AttackSample, describe
from bench.report import Results, markdown
from tests.hostile.attacks import ATTACKS


def test_every_attack_is_measured() -> None:
    """What tests/hostile knows is what the benchmark runs, each once."""
    planned = [attack for _, kinds in attacks._plan() for attack in kinds]
    assert sorted(planned) == sorted(ATTACKS)


def test_the_table() -> None:
    """A ratio is judged by the limit; a client that lost something has no figure, and what it lost is told."""
    samples = [
        AttackSample("calm", "http1", 1000.0, 4000.0),
        AttackSample("storm", "http2", 1000.0, 6000.0),
        AttackSample("ruin", "http2", 1000.0, error="3 failed\nof 10"),
    ]
    text = markdown(Results([], [], [], samples), {})
    assert "| calm   | http1         |            1,000 |             4,000 |   4.0 | met " in text
    assert "| storm  | http2         |            1,000 |             6,000 |   6.0 | missed " in text
    assert "|            FAILED |     - | 3 failed of 10 |" in text


def test_progress() -> None:
    """Each attack has its line."""
    assert describe(AttackSample("calm", "http1", 1000.0, 4000.0)) == (
        "attacks calm: p99 4000 µs, quiet 1000 µs, 4.0 times"
    )
    assert describe(AttackSample("ruin", "http2", 1.0, error="gone")) == "attacks ruin: FAILED: gone"


def test_one_attack_for_real(monkeypatch) -> None:
    """The victim, the attacker and the honest client start, and the honest one loses nothing."""
    core = min(os.sched_getaffinity(0))
    monkeypatch.setattr(attacks, "_plan", lambda: iter([("http2", ["ping_flood"])]))
    monkeypatch.setattr(attacks, "ATTACK_SECONDS", 1)
    monkeypatch.setattr(attacks, "QUIET_RUNS", 1)
    told: list[str] = []
    (sample,) = attacks.execute(core, core, told.append)
    assert sample.error == ""
    assert sample.p99 is not None
    assert len(told) == 1
