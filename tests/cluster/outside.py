"""A server outside the cluster: the network of the control plane, in which no pod's address has a route."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from tests.cluster.kube_cluster import Cluster

PORT = 8099

_SERVER = f"""
import http.server
class Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("", {PORT}), Who)
print("listening", flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def who_server(kube: Cluster) -> Iterator[str]:
    """URL of a server that answers with the address of whoever asks."""
    enter = ["nsenter", f"--target={kube.control}", "--net", "--"]
    with subprocess.Popen([*enter, sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        try:
            yield f"http://{kube.plan.address}:{PORT}/"
        finally:
            server.kill()
