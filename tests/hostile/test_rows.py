"""No row of `rows.py` is without its tests, and no attack without one of a kind that is run."""

import ast
from pathlib import Path

import pytest

from tests.hostile.attacks import ATTACKS
from tests.hostile.rows import ROWS

HERE = Path(__file__).parent


def docstrings() -> dict[str, str]:
    """Of all tests in this folder, but for this file's."""
    found = {}
    for path in HERE.glob("test_*.py"):
        if path != Path(__file__):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                    found[node.name] = ast.get_docstring(node) or ""
    return found


@pytest.mark.parametrize("row", ROWS)
def test_each_row_has_its_tests(row: str) -> None:
    """They exist, and say so themselves."""
    found = docstrings()
    assert ROWS[row]
    for name in ROWS[row]:
        assert found[name].startswith(f"Row: {row}"), name


def test_each_test_has_its_row() -> None:
    """And each stands in the table once."""
    listed = [name for names in ROWS.values() for name in names]
    assert sorted(listed) == sorted(docstrings())


def test_each_attack_is_made() -> None:
    """By name, or as a function."""
    source = "".join(path.read_text() for path in HERE.glob("test_*.py"))
    assert [name for name in ATTACKS if f'"{name}"' not in source and f"attacks.{name}(" not in source] == []
