"""Stands in for a control plane: answers /api/v1/version on the port of --listen to who has the token.

With CONTROL_EXIT in the environment it ends with that status instead, with CONTROL_SILENT it never listens.
"""

import http.server
import os
import signal
import sys


class Version(http.server.BaseHTTPRequestHandler):
    """200 with the right token."""

    def do_GET(self) -> None:
        """Answers."""
        good = self.headers["authorization"] == f"Bearer {os.environ['CONDUIT_TOKEN']}"
        self.send_response(200 if good and self.path == "/api/v1/version" else 401)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
host, _, port = sys.argv[sys.argv.index("--listen") + 1].partition(":")
print("control", *sys.argv[1:], flush=True)
if "CONTROL_SILENT" in os.environ:
    signal.pause()
if "CONTROL_EXIT" in os.environ:
    sys.exit(int(os.environ["CONTROL_EXIT"]))
http.server.HTTPServer((host, int(port)), Version).serve_forever()
