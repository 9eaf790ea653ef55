"""Dumps of what changes faster than it can be read: the kernel marks them as interrupted, yet they come."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from calico_py.dataplane import object_codec, rtnl_socket
from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Addr
from tests.netns.namespaces import Namespace

pytestmark = pytest.mark.root

STEADY = 2000  # addresses: some 150 KiB, which the kernel tells in parts of 32
BURST = 1000  # changes there and back; a dump must be able to come whole between two bursts


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Namespace]:
    """A namespace with many addresses, in which one more comes and goes tens of thousands of times a second."""
    namespace = Namespace()
    flapping = tmp_path / "flapping"
    flapping.write_text("address add 192.0.2.1/32 dev lo\naddress del 192.0.2.1/32 dev lo\n" * BURST)
    steady = tmp_path / "steady"
    steady.write_text("".join(f"address add 10.{i >> 8}.{i & 255}.1/32 dev lo\n" for i in range(STEADY)))
    namespace.run("ip", "link", "set", "lo", "up")
    namespace.run("ip", "-batch", str(steady))
    loop = [
        "nsenter",
        f"--net={namespace.path}",
        "--",
        "sh",
        "-c",
        f"while :; do ip -batch {flapping}; sleep 0.02; done",
    ]
    changes = subprocess.Popen(loop, start_new_session=True)
    try:
        with namespace.entered():
            yield namespace
    finally:
        os.killpg(changes.pid, signal.SIGKILL)
        changes.wait()
        namespace.close()


async def interrupted() -> bool:
    """Whether the kernel marks a single attempt so."""
    with rtnl_socket.open_socket() as sock:
        sock.send(object_codec.pack_addr_dump(1))
        return await rtnl_socket._read_dump(sock) is None


async def test_addresses_are_listed_amid_changes(busy: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    del busy
    monkeypatch.setattr(rtnl_socket, "_DUMP_ATTEMPTS", 1)  # so that the pauses are tried as well
    async with asyncio.timeout(30):  # else nothing is seen here
        while not await interrupted():
            pass
    async with LinuxKernel() as kernel:
        for _ in range(5):
            found = [addr for addr in await kernel.dump(Addr) if str(addr.interface.ip).startswith("10.")]
            assert len(found) == len(set(found)) == STEADY
