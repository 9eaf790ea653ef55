"""Nodes with a userspace tunnel each, made by hand with ip(8): namespaces, a switch, pods, TUN devices, engines."""

import contextlib
import ctypes
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.netns.flows import Flow

_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
ENGINE = (sys.executable, "-c", "from calico_py.cli.main import main; main()", "tunnel")


def ip(*words: str) -> str:
    """What iproute2 prints."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


@contextlib.contextmanager
def inside(namespace: str) -> Iterator[None]:
    """The calling thread is in a named network namespace; sockets made there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    there = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        assert _libc.setns(there, _CLONE_NEWNET) == 0
        yield
    finally:
        assert _libc.setns(home, _CLONE_NEWNET) == 0
        os.close(there)
        os.close(home)


def eventually(check: Callable[[], object], *, within: float = 5.0) -> None:
    """Wait until check is true."""
    deadline = time.monotonic() + within
    while not check():
        assert time.monotonic() < deadline, f"not so within {within} s"
        time.sleep(0.01)


def batch(namespace: str, *lines: str) -> None:
    """Many commands for iproute2 by one process."""
    text = "\n".join(lines)
    subprocess.run(["ip", "-n", namespace, "-batch", "-"], input=text, check=True, capture_output=True, text=True)


class Node:
    """A node with one pod; its address is 192.168.1.N, its block 10.244.N.0/26, its pod 10.244.N.2."""

    def __init__(self, prefix: str, number: int, folder: Path) -> None:
        self.number = number
        self.namespace, self.pod_namespace = f"{prefix}-n{number}", f"{prefix}-p{number}"
        self.address, self.pod = f"192.168.1.{number}", f"10.244.{number}.2"
        self.block, self.tunnel = f"10.244.{number}.0/26", f"10.244.{number}.1"
        self.report = folder / f"{self.namespace}.json"
        self.log = folder / f"{self.namespace}.log"
        self.engine: subprocess.Popen[bytes] | None = None

    @property
    def enter(self) -> tuple[str, ...]:
        """Command prefix for the node's namespace."""
        return ("ip", "netns", "exec", self.namespace)

    @property
    def enter_pod(self) -> tuple[str, ...]:
        """Command prefix for the pod's namespace."""
        return ("ip", "netns", "exec", self.pod_namespace)

    def ip(self, *words: str) -> str:
        """The same in the node's namespace."""
        return ip("-n", self.namespace, *words)

    def sysctl(self, name: str, value: str) -> None:
        """Set net.NAME."""
        with inside(self.namespace):
            Path("/proc/sys/net", name).write_text(value)

    def setting(self, name: str) -> str:
        """The value of net.NAME."""
        with inside(self.namespace):
            return Path("/proc/sys/net", name).read_text().strip()

    def make_tunnel(self, device: str = "tunl0", encapsulation: str = "ipip") -> None:
        """The device as the agent makes it."""
        mtu, port = (1480, "") if encapsulation == "ipip" else (1472, " port 8285")
        batch(
            self.namespace,
            f"tuntap add {device} mode tun",
            f"link set {device} mtu {mtu}",
            f'link set {device} alias "calico-py {encapsulation} local {self.address}{port}"',
            f"addr add {self.tunnel}/32 dev {device}",
            f"link set {device} up",
        )
        self.sysctl(f"ipv4/conf/{device}/rp_filter", "2")

    def route(self, other: "Node", device: str = "tunl0") -> None:
        """Put the route to another node's block on a device."""
        onlink = ("onlink",) if device != "eth0" else ()
        self.ip("route", "replace", other.block, "via", other.address, "dev", device, "proto", "80", *onlink)

    def start_engine(self, device: str = "tunl0", *, wait: bool = True, enter: Sequence[str] = ()) -> None:
        """Start it, and wait until it is attached."""
        with self.log.open("ab") as log:
            command = [*self.enter, *enter, *ENGINE, "--device", device, "--report", str(self.report)]
            self.engine = subprocess.Popen(command, stderr=log)
        if wait:
            eventually(lambda: self.attached(device), within=20)

    def stop_engine(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal; its exit status."""
        assert self.engine is not None
        self.engine.send_signal(number)
        status = self.engine.wait(10)
        self.engine = None
        return status

    def attached(self, device: str = "tunl0") -> bool:
        """Whether the device has an engine, as anybody can see."""
        with contextlib.suppress(subprocess.CalledProcessError):
            return "LOWER_UP" in self.ip("link", "show", device)
        return False

    def engine_seconds(self) -> float:
        """Processor time that the engine has used, seconds."""
        assert self.engine is not None
        fields = Path(f"/proc/{self.engine.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def counters(self) -> dict[str, Any]:
        """What the engine has counted up to now."""
        assert self.engine is not None
        self.report.unlink(missing_ok=True)
        self.engine.send_signal(signal.SIGUSR1)
        eventually(self.report.exists)
        return dict(json.loads(self.report.read_text()))

    def ping(self, address: str, *options: str, pod: bool = True, count: int = 3) -> int:
        """Answers to so many echo requests."""
        enter = self.enter_pod if pod else self.enter
        command = [*enter, "ping", "-n", "-c", str(count), "-i", "0.05", "-W", "1", *options, address]
        output = subprocess.run(command, check=False, capture_output=True, text=True).stdout
        found = re.search(r"(\d+) received", output)
        assert found is not None, output
        return int(found[1])

    def socket(self, kind: socket.SocketKind, protocol: int = 0, *, pod: bool = True) -> socket.socket:
        """A socket in the pod's or the node's namespace."""
        with inside(self.pod_namespace if pod else self.namespace):
            sock = socket.socket(socket.AF_INET, kind, protocol)
        sock.settimeout(2)
        return sock

    def transfer(self, other: "Node", data: bytes, *, seconds: float = 60) -> bytes:
        """What arrives of a TCP stream from this node's pod to another's."""
        with self.socket(socket.SOCK_STREAM) as out, other.socket(socket.SOCK_STREAM) as listener:
            listener.bind((other.pod, 9001))
            listener.listen()
            out.settimeout(seconds)
            out.connect((other.pod, 9001))
            incoming, _ = listener.accept()
            with incoming:
                incoming.settimeout(seconds)

                def send() -> None:
                    out.sendall(data)
                    out.shutdown(socket.SHUT_WR)

                sender = threading.Thread(target=send)
                sender.start()
                received = bytearray()
                while part := incoming.recv(1 << 20):
                    received += part
                sender.join()
        return bytes(received)

    def flow(self, other: "Node", *, rate: int = 1000, seconds: float = 3, size: int = 64, port: int = 9000) -> Flow:
        """Datagrams from this node's pod to another's."""
        return Flow(
            enter_sender=self.enter_pod,
            enter_receiver=other.enter_pod,
            address=other.pod,
            port=port,
            rate=rate,
            seconds=seconds,
            size=size,
        )

    @contextlib.contextmanager
    def capture(self, expression: str, device: str = "eth0") -> Iterator[list[str]]:
        """Lines of ``tcpdump -nv`` on a device; the list is filled when the context ends."""
        command = [*self.enter, "tcpdump", "-lnvt", "--immediate-mode", "-i", device, expression]
        dump = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lines: list[str] = []
        try:
            assert dump.stderr is not None
            while "listening on" not in dump.stderr.readline():
                assert dump.poll() is None
            yield lines
            time.sleep(0.2)
        finally:
            dump.send_signal(signal.SIGINT)
            lines += dump.communicate(timeout=10)[0].splitlines()


class Cluster:
    """Some nodes on one switch."""

    def __init__(self, folder: Path, size: int) -> None:
        self.prefix = f"cpy{os.getpid()}{os.urandom(2).hex()}"
        self._switch = f"{self.prefix}-sw"
        self.nodes = [Node(self.prefix, number, folder) for number in range(1, size + 1)]
        self._flows: list[Flow] = []

    def build(self) -> None:
        """Switch, uplinks, pods; no tunnel yet."""
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")
        for node in self.nodes:
            ip("netns", "add", node.namespace)
            ip("netns", "add", node.pod_namespace)
            self._fill_node(node)
            self._fill_pod(node)

    def _fill_node(self, node: Node) -> None:
        port = f"port{node.number}"
        batch(
            node.namespace,
            f"link add eth0 type veth peer name {port} netns {self._switch}",
            f"link add cali0 type veth peer name eth0 netns {node.pod_namespace}",
            "link set lo up",
            "link set eth0 up",
            "link set cali0 up",
            f"addr add {node.address}/24 dev eth0",
            "route add default via 192.168.1.254",
            f"route add {node.pod}/32 dev cali0",
        )
        batch(self._switch, f"link set {port} master br0 up")
        node.sysctl("ipv4/ip_forward", "1")
        node.sysctl("ipv4/conf/eth0/rp_filter", "2")
        node.sysctl("ipv4/conf/cali0/proxy_arp", "1")
        node.sysctl("ipv4/neigh/cali0/proxy_delay", "0")

    def _fill_pod(self, node: Node) -> None:
        batch(
            node.pod_namespace,
            "link set lo up",
            "link set eth0 mtu 1480 up",
            f"addr add {node.pod}/32 dev eth0",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1",
        )

    def set_uplink_mtu(self, mtu: int) -> None:
        """Bytes, of all nodes."""
        for node in self.nodes:
            ip("-n", self._switch, "link", "set", f"port{node.number}", "mtu", str(mtu))
            node.ip("link", "set", "eth0", "mtu", str(mtu))

    def move_to_second_subnet(self, node: Node) -> None:
        """Its address becomes 192.168.2.N; the switch routes between the two, and knows nothing of pods."""
        node.address = f"192.168.2.{node.number}"
        batch(
            node.namespace,
            "addr flush dev eth0 scope global",
            f"addr add {node.address}/24 dev eth0",
            "route add default via 192.168.2.254",
        )
        batch(self._switch, "addr add 192.168.1.254/24 dev br0", "addr add 192.168.2.254/24 dev br0")
        with inside(self._switch):
            for name, value in (
                ("ip_forward", "1"),
                ("conf/all/send_redirects", "0"),
                ("conf/br0/send_redirects", "0"),
            ):
                Path("/proc/sys/net/ipv4", name).write_text(value)

    def tunnel(self, device: str = "tunl0", encapsulation: str = "ipip") -> None:
        """Tunnel devices, all routes on them, engines."""
        for node in self.nodes:
            node.make_tunnel(device, encapsulation)
            for other in self.nodes:
                if other is not node:
                    node.route(other, device)
        for node in self.nodes:
            node.start_engine(device, wait=False)
        for node in self.nodes:
            eventually(lambda node=node: node.attached(device), within=20)  # type: ignore[misc]

    def destroy(self) -> None:
        """Leave nothing."""
        for node in self.nodes:
            if node.engine is not None:
                node.engine.kill()
                node.engine.wait()
            for namespace in (node.namespace, node.pod_namespace):
                subprocess.run(["ip", "netns", "del", namespace], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", self._switch], check=False, capture_output=True)


@contextlib.contextmanager
def cluster(folder: Path, size: int = 2) -> Iterator[Cluster]:
    """A cluster for one test, without tunnels."""
    made = Cluster(folder, size)
    try:
        made.build()
        yield made
    finally:
        made.destroy()
