"""A program that sets routes until the kernel gives its memory group no more, then again with more: what was said.

Its argument is a group of the memory controller (v1) that is empty and whose processes are not killed for want of
memory. In a process of its own: one that needs memory for itself at the limit stops until it is given some.
"""

import asyncio
import json
import os
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from calico_py.dataplane.netlink import LinuxKernel
from calico_py.model.kernel import Change, Link, NextHop, Put, Route
from tests.netns.namespaces import Namespace

ROUTES = 60_000
AT_ONCE = 256
ROOM = 1 << 20  # bytes for routes


async def main(group: Path) -> None:
    """Print the sentences of the first batch that is refused, then those of its second attempt, as JSON."""
    namespace = Namespace()
    namespace.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "far")
    for words in ("link set lo up", "link set far up", "link set eth0 up", "addr add 192.168.1.11/24 dev eth0"):
        namespace.run("ip", *words.split())
    with namespace.entered():
        async with LinuxKernel() as kernel:
            (eth0,) = [link.ifindex for link in await kernel.dump(Link) if link.name == "eth0"]
            hop = (NextHop(eth0, IPv4Address("192.168.1.12")),)
            changes: list[Change] = [
                Put(Route(IPv4Network((0x0A000000 + 64 * n, 26)), next_hops=hop, protocol=80)) for n in range(ROUTES)
            ]
            await kernel.send(changes[:AT_ONCE])
            (group / "cgroup.procs").write_text(str(os.getpid()))
            await kernel.send(changes[AT_ONCE : 2 * AT_ONCE])
            used = int((group / "memory.usage_in_bytes").read_text())
            limit = os.open(group / "memory.limit_in_bytes", os.O_WRONLY)  # at the limit no file can be opened
            os.write(limit, str(used + ROOM).encode())
            try:
                for start in range(2 * AT_ONCE, ROUTES, AT_ONCE):
                    batch = changes[start : start + AT_ONCE]
                    refused = await kernel.send(batch)
                    if any(refused):
                        break
            finally:
                os.write(limit, b"-1")
            again = await kernel.send(batch)
    print(json.dumps([[str(error) for error in errors if error] for errors in (refused, again)]))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
