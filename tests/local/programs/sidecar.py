"""Stands in for a proxy: answers /ready on the admin port of its proxy.yaml with 200, and ends on SIGTERM.

With SIDECAR_EXIT in the environment it exits with that status instead, before it is ready.
"""

import http.server
import os
import re
import signal
import sys
from pathlib import Path


class Ready(http.server.BaseHTTPRequestHandler):
    """200 to everything."""

    def do_GET(self) -> None:
        """Answers."""
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


def main() -> None:
    """Serves until SIGTERM."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if status := os.environ.get("SIDECAR_EXIT"):
        print("sidecar cannot listen: the address is in use", flush=True)
        sys.exit(int(status))
    admin = re.search(r"^admin: 127.0.0.1:(\d+)$", Path(sys.argv[1]).read_text(), re.MULTILINE)
    assert admin is not None
    http.server.HTTPServer(("127.0.0.1", int(admin[1])), Ready).serve_forever()


main()
