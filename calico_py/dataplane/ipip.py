"""IPIPReconciler: the device tunl0, by the kernel's ipip or, where there is none, a persistent TUN device.

What is ours after a restart with no memory: a TUN device by its alias (``calico-py ipip ...``), whatever its name is
now; an address by its label (``tunl0:calico-py``). The kernel's own tunl0 belongs to nobody, addresses on it that
have no such label belong to whoever put them there. A label is lost when someone renames the device: then an old
address may stay behind, and the one that is wanted is known anyway.
"""

import errno
import logging
from dataclasses import dataclass, replace
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface

from calico_py.model.intent import IPIPTunnel
from calico_py.model.kernel import Addr, Change, Delete, Kernel, KernelError, KernelEvent, Link, Put
from calico_py.model.names import IPIP_DEVICE

ALIAS_PREFIX = "calico-py ipip"
_LABEL_WORD = "calico-py"

_log = logging.getLogger(__name__)


class Engine(StrEnum):
    """What encapsulates."""

    NONE = "none"
    KERNEL = "kernel"
    USERSPACE = "userspace"


@dataclass(frozen=True, slots=True)
class IPIPStatus:
    """The device as the last apply left it.

    Attributes:
        reason: why this engine, for people.
        ifindex: of the device of that name, whatever it is; 0 where there is none.
        running: IFF_LOWER_UP: with the userspace engine, its process is attached.
        address: the one that is wanted, once it is there.
        problem: what is not as wanted and what to do, in a sentence; empty if all is well.
    """

    engine: Engine = Engine.NONE
    reason: str = ""
    ifindex: int = 0
    up: bool = False
    running: bool = False
    address: IPv4Address | None = None
    problem: str = ""

    @property
    def ready(self) -> bool:
        """Whether a packet of protocol 4 that arrives now comes out of the device."""
        return self.up and self.running and self.address is not None and not self.problem


def alias(local: IPv4Address) -> str:
    """What the alias of a TUN device says to the userspace engine: the outer source address."""
    return f"{ALIAS_PREFIX} local {local}"


def label(device: str) -> str:
    """The label of our address on a device, cut to what the kernel takes (IFNAMSIZ, linux/if.h)."""
    return f"{device}:{_LABEL_WORD}"[:15]


