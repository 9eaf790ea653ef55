"""A server outside the cluster: the network of the control plane, in which no pod's address has a route."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from calico_py.lab.topology import LabSpec, compute_topology
from calico_py.model.net import Family
from tests.cluster.kube_cluster import Cluster

PORT = 8099

_SERVER = f"""
import http.server
import socket
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].removeprefix("::ffff:").encode())
    def log_message(self, *_):
        pass
server = Server(("::", {PORT}), Who)
print("listening", flush=True)
server.serve_forever()
"""


@contextlib.contextmanager
def who_server(kube: Cluster, family: Family = 4) -> Iterator[str]:
    """URL of a server that answers with the address of whoever asks."""
    topology = compute_topology(LabSpec(name=kube.name, nodes=len(kube.nodes)))
    host = topology.core4.ip if family == 4 else f"[{topology.core6.ip}]"
    enter = ["nsenter", f"--target={kube.control}", "--net", "--"]
    with subprocess.Popen([*enter, sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"listening\n"
        try:
            yield f"http://{host}:{PORT}/"
        finally:
            server.kill()
