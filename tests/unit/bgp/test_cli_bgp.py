"""What `calico-py bgp` prints of a status, and what it says when there is none."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import pytest
from click.testing import CliRunner

from calico_py.cli.bgp import command

BGP: dict[str, Any] = {
    "backend": "bird",
    "as_number": 64512,
    "router_id": "10.0.0.1",
    "speaker_problem": "",
    "announced": ["10.61.0.0/26"],
    "learned": 1,
    "peers": [
        {
            "name": "Mesh_10_0_0_2",
            "address": "10.0.0.2",
            "as_number": 64512,
            "state": "Connect",
            "since": "2026-11-24T06:05:00Z",
            "received": 0,
            "in_sync": False,
            "last_error": "there is no route to 10.0.0.2: add one, or correct the address",
        }
    ],
    "paths": [
        {
            "prefix": "10.62.0.0/26",
            "next_hops": ["10.0.0.2", "10.0.0.3"],
            "peer": "10.0.0.2",
            "as_path": "65001 {7 9}",
            "reason": "only path",
            "stale": True,
        }
    ],
}


@pytest.fixture
def port() -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"bgp": BGP, "now": "2026-11-24T08:35:00Z"}).encode())

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_text(port: int) -> None:
    done = CliRunner().invoke(command, ["--port", str(port)], env={"COLUMNS": "120"})
    assert done.exit_code == 0
    for words in (
        "AS 64512, router id 10.0.0.1",
        "10.0.0.2: there is no route to 10.0.0.2",
        "10.0.0.2, 10.0.0.3",
        "65001 {7 9}",
        "only path, stale",
        "2 h",
        "10.61.0.0/26",
    ):
        assert words in done.output


def test_json(port: int) -> None:
    done = CliRunner().invoke(command, ["--port", str(port), "-o", "json"])
    assert json.loads(done.output) == BGP


def test_no_agent() -> None:
    done = CliRunner().invoke(command, ["--port", "1"])
    assert done.exit_code == 1
    assert "is calico-py node running on this node?" in done.output
