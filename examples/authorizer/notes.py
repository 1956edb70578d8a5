"""An application that leaves it to others to find out who is asking: it says what it is told, on 127.0.0.1:$PORT."""

import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Notes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        user = self.headers.get("x-user", "nobody")
        key = "with a key" if "x-api-key" in self.headers else "without a key"
        body = f"{self.path}: notes of {user}, {key}\n".encode()
        self.send_response(200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """The mesh sees every request already."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "8080"))), Notes).serve_forever()
