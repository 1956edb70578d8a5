"""Seeds: one Python bytes literal on each line of `seeds/NAME.txt`, `#` begins a comment line that says what it is."""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "seeds"


def load(name: str) -> list[bytes]:
    """The seeds of one target. Raises ValueError or TypeError, with file and line, for what is no bytes literal."""
    path = FOLDER / f"{name}.txt"
    found = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        try:
            seed = ast.literal_eval(line.strip())
        except (ValueError, SyntaxError) as exc:
            raise ValueError(f"{path}:{number}: {exc}") from exc
        if not isinstance(seed, bytes):
            raise TypeError(f"{path}:{number}: not bytes")
        found.append(seed)
    return found


def spread(name: str, folder: Path) -> Path:
    """Write a target's seeds as files, as libFuzzer reads them; returns their folder."""
    there = folder / f"{name}.seeds"
    there.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(load(name)):
        (there / f"{number:03}").write_bytes(seed)
    return there
