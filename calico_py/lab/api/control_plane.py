"""A real kube-apiserver with its etcd, as processes of this machine: what the embedded server is measured against.

Both listen on loopback and keep everything in one folder.
"""

import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from calico_py.lab.api.binaries import cached, found
from calico_py.lab.api.kubeconfig import write_kubeconfig

_READY_TIMEOUT = 60.0


class StartError(RuntimeError):
    """A process of the control plane did not come up; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class ControlPlane:
    """Running processes; ``stop`` ends them.

    Attributes:
        url: of the API server, https.
        token: of a user who may do everything.
        authority: certificates that the server's is checked against.
    """

    url: str
    token: str
    authority: Path
    kubeconfig: Path
    processes: tuple[subprocess.Popen[bytes], ...]

    def stop(self) -> None:
        """End the processes; at once, since nothing of theirs is to be kept."""
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a control plane is to be.

    Attributes:
        folder: for data, certificates and logs.
        client, peer: ports of etcd on 127.0.0.1.
        port: of the API server.
        address: on which the API server listens.
        advertise: a second address that its certificate is valid for; empty for none.
    """

    folder: Path
    client: int
    peer: int
    port: int
    address: str = "127.0.0.1"
    advertise: str = ""
    token: str = field(default_factory=lambda: secrets.token_hex(16), repr=False)

    @property
    def url(self) -> str:
        """Of the API server."""
        return f"https://{self.address}:{self.port}"

    @property
    def authority(self) -> Path:
        """The certificates that the server's is checked against; there once it runs."""
        return self.folder / "certificates" / "apiserver.crt"


def layout(folder: Path, *, address: str = "127.0.0.1", advertise: str = "") -> Layout:
    """A layout with ports that are free now."""
    client, peer, port = _free_ports(3)
    return Layout(folder, client, peer, port, address, advertise)


def commands(plan: Layout, cache: Path) -> list[list[str]]:
    """The command lines of etcd and kube-apiserver, in the order of their start; writes the token's file.

    Raises:
        MissingError: a program is missing and cannot be built.
    """
    etcd, server = found("etcd"), cached("kube-apiserver", cache)
    tokens = plan.folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{plan.token},admin,admin,"system:masters"\n')
    return [[str(etcd), *_etcd_flags(plan)], [str(server), *_server_flags(plan, tokens)]]


def start(folder: Path, cache: Path, *, advertise: str = "") -> ControlPlane:
    """Start etcd and kube-apiserver and wait until the API is ready, about 4 s.

    Args:
        folder: for data, certificates, logs and the kubeconfig; the caller removes it.
        cache: where kube-apiserver is, or is built.
        advertise: see Layout; needed where there is no default route, by which the server else finds an address.

    Raises:
        MissingError: a program is missing.
        StartError: a process ended, or was not ready in time.
    """
    plan = layout(folder, advertise=advertise)
    processes = tuple(_spawn(folder, command) for command in commands(plan, cache))
    plane = ControlPlane(plan.url, plan.token, plan.authority, folder / "kubeconfig", processes)
    try:
        _wait_ready(plane, folder)
    except BaseException:
        plane.stop()
        raise
    write_kubeconfig(plane.kubeconfig, plan.url, token=plan.token, authority=plan.authority)
    return plane


def _etcd_flags(plan: Layout) -> list[str]:
    client, peer = f"http://127.0.0.1:{plan.client}", f"http://127.0.0.1:{plan.peer}"
    return [
        f"--data-dir={plan.folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _server_flags(plan: Layout, tokens: Path) -> list[str]:
    # The key that the server makes for TLS serves for the tokens as well.
    key = plan.authority.with_suffix(".key")
    flags = [
        f"--etcd-servers=http://127.0.0.1:{plan.client}",
        f"--bind-address={plan.address}",
        f"--secure-port={plan.port}",
        f"--cert-dir={plan.authority.parent}",
        f"--token-auth-file={tokens}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-signing-key-file={key}",
        f"--service-account-key-file={key}",
        "--disable-admission-plugins=ServiceAccount",
        "--kubelet-preferred-address-types=InternalIP",
    ]
    return [*flags, f"--advertise-address={plan.advertise}"] if plan.advertise else flags


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; held all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _spawn(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    log = folder / f"{Path(command[0]).name}.log"
    # It does not outlive the thread that started it, however that ends.
    held = ["setpriv", "--pdeathsig", "KILL", *command]
    with log.open("wb") as out:
        return subprocess.Popen(held, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


def _wait_ready(plane: ControlPlane, folder: Path) -> None:
    deadline = time.monotonic() + _READY_TIMEOUT
    while True:
        for process, name in zip(plane.processes, ("etcd", "kube-apiserver"), strict=True):
            if process.poll() is not None:
                log = (folder / f"{name}.log").read_text(errors="replace")
                raise StartError(f"{name} ended with {process.returncode}: {log[-2000:]}")
        if _ready(plane):
            return
        if time.monotonic() > deadline:
            raise StartError(f"kube-apiserver was not ready after {_READY_TIMEOUT:.0f} s; see {folder}")
        time.sleep(0.1)


def _ready(plane: ControlPlane) -> bool:
    if not plane.authority.exists():
        return False
    request = urllib.request.Request(plane.url + "/readyz", headers={"Authorization": f"Bearer {plane.token}"})  # noqa: S310 - https, to our own process
    try:
        context = ssl.create_default_context(cafile=plane.authority)
        with urllib.request.urlopen(request, context=context, timeout=5) as answer:  # noqa: S310 - the same
            return bool(answer.status == 200)
    except (urllib.error.URLError, ssl.SSLError, OSError):
        return False
