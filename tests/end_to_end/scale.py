"""How much traffic the end-to-end tests send: a little in the suite, all that was promised when asked.

`CONDUIT_SCALE=full .venv/bin/pytest tests/end_to_end --timeout 900` runs the same tests at full size.
"""

import os

FULL = os.environ.get("CONDUIT_SCALE", "") == "full"

REQUESTS = 200_000 if FULL else 10_000
"""Sent by h2load in each mode."""
BODY_BYTES = 2 * 1024**3 if FULL else 96 * 1024**2
"""Of one big body."""
IDLE_CONNECTIONS = 10_000 if FULL else 1_000
CANCELLATIONS = 20 if FULL else 4
"""In each pair of protocols."""
DRAIN_SECONDS = 5.0 if FULL else 0.5
"""Of load before a draining proxy gets its signal."""
