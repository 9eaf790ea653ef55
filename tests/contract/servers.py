"""The two API servers that the contract suite runs against, and kubectl as a person uses it."""

import json
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from calico_py.lab.api import control_plane
from calico_py.lab.api.definitions import shipped
from calico_py.lab.api.kubeconfig import write_kubeconfig
from calico_py.lab.cache import cache_directory

MERGE = "application/merge-patch+json"

# What a test may leave behind; it is removed before the next one.
_SWEPT = (
    *(f"/apis/projectcalico.org/v3/{crd['spec']['names']['plural']}" for crd in shipped()),
    "/api/v1/nodes",
    *(f"/api/v1/namespaces/default/{plural}" for plural in ("pods", "configmaps", "events")),
    "/apis/coordination.k8s.io/v1/namespaces/default/leases",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server, whatever its status."""

    status: int
    headers: dict[str, str]
    body: Any


@dataclass(frozen=True, slots=True)
class ApiUnderTest:
    """A running API server with calico-py's CRDs.

    Attributes:
        name: ``embedded`` or ``kube``.
        token: bearer token, empty for the embedded server.
        authority: certificates for https, None for the embedded server.
    """

    name: str
    url: str
    kubeconfig: Path
    token: str = ""
    authority: Path | None = None

    def open(self, method: str, path: str, body: Any = None, **headers: str) -> Any:
        """The open answer of a request; raises HTTPError from status 400. Header names: ``Content_Type``."""
        sent = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self.token}"} if self.token else {})
        sent |= {"Content-Type": "application/json"} if body is not None else {}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        context = ssl.create_default_context(cafile=self.authority) if self.authority else None
        return urlopen(Request(self.url + path, data, sent, method=method), context=context, timeout=30)

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """A request and its answer, read as JSON."""
        try:
            with self.open(method, path, body, **headers) as found:
                return Answer(found.status, dict(found.headers), json.load(found))
        except HTTPError as error:
            with error:
                text = error.read()
            return Answer(error.code, dict(error.headers), json.loads(text) if text[:1] == b"{" else text.decode())

    def sweep(self) -> None:
        """Remove what tests make, finalizers or not."""
        for path in _SWEPT:
            for item in self.request("GET", path).body.get("items", ()):
                if item["metadata"].get("finalizers"):
                    patch = {"metadata": {"finalizers": None}}
                    own = f"{path}/{item['metadata']['name']}"
                    self.request("PATCH", own, patch, Content_Type=MERGE)
            self.request("DELETE", path, {"gracePeriodSeconds": 0})


@dataclass(frozen=True, slots=True)
class Kubectl:
    """kubectl, unmodified, of the server's own version, with a cache folder of its own."""

    program: Path
    kubeconfig: Path
    cache: Path

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return [str(self.program), f"--kubeconfig={self.kubeconfig}", f"--cache-dir={self.cache}", *arguments]

    def __call__(
        self, *arguments: str, stdin: object = None, fails: bool = False, editor: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl; the exit status must be what ``fails`` says. ``stdin``: text, or an object to send as JSON."""
        text = stdin if isinstance(stdin, str) or stdin is None else json.dumps(stdin)
        environment = {**os.environ, "EDITOR": editor, "KUBE_EDITOR": editor}
        done = subprocess.run(
            self.command(*arguments),
            input=text,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=environment,
        )
        assert bool(done.returncode) == fails, f"{arguments}: {done.stdout}{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        """The output of ``get ... -o json``."""
        return json.loads(self(*arguments, "-o", "json").stdout)


@contextmanager
def embedded(folder: Path, *, arguments: Sequence[str] = ()) -> Iterator[ApiUnderTest]:
    """The embedded server as a process, as the lab runs it."""
    ports, log = folder / "ports", folder / "log"
    # It does not outlive the tests, however they end.
    held = ["setpriv", "--pdeathsig", "KILL", sys.executable]
    command = [*held, "-m", "calico_py.lab.api", "--db", str(folder / "db"), "--listen", "127.0.0.1:0"]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--port-file", str(ports), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 30
        while not ports.exists():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.02)
        url = f"http://127.0.0.1:{int(ports.read_text())}"
        yield ApiUnderTest("embedded", url, write_kubeconfig(folder / "kubeconfig", url))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "Traceback" not in log.read_text(), log.read_text()


@contextmanager
def kube(folder: Path, *, advertise: str = "") -> Iterator[ApiUnderTest]:
    """A real kube-apiserver with etcd; ``advertise``: see control_plane.start."""
    plane = control_plane.start(folder, cache_directory(os.environ), advertise=advertise)
    try:
        api = ApiUnderTest("kube", plane.url, plane.kubeconfig, plane.token, plane.authority)
        for crd in shipped():
            made = api.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", crd)
            assert made.status == 201, made.body
        deadline = time.monotonic() + 30
        for path in _SWEPT:
            while api.request("GET", path).status != 200:
                assert time.monotonic() < deadline, f"{path} is not served"
                time.sleep(0.05)
        yield api
    finally:
        plane.stop()
