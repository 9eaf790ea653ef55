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
from dataclasses import dataclass
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
        etcd: address of etcd, http.
    """

    url: str
    token: str
    authority: Path
    kubeconfig: Path
    etcd: str
    processes: tuple[subprocess.Popen[bytes], ...]

    def stop(self) -> None:
        """End the processes; at once, since nothing of theirs is to be kept."""
        for process in reversed(self.processes):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def start(folder: Path, cache: Path, *, address: str = "127.0.0.1") -> ControlPlane:
    """Start etcd and kube-apiserver and wait until the API is ready, about 4 s.

    Args:
        folder: for data, certificates, logs and the kubeconfig; the caller removes it.
        cache: where kube-apiserver is, or is built.
        address: on which the API server listens.

    Raises:
        MissingError: a program is missing.
        StartError: a process ended, or was not ready in time.
    """
    etcd_program, server_program = found("etcd"), cached("kube-apiserver", cache)
    client, peer, port = _free_ports(3)
    etcd_url, token = f"http://127.0.0.1:{client}", secrets.token_hex(16)
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f'{token},admin,admin,"system:masters"\n')
    etcd = _spawn(folder, [str(etcd_program), *_etcd_flags(folder, etcd_url, f"http://127.0.0.1:{peer}")])
    server = _spawn(folder, [str(server_program), *_server_flags(folder, address, port, etcd_url)])
    url, certificate = f"https://{address}:{port}", folder / "certificates" / "apiserver.crt"
    kubeconfig = folder / "kubeconfig"
    plane = ControlPlane(url, token, certificate, kubeconfig, etcd_url, (etcd, server))
    try:
        _wait_ready(plane, folder)
    except BaseException:
        plane.stop()
        raise
    write_kubeconfig(kubeconfig, url, token=token, authority=certificate)
    return plane


def _etcd_flags(folder: Path, client: str, peer: str) -> list[str]:
    return [
        f"--data-dir={folder / 'etcd'}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=default={peer}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def _server_flags(folder: Path, address: str, port: int, etcd: str) -> list[str]:
    certificates = folder / "certificates"
    return [
        f"--etcd-servers={etcd}",
        f"--bind-address={address}",
        f"--secure-port={port}",
        f"--cert-dir={certificates}",
        f"--token-auth-file={folder / 'tokens.csv'}",
        "--authorization-mode=RBAC",
        "--service-cluster-ip-range=10.96.0.0/16",
        "--service-account-issuer=https://kubernetes.default.svc",
        # The key that the server makes for TLS serves for the tokens as well.
        f"--service-account-signing-key-file={certificates / 'apiserver.key'}",
        f"--service-account-key-file={certificates / 'apiserver.key'}",
        "--disable-admission-plugins=ServiceAccount",
        "--kubelet-preferred-address-types=InternalIP",
    ]


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; held all at once, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _spawn(folder: Path, command: Sequence[str]) -> subprocess.Popen[bytes]:
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as out:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)


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
