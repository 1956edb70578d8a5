"""A supervisor in a process of its own, with stand-ins for both planes: what `conduit up -f FILE` does."""

import sys
from pathlib import Path

import trio

from mesh.local.log import StreamLog
from mesh.local.signals import until_signalled
from mesh.local.supervise import Mesh

HERE = Path(__file__).parent
BARE = (sys.executable, "-I", "-S")
mesh = Mesh(
    [Path(sys.argv[1])],
    StreamLog(),
    control_command=(*BARE, str(HERE / "control.py")),
    proxy_command=(*BARE, str(HERE / "sidecar.py")),
)


async def work() -> int:
    """Runs until a signal."""
    await mesh.run()
    return 0


sys.exit(trio.run(until_signalled, work))
