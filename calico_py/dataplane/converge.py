"""Dataplane: all reconcilers of this node's kernel, in the order in which they must act.

Filter first, then the tunnel device, then the settings of devices, then routes: no step leaves open for a moment
what a later one closes. What a step cannot do stays pending and stops no other.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from pathlib import Path

from calico_py.dataplane.ipip import IPIPReconciler, IPIPStatus
from calico_py.dataplane.nft import NftReconciler
from calico_py.dataplane.plan import RoutePlan, plan_steps, sweep_rule
from calico_py.dataplane.routes import RouteReconciler, is_ours
from calico_py.dataplane.sysctls import SysctlKeeper, Touched, wanted_settings
from calico_py.model.bgp import LearnedRoutes
from calico_py.model.intent import PROTO_BOOT, Intent, RouteIntent
from calico_py.model.kernel import TABLE_MAIN, Addr, Kernel, KernelEvent, Link, Route, RouteKey
from calico_py.model.names import IPIP_DEVICE, WORKLOAD_PREFIX
from calico_py.model.net import Address, Network
from calico_py.steps import finish_in_slices

# Networks that the kernel gives each device for IPv6 (net/ipv6/addrconf.c).
_EVERY_DEVICES = frozenset({IPv6Network("fe80::/64"), IPv6Network("ff00::/8")})


@dataclass(frozen=True, slots=True)
class Applied:
    """What one apply found and did.

    Attributes:
        problems: what could not be done, each a sentence.
        failures: routes that could not be set or removed, with the reason.
        installed: our routes in the kernel afterwards.
        filtered: the filter is as the intent wants it.
    """

    plan: RoutePlan
    ipip: IPIPStatus
    installed: Mapping[RouteKey, Route]
    failures: Mapping[RouteKey, str] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    filtered: bool = True


@dataclass(frozen=True, slots=True)
class Devices:
    """What was read of the kernel before a pass: all links and their addresses."""

    links: Sequence[Link]
    addrs: Sequence[Addr]


async def read_devices(kernel: Kernel) -> Devices:
    """As they are now."""
    return Devices(await kernel.dump(Link), await kernel.dump(Addr))


class Dataplane:
    """This node's kernel as the agent's one object.

    Args:
        state_dir: where the old values of settings are kept.
        allow_kernel_ipip: False takes the userspace engine even where the kernel has ipip.
    """

    def __init__(self, kernel: Kernel, *, state_dir: Path, allow_kernel_ipip: bool = True) -> None:
        self._kernel = kernel
        self._routes = RouteReconciler(kernel)
        self._ipip = IPIPReconciler(kernel, allow_kernel=allow_kernel_ipip)
        self._nft = NftReconciler(kernel)
        self._sysctls = SysctlKeeper(kernel, state_dir / "sysctls.json")
        self._held: Mapping[Network, RouteIntent] = {}
        self._lock = asyncio.Lock()

    def touched(self) -> list[Touched]:
        """Settings of the host that were changed."""
        return self._sysctls.touched()

    def on_event(self, event: KernelEvent) -> bool:
        """Note a change in the kernel; True if apply may have something to do because of it."""
        reconcilers = (self._routes, self._ipip, self._nft)
        concerned = [reconciler.on_event(event) for reconciler in reconcilers]
        return any(concerned) or _is_underlay(event)

    async def resync(self) -> None:
        """Read everything again at the next apply."""
        async with self._lock:
            await self._ipip.resync()
            await self._nft.resync()
            await self._routes.resync()

    async def apply(
        self, intent: Intent, learned: LearnedRoutes, own: frozenset[Address], devices: Devices | None = None
    ) -> Applied:
        """Make the kernel look like the intent.

        Args:
            intent: what should be.
            learned: whose peers' views are complete: what may be swept.
            own: this node's addresses; the devices that hold them are its uplinks.
            devices: as they were when the intent was computed; what has changed since brings another apply by its
                events. None: they are read.
        """
        async with self._lock:
            unfiltered = await self._nft.apply(intent.firewall)
            problems = [unfiltered]
            before = self._ipip.status
            ipip = await self._ipip.apply(intent.ipip, address_gone=intent.ipip_address_gone)
            problems.append(ipip.problem)
            if devices is None or ipip is not before:  # with the tunnel device as it is by now
                devices = await read_devices(self._kernel)
            problems.extend((await self._settings(own, devices)).values())
            routes = await self._kernel.dump(Route)
            plan = await finish_in_slices(plan_steps(intent, devices.links, routes, self._held))
            self._held = plan.held
            self._routes.set_desired(plan.desired, sweep_rule(intent, learned))
            failures = await self._routes.apply()
            return Applied(
                plan=plan,
                ipip=ipip,
                installed=dict(self._routes.installed),
                failures=dict(failures),
                problems=tuple(dict.fromkeys(problem for problem in problems if problem)),
                filtered=not unfiltered,
            )

    async def _settings(self, own: frozenset[Address], devices: Devices) -> Mapping[str, str]:
        names = {link.ifindex: link.name for link in devices.links}
        uplinks = {names.get(addr.ifindex, "") for addr in devices.addrs if addr.interface.ip in own}
        settings = wanted_settings(
            uplinks=sorted(uplinks - {""}),
            tunnels=[IPIP_DEVICE],
            ipv6=any(address.version == 6 for address in own),
        )
        return await self._sysctls.apply(settings)


def _is_underlay(event: KernelEvent) -> bool:
    """Whether a foreign change may move the way to another node: not those that every new device of a pod brings.

    These are the device, its host routes, and what the kernel gives it for IPv6.
    """
    match event.object:
        case Link(name=name):
            return not name.startswith(WORKLOAD_PREFIX)
        case Route() as route:
            return route.table == TABLE_MAIN and not (is_ours(route) or _is_of_a_pod(route))
        case Addr(interface=interface):
            return interface.network.prefixlen < interface.max_prefixlen and interface.network not in _EVERY_DEVICES
        case _:
            return False


def _is_of_a_pod(route: Route) -> bool:
    """Whether it may be one of a pod's device. Another host route may be the way to a node or to a router."""
    host = route.dst.prefixlen == route.dst.max_prefixlen and route.protocol == PROTO_BOOT
    return route.dst in _EVERY_DEVICES or (host and all(hop.gateway is None for hop in route.next_hops))
