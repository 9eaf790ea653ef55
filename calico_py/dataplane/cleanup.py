"""Taking away all that calico-py made on a node, and putting the settings back (`calico-py node --cleanup`).

Each kind of object is recognised as its reconciler says; nothing else is touched. The agent and the userspace engine
must have ended.
"""

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

from calico_py.dataplane import ipip, nft, routes, wiring, wiring_plan
from calico_py.dataplane.sysctls import SysctlKeeper
from calico_py.model.kernel import Addr, Change, Delete, Kernel, KernelObject, Link, NftTable, Put, Route
from calico_py.model.names import IPIP_DEVICE


async def cleanup(kernel: Kernel, sysctls: SysctlKeeper, folders: Iterable[Path]) -> list[str]:
    """Remove routes, addresses, devices, the nftables table and files, in this order, and restore settings.

    Pods that still run lose their network. The kernel's own tunl0 stays, without our address and down, as the
    module made it.

    Args:
        kernel: the node's.
        sysctls: knows the old values.
        folders: of state and sockets; removed with all that is in them, settings last remembered included.

    Returns:
        sentences about what could not be removed; run it again after mending the cause.
    """
    problems = await _remove(kernel, [route for route in await kernel.dump(Route) if routes.is_ours(route)])
    links = await kernel.dump(Link)
    addresses = await _tunnel_addresses(kernel, links)
    problems += await _remove(kernel, addresses)
    problems += await _remove(kernel, [link for link in links if _is_made(link)])
    problems += await _shut_kernel_tunnel(kernel, links, addresses)
    problems += await _remove(kernel, [NftTable(nft.FAMILY, nft.TABLE)])
    restore_problems = await sysctls.restore()
    problems += restore_problems
    if not restore_problems:  # else the file that remembers them must stay
        problems += _remove_folders(folders)
    return problems


def _is_made(link: Link) -> bool:
    """A TUN device or a pod's device by its alias; a pod's that is dying by its name and group."""
    if link.kind == "tun":
        return link.alias.startswith(ipip.ALIAS_PREFIX)
    dying = link.group == wiring.DYING and link.name.startswith(wiring.DYING_PREFIX)
    return link.kind == "veth" and (link.alias.startswith(wiring_plan.ALIAS) or dying)


async def _tunnel_addresses(kernel: Kernel, links: Iterable[Link]) -> list[Addr]:
    names = {link.ifindex: link.name for link in links if link.kind in ("ipip", "tun")}
    return [
        addr
        for addr in await kernel.dump(Addr)
        if addr.ifindex in names and addr.label == ipip.label(names[addr.ifindex])
    ]


async def _shut_kernel_tunnel(kernel: Kernel, links: Iterable[Link], addresses: Iterable[Addr]) -> list[str]:
    """Set the kernel's tunl0 down, if it was ours: if it had our address and no other remains."""
    ours = {addr.ifindex for addr in addresses}
    remaining = {addr.ifindex for addr in await kernel.dump(Addr) if addr.interface.version == 4}
    changes: list[Change] = [
        Put(Link(link.name, link.ifindex, up=False))
        for link in links
        if link.kind == "ipip" and link.name == IPIP_DEVICE and link.ifindex in ours - remaining
    ]
    return [str(error) for error in await kernel.send(changes) if error is not None]


async def _remove(kernel: Kernel, objects: Iterable[KernelObject]) -> list[str]:
    return [str(error) for error in await kernel.send([Delete(obj) for obj in objects]) if error is not None]


def _remove_folders(folders: Iterable[Path]) -> list[str]:
    problems = []
    for folder in folders:
        try:
            shutil.rmtree(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EROFS) and Path(str(error.filename)) == folder:
                continue  # a mount point, in a container that is given the host's folder: empty by now
            problems.append(f"cannot remove {error.filename or folder}: {error.strerror}")
    return problems
