"""What steps come to."""

from mesh.model.explain import Step, deciding, verdict

FOUND = Step("name", "found")
FIRST, SECOND = Step("policy", "allowed", by="a/b"), Step("policy", "allowed", by="c/d")


def test_what_ends_it_decides() -> None:
    """The first that has a verdict."""
    steps = (FOUND, FIRST, Step("limit", "rate_limited", verdict="refused"), Step("end", "x", verdict="denied"))
    assert (verdict(steps), deciding(steps)) == ("refused", 2)


def test_what_lets_it_through_decides_otherwise() -> None:
    """The last policy; where none was asked, nothing."""
    assert (verdict((FOUND, FIRST, SECOND, FOUND)), deciding((FOUND, FIRST, SECOND, FOUND))) == ("allowed", 2)
    assert (verdict((FOUND,)), deciding((FOUND,)), deciding(())) == ("allowed", -1, -1)