class IPIPReconciler:
    """Makes the device, its MTU and its one address as they should be.

    Args:
        kernel: where.
        allow_kernel: False takes the userspace engine even where the kernel has ipip.
    """

    def __init__(self, kernel: Kernel, *, allow_kernel: bool = True) -> None:
        self._kernel = kernel
        self._allow_kernel = allow_kernel
        self._wanted: IPIPTunnel | None = None
        self._address_gone = False
        self._link: Link | None = None
        self._given: IPv4Address | None = None  # the address that we set last, should its label be lost
        self._reason = ""
        self._status = IPIPStatus()
        self._dirty = True

    @property
    def status(self) -> IPIPStatus:
        """As the last apply left it."""
        return self._status

    async def resync(self) -> None:
        """Read the device and its addresses again at the next apply."""
        self._dirty = True

    async def apply(self, tunnel: IPIPTunnel | None, *, address_gone: bool = False) -> IPIPStatus:
        """Make it so; what cannot be done is said in the status and tried again by the next apply.

        Args:
            tunnel: None leaves device and address as they are: connections of this host may still use the address.
            address_gone: unless it is the node's no more. Then ours is taken off: a pod of this node that gets it
                would not be reached from here.
        """
        if (tunnel, address_gone) == (self._wanted, self._address_gone) and not self._dirty:
            return self._status
        self._wanted, self._address_gone = tunnel, address_gone
        self._dirty = False
        try:
            status = await self._apply(tunnel)
        except KernelError as error:
            status = await self._as_found(tunnel, str(error))
        self._dirty |= bool(status.problem)
        if status.problem and status.problem != self._status.problem:
            _log.warning("%s", status.problem)
        self._status = status
        return status

    def on_event(self, event: KernelEvent) -> bool:
        """Note a change of the device or its addresses; True if there was one."""
        match event.object:
            case None:
                self._dirty |= event.kind is None
                return event.kind is None
            case Link() as link:
                known = self._link
                mine = link.name == self._name() or (known is not None and link.ifindex == known.ifindex)
                changed = mine and (event.removed or link != known)
            case Addr() as addr:
                changed = self._link is not None and addr.ifindex == self._link.ifindex
            case _:
                changed = False
        self._dirty |= changed
        return changed

    def _name(self) -> str:
        return self._wanted.device if self._wanted is not None else IPIP_DEVICE

    async def _apply(self, tunnel: IPIPTunnel | None) -> IPIPStatus:
        found = await self._find()
        if tunnel is None:
            if found is None or _objection(found):
                return _unusable(found, "")
            if self._address_gone:
                await self._take_address_off(found)
            return self._report(found, await self._our_address(found))
        if found is not None and _objection(found):
            return _unusable(found, _objection(found))
        if found is None:
            await self._make(tunnel)
        elif not _is_as(found, _link(tunnel, found.kind, found.ifindex)):
            await self._put(_link(tunnel, found.kind, found.ifindex))
        link = await self._find()
        if link is None:
            return IPIPStatus(problem=f"device {tunnel.device} went away as soon as it was made; it is made again")
        if tunnel.address is not None:
            await self._ensure_address(link, tunnel.address)
        elif self._address_gone:
            await self._take_address_off(link)
        return self._report(link, tunnel.address)

    async def _as_found(self, tunnel: IPIPTunnel | None, problem: str) -> IPIPStatus:
        """What there is all the same where something was refused: others are told what is true, not what failed."""
        link = await self._find()
        if link is None or tunnel is None or _objection(link):
            return _unusable(link, problem)
        there = {addr.interface.ip for addr in await self._kernel.dump(Addr) if addr.ifindex == link.ifindex}
        address = tunnel.address if tunnel.address in there else None
        return replace(self._report(link, address), problem=problem)

    async def _find(self) -> Link | None:
        """The device of our name, else a TUN device of ours that someone renamed."""
        links = await self._kernel.dump(Link)
        named = [link for link in links if link.name == self._name()]
        renamed = [link for link in links if link.kind == "tun" and link.alias.startswith(ALIAS_PREFIX)]
        self._link = next(iter(named + renamed), None)
        return self._link

    async def _make(self, tunnel: IPIPTunnel) -> None:
        """Ask the kernel for ipip, which loads the module or takes back a renamed tunl0; else make a TUN device."""
        self._reason = "userspace engine by configuration"
        if self._allow_kernel:
            (error,) = await self._kernel.send([Put(_link(tunnel, "ipip"))])
            if error is None:
                return
            if error.errno != errno.EOPNOTSUPP:
                raise error
            self._reason = "the kernel has no ipip, neither built in nor as a module"
        await self._put(_link(tunnel, "tun"))

    async def _ensure_address(self, link: Link, address: IPv4Address) -> None:
        """The new one first: with its last address a device loses its IPv4 routes (fib_disable_ip)."""
        mine = label(link.name)
        wanted = IPv4Interface((address, 32))
        there = [addr for addr in await self._kernel.dump(Addr) if addr.ifindex == link.ifindex]
        if not any(addr.interface == wanted for addr in there):
            await self._put(Addr(link.ifindex, wanted, label=mine))
        given = self._given
        self._given = address
        for addr in there:
            if addr.interface != wanted and (addr.label == mine or addr.interface.ip == given):
                await self._send(Delete(addr))

    async def _take_address_off(self, link: Link) -> None:
        given, self._given = self._given, None
        for addr in await self._kernel.dump(Addr):
            if addr.ifindex == link.ifindex and (addr.label == label(link.name) or addr.interface.ip == given):
                await self._send(Delete(addr))

    async def _our_address(self, link: Link) -> IPv4Address | None:
        for addr in await self._kernel.dump(Addr):
            if addr.ifindex == link.ifindex and addr.label == label(link.name):
                return IPv4Address(int(addr.interface.ip))
        return self._given

    async def _put(self, obj: Link | Addr) -> None:
        await self._send(Put(obj))

    async def _send(self, change: Change) -> None:
        (error,) = await self._kernel.send([change])
        if error is not None:
            raise error

    def _report(self, link: Link, address: IPv4Address | None) -> IPIPStatus:
        if link.kind == "ipip":
            engine, reason = Engine.KERNEL, "the kernel has ipip"
        else:
            engine = Engine.USERSPACE
            reason = self._reason or f"{link.name} is a TUN device made earlier; without it ipip is asked for again"
        return IPIPStatus(engine, reason, link.ifindex, link.up, link.running, address)


def _unusable(link: Link | None, problem: str) -> IPIPStatus:
    """No engine; but routes may lead to the device."""
    return IPIPStatus(ifindex=link.ifindex if link is not None else 0, problem=problem)


def _link(tunnel: IPIPTunnel, kind: str, ifindex: int = 0) -> Link:
    mark = alias(tunnel.local) if kind == "tun" else ""
    return Link(tunnel.device, ifindex, kind=kind, mtu=tunnel.mtu, up=True, alias=mark)


def _is_as(found: Link, wanted: Link) -> bool:
    return (found.name, found.mtu, found.up) == (wanted.name, wanted.mtu, wanted.up) and wanted.alias in (
        "",
        found.alias,
    )


def _objection(link: Link) -> str:
    """Why the device may not be used; empty if it may."""
    if link.kind == "ipip" or (link.kind == "tun" and (not link.alias or link.alias.startswith(ALIAS_PREFIX))):
        return ""
    what = f"kind {link.kind}" if link.kind else "no kind"
    mark = f" with the alias {link.alias!r}" if link.alias else ""
    return (
        f"device {link.name} is there and of {what}{mark}, expected ipip or a TUN device of calico-py's:"
        f" rename or remove it (ip link set {link.name} name NEW)"
    )
