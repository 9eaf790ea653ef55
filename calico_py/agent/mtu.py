"""The MTU of pods and of tunnel devices: the one place that computes it. Pure.

A pod's MTU is fixed when the pod is made, and its pool may be switched to another mode later. So by default it leaves
room for the largest header that any pool could come to need.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from calico_py.agent.configuration.spellings import MtuPolicy
from calico_py.model.kernel import Link
from calico_py.model.net import Family
from calico_py.model.pools import AllowedUse, EncapMode, IPPool

DEFAULT_UPLINK = 1500
_LOOPBACK = "lo"
_UPLINKS = ("", "bond", "team", "vlan")  # kinds; hardware has none


class Encap(StrEnum):
    """What is put around a packet between nodes."""

    NONE = "None"
    IPIP = "IPIP"
    VXLAN = "VXLAN"
    UDP = "UDP"


# Bytes by underlay: IPv4 20 and IPv6 40; Ethernet 14, VXLAN 8 (RFC 7348 5) and UDP 8.
_OVERHEAD: Mapping[Encap, Mapping[Family, int]] = {
    Encap.NONE: {4: 0, 6: 0},
    Encap.IPIP: {4: 20, 6: 40},
    Encap.VXLAN: {4: 50, 6: 70},
    Encap.UDP: {4: 28, 6: 48},
}


@dataclass(frozen=True, slots=True)
class MtuChoice:
    """A pod's MTU in bytes, and why, as a sentence."""

    mtu: int
    reason: str


def uplink_mtu(holder: Link, links: Iterable[Link]) -> int:
    """Bytes that leave the node in one packet.

    Args:
        holder: the device with the node's address. Where that leads nowhere, the least that any uplink takes counts.
        links: all devices.
    """
    if holder.name != _LOOPBACK and holder.kind != "dummy":
        return holder.mtu
    uplinks = [link.mtu for link in links if link.up and link.kind in _UPLINKS and link.name != _LOOPBACK]
    return min(uplinks, default=DEFAULT_UPLINK)


def device_mtu(uplink: int, encap: Encap, family: Family) -> int:
    """Bytes that fit through a tunnel device whose outer packets have that family."""
    return uplink - _OVERHEAD[encap][family]


def choose_pod_mtu(policy: int | MtuPolicy, uplinks: Mapping[Family, int], pools: Iterable[IPPool]) -> MtuChoice:
    """The MTU of the pods that are made now.

    Args:
        policy: the setting CALICO_PY_MTU.
        uplinks: bytes, of the device with the node's address, by family; a family without one is absent.
        pools: all pools.
    """
    pools = [pool for pool in pools if AllowedUse.LOAD_BALANCER not in pool.allowed_uses]
    room, why = _smallest(uplinks, pools, in_use=policy != MtuPolicy.AUTO)
    if isinstance(policy, MtuPolicy):
        return MtuChoice(room, why)
    if policy > room:
        return MtuChoice(policy, f"CALICO_PY_MTU sets it, more than the {room} that fit: {why}")
    return MtuChoice(policy, "CALICO_PY_MTU sets it")


def _smallest(uplinks: Mapping[Family, int], pools: list[IPPool], *, in_use: bool) -> tuple[int, str]:
    """The least that any family leaves: a pod has one MTU for both."""
    families: list[Family] = [4] if 4 in uplinks else []
    if 6 in uplinks and any(pool.cidr.version == 6 for pool in pools):
        families.append(6)
    found = []
    for family in families or [4]:
        of_family = [pool for pool in pools if pool.cidr.version == family]
        encap = _used(of_family) if in_use else Encap.VXLAN
        uplink = uplinks.get(family, DEFAULT_UPLINK)
        what = f"{encap} over IPv{family}" + ("" if in_use else ", to which a pool could be switched")
        found.append((device_mtu(uplink, encap, family), f"the uplink's {uplink} less {what}"))
    return min(found)


def _used(pools: list[IPPool]) -> Encap:
    if any(pool.vxlan_mode != EncapMode.NEVER for pool in pools):
        return Encap.VXLAN
    return Encap.IPIP if any(pool.ipip_mode != EncapMode.NEVER for pool in pools) else Encap.NONE
