"""conduit version."""

import json
from collections.abc import Callable
from importlib.metadata import version


def test_version_for_people_and_programs(conduit: Callable) -> None:
    """Both tell the installed distribution's version."""
    assert conduit("version") == (0, f"conduit {version('conduit-mesh')}\n", "")
    told = json.loads(conduit("version", "-o", "json").out)
    assert told["version"] == version("conduit-mesh")
    assert told["codecs"]["ngh2"] == version("ngh2")
