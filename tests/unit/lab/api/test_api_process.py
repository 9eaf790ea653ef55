"""The embedded server as a process: sockets that it is given, what it keeps, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

POOL = {
    "apiVersion": "projectcalico.org/v3",
    "kind": "IPPool",
    "metadata": {"name": "p1"},
    "spec": {"cidr": "10.244.0.0/16"},
}
POOLS = "/apis/projectcalico.org/v3/ippools"


@contextmanager
def running(
    folder: Path, *arguments: str, fds: tuple[int, ...] = ()
) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """The process and the ports that it says it listens on."""
    ports = folder / "ports"
    ports.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "calico_py.lab.api", "--port-file", str(ports), *arguments],
        stderr=subprocess.PIPE,
        text=True,
        pass_fds=fds,
    )
    try:
        while not ports.exists():
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        yield process, [int(line) for line in ports.read_text().split()]
    finally:
        process.kill()
        process.wait()
        if process.stderr:
            process.stderr.close()


def ask(port: int, path: str, body: Any = None, host: str = "127.0.0.1") -> Any:
    """The answer to GET, or to POST with a body."""
    data = None if body is None else json.dumps(body).encode()
    with urlopen(
        Request(f"http://{host}:{port}{path}", data, {"Content-Type": "application/json"}), timeout=10
    ) as found:
        return json.load(found)


def test_it_listens_on_several_sockets_of_both_families(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", "127.0.0.1:0", "--listen", "[::1]:0") as (_, (four, six)):
        ask(four, POOLS, POOL)
        assert ask(six, f"{POOLS}/p1", host="[::1]")["spec"]["cidr"] == "10.244.0.0/16"


def test_it_takes_over_sockets_that_are_open(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as two:
        given = [each.getsockname()[1] for each in (one, two)]
        fds = (one.fileno(), two.fileno())
        with running(tmp_path, "--fd", str(fds[0]), "--fd", str(fds[1]), fds=fds) as (_, ports):
            assert ports == given
            ask(ports[0], POOLS, POOL)
            assert len(ask(ports[1], POOLS)["items"]) == 1


def test_objects_outlive_a_killed_process_and_versions_go_on(tmp_path: Path) -> None:
    keep = ("--listen", "127.0.0.1:0", "--db", str(tmp_path / "db"))
    with running(tmp_path, *keep) as (process, (port,)):
        made = ask(port, POOLS, POOL)
        process.kill()
    with running(tmp_path, *keep) as (_, (port,)):
        assert ask(port, f"{POOLS}/p1") == made
        other = {**POOL, "metadata": {"name": "p2"}}
        later = ask(port, POOLS, other)
        assert int(later["metadata"]["resourceVersion"]) > int(made["metadata"]["resourceVersion"])


def test_a_watch_goes_on_after_a_restart(tmp_path: Path) -> None:
    keep = ("--listen", "127.0.0.1:0", "--db", str(tmp_path / "db"))
    with running(tmp_path, *keep) as (process, (port,)):
        ask(port, POOLS, POOL)
        since = ask(port, POOLS)["metadata"]["resourceVersion"]
        process.kill()
    with running(tmp_path, *keep) as (_, (port,)):
        ask(port, POOLS, {**POOL, "metadata": {"name": "p2"}})
        url = f"http://127.0.0.1:{port}{POOLS}?watch=true&timeoutSeconds=5&resourceVersion={since}"
        with urlopen(url, timeout=10) as events:
            event = json.loads(events.readline())
        assert (event["type"], event["object"]["metadata"]["name"]) == ("ADDED", "p2")


def test_sigterm_ends_it_at_once_with_watches_open(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", "127.0.0.1:0") as (process, (port,)):
        with urlopen(f"http://127.0.0.1:{port}{POOLS}?watch=true", timeout=10) as events:
            start = time.monotonic()
            process.send_signal(signal.SIGTERM)
            assert events.read() == b""
            assert process.wait(10) == 0
            assert time.monotonic() - start < 5
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_without_calicos_kinds_there_are_none(tmp_path: Path) -> None:
    with running(tmp_path, "--listen", "127.0.0.1:0", "--no-crds") as (_, (port,)):
        groups = {group["name"] for group in ask(port, "/apis")["groups"]}
        assert "projectcalico.org" not in groups
        assert "apiextensions.k8s.io" in groups


def test_it_says_what_it_wants() -> None:
    command = [sys.executable, "-m", "calico_py.lab.api"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ), timeout=30)
    assert done.returncode == 2
    assert "give --listen or --fd" in done.stderr
