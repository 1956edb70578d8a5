"""Files that others watch: they see all of one or nothing of it, and only we can read it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_private(path: Path, content: bytes) -> None:
    """Writes the file with mode 0600, in one step as far as readers can tell. The folder must exist.

    The file's name while it is written starts with a dot and ends in `.tmp`, so a watcher of *.yaml passes it over.
    """
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}-", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
