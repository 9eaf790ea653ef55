"""Stands in for the agent where a test is about the lab itself: ready at once, answers as the agent's health server."""

import os
from http.server import BaseHTTPRequestHandler, HTTPServer


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        cause = os.environ.get("CAUSE", "")
        self.send_response(503 if cause else 200)
        self.end_headers()
        self.wfile.write(cause.encode() or b"ready")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the standard library
        print(format % args, flush=True)


print("environment", sorted(f"{key}={value}" for key, value in os.environ.items() if "CALICO" in key), flush=True)
HTTPServer(("127.0.0.1", 9099), _Health).serve_forever()
