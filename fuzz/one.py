"""One target under atheris, with its modules instrumented; `__main__` starts it and says which."""

from __future__ import annotations

import os
import sys

import atheris

with atheris.instrument_imports(include=["mesh"]):
    from fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup(sys.argv, TARGETS[os.environ["CONDUIT_FUZZ_TARGET"]])
    atheris.Fuzz()
