"""Every seed, what fuzzing found among them, goes through its target; so does what hypothesis thinks of."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.rules import Broke
from fuzz.seeds import FOLDER, load
from fuzz.targets import TARGETS, same


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_seeds_break_nothing(name: str) -> None:
    """No seed of this target breaks a rule, and there are some."""
    seeds = load(name)
    assert seeds
    for seed in seeds:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", sorted(TARGETS))
@settings(max_examples=40, deadline=None)
@given(noise=st.binary(max_size=200), cut=st.integers(0, 200), which=st.integers(0, 100))
def test_seeds_with_noise_break_nothing(name: str, noise: bytes, cut: int, which: int) -> None:
    """Nor does a seed into which something else was put."""
    seeds = load(name)
    seed = seeds[which % len(seeds)]
    TARGETS[name](seed[:cut] + noise + seed[cut:])


def test_every_file_of_seeds_is_a_targets() -> None:
    """No seeds lie about that nobody runs."""
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(TARGETS)


def test_the_rules_can_be_broken() -> None:
    """Two codecs that were told different things are found out."""

    class Told:
        broken = False

        def __init__(self, *told: object) -> None:
            self.told = [("Request", one) for one in told]

    with pytest.raises(Broke):
        same(Told("a"), Told("b"))  # type: ignore[arg-type]
