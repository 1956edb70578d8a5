"""An ordinary program that serves HTTP/1.1 with the standard library, and knows nothing of the mesh.

GET  /fail...   500
GET  /slow...   200, after 0.4 s
POST anything   200, the body sent back
GET  anything   200, {"workload": ..., "pid": ...}
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SLOW_SECONDS = 0.4


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 64 * 1024  # head and body leave together
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """As the table says."""
        self.take_time()
        who = {"workload": os.environ["CONDUIT_WORKLOAD"], "pid": os.getpid()}
        self.answer(500 if self.path.startswith("/fail") else 200, json.dumps(who).encode())

    def do_POST(self) -> None:
        """The body, sent back."""
        self.take_time()
        self.answer(200, self.rfile.read(int(self.headers["Content-Length"])))

    def take_time(self) -> None:
        """As long as the path asks for."""
        if self.path.startswith("/slow"):
            time.sleep(SLOW_SECONDS)

    def answer(self, status: int, body: bytes) -> None:
        """One response."""
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Not a word."""


class Server(ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True


if __name__ == "__main__":
    Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
