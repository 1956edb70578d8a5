"""`conduit`, with a bug: a request for /evil/bug makes the code that handles its connection raise."""

import os
import sys

os.environ["CONDUIT_COMPILED"] = "0"  # what is compiled has no subclasses

from mesh.cli.main import main
from mesh.wire import http2
from mesh.wire.codec import Codec, Event, Request


class Buggy(http2.Http2):
    """A codec that cannot stand one path."""

    def receive(self, data: bytes) -> list[Event]:
        events = super().receive(data)
        for event in events:
            if isinstance(event, Request) and event.head.path == b"/evil/bug":
                raise RuntimeError("a bug")
        return events


if __name__ == "__main__":
    kind: type[Codec] = Buggy
    http2.Http2 = kind
    sys.exit(main())
