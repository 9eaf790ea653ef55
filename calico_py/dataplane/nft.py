"""The table ``inet calico-py``: which tunnel packets are let in, and which pods' traffic is masqueraded.

What is ours after a restart with no memory: the table of that name, wholly; the digest of its rules, in its comment,
says whether it is as it should be. Nothing in it accepts a packet that another table drops.
"""

import hashlib
import logging
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from calico_py.model.intent import Firewall
from calico_py.model.kernel import Kernel, KernelEvent, NftTable, Put
from calico_py.model.names import IPIP_DEVICE, WORKLOAD_PREFIX
from calico_py.model.net import Address, Network

FAMILY = "inet"
TABLE = "calico-py"

_PROTO_IPIP = 4  # IPv4 within IPv4 or IPv6 (RFC 2003, RFC 2473)

_log = logging.getLogger(__name__)


def render_rules(firewall: Firewall) -> NftTable:
    """The table for a firewall. Equal firewalls give equal text.

    - Nodes alone may send us IPIP, and nobody while no receiver is wanted. The hook is input: before the kernel's
      tunnel device and before raw sockets.
    - Pods may not send IPIP to anyone: a peer would take it for their node's.
    - Traffic from a pool with natOutgoing to an address in no pool leaves with the node's address, unless it came
      through the tunnel: then its own node has decided.
    - What this node sends into the tunnel from its own address leaves with the tunnel's address, as in Calico: or the
      answer would come outside of the tunnel.
    - What kube-proxy has marked for masquerade on its way to a pod elsewhere leaves with the address that masquerade
      would give it. Not by masquerade, and before kube-proxy: the kernel ends a masqueraded connection when its device
      changes (nf_nat_oif_changed), as it does when the pool's mode does. The mark goes, as kube-proxy takes it off:
      the kernel's ipip leaves it on the outer packet, which kube-proxy would masquerade next.
    """
    rules = "\n".join(
        [
            _render_set("nodes4", "ipv4_addr", _sorted(firewall.nodes, 4)),
            _render_set("nodes6", "ipv6_addr", _sorted(firewall.nodes, 6)),
            _render_set("pools4", "ipv4_addr", _sorted(firewall.pools, 4), interval=True),
            _render_set("pools6", "ipv6_addr", _sorted(firewall.pools, 6), interval=True),
            _render_set("masquerade4", "ipv4_addr", _sorted(firewall.masquerade, 4), interval=True),
            _render_set("masquerade6", "ipv6_addr", _sorted(firewall.masquerade, 6), interval=True),
            _render_set("uplinks", "ifname", [f'"{name}"' for name in sorted(firewall.uplinks)]),
            _render_chains(firewall),
            _render_lasting(firewall),
        ]
    )
    return NftTable(FAMILY, TABLE, rules, hashlib.sha256(rules.encode()).hexdigest()[:16])


def _sorted(values: Iterable[Address | Network], version: int) -> list[str]:
    """As text, in numerical order."""
    mine = [value for value in values if value.version == version]
    return [str(value) for value in sorted(mine, key=_order)]


def _order(value: Address | Network) -> tuple[int, int]:
    if isinstance(value, IPv4Address | IPv6Address):
        return int(value), 0
    return int(value.network_address), value.prefixlen


def _render_set(name: str, kind: str, elements: list[str], *, interval: bool = False) -> str:
    lines = [f"\tset {name} {{", f"\t\ttype {kind}"]
    if interval:
        lines += ["\t\tflags interval", "\t\tauto-merge"]
    if elements:
        lines.append(f"\t\telements = {{ {', '.join(elements)} }}")
    return "\n".join([*lines, "\t}"])


def _render_chains(firewall: Firewall) -> str:
    from_nodes = "\t\tip saddr @nodes4 return\n\t\tip6 saddr @nodes6 return\n" if firewall.receive_ipip else ""
    return f"""\
\tchain prerouting {{
\t\ttype filter hook prerouting priority raw; policy accept;
\t\tiifname "{WORKLOAD_PREFIX}*" meta l4proto {_PROTO_IPIP} counter drop comment "IPIP from a pod"
\t}}
\tchain input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tmeta l4proto {_PROTO_IPIP} jump tunnel
\t}}
\tchain tunnel {{
{from_nodes}\t\tcounter drop comment "IPIP from a stranger"
\t}}
\tchain postrouting {{
\t\ttype nat hook postrouting priority srcnat; policy accept;
\t\tiifname "{IPIP_DEVICE}" return
\t\tip saddr @masquerade4 ip daddr != @pools4 counter masquerade fully-random comment "natOutgoing"
\t\tip6 saddr @masquerade6 ip6 daddr != @pools6 counter masquerade fully-random comment "natOutgoing"
\t}}"""


def _render_lasting(firewall: Firewall) -> str:
    """Sources that a connection is given by its first packet and keeps, whatever device the others leave by."""
    mark = firewall.service_mark
    jump = f"\t\tmeta mark & {mark:#010x} != 0 jump services\n" if mark else ""
    unmark = f"meta mark set meta mark & {~mark & 0xFFFFFFFF:#010x} counter"
    own, services = "", ""
    if tunnel := firewall.tunnel_address:
        own = f'\t\toifname "{IPIP_DEVICE}" ip saddr @nodes4 counter {_snat(tunnel)} comment "own address"\n'
        services = f'\t\toifname "{IPIP_DEVICE}" ip daddr @pools4 {unmark} {_snat(tunnel)} comment "Service, tunnel"\n'
    for address in sorted(firewall.own, key=lambda each: each.version):
        word = "ip" if address.version == 4 else "ip6"
        to_pods = f"oifname @uplinks {word} daddr @pools{address.version}"
        services += f'\t\t{to_pods} {unmark} {_snat(address)} comment "Service, uplink"\n'
    return f"""\
\tchain lasting {{
\t\ttype nat hook postrouting priority srcnat - 1; policy accept;
{jump}{own}\t}}
\tchain services {{
{services}\t}}"""


def _snat(address: Address) -> str:
    return f"snat {'ip' if address.version == 4 else 'ip6'} to {address} fully-random"


class NftReconciler:
    """Keeps the table as it should be."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._actual = ""  # digest; empty: missing, or not read yet
        self._stale = True
        self._problem = ""
        self._firewall = Firewall()
        self._table = render_rules(self._firewall)

    async def resync(self) -> None:
        """Read what is there."""
        self._stale = False
        tables = await self._kernel.dump(NftTable)
        self._actual = next((t.digest for t in tables if (t.family, t.name) == (FAMILY, TABLE)), "")

    async def apply(self, firewall: Firewall) -> str:
        """Replace the table in one transaction if it differs.

        Returns:
            why it could not be done, in a sentence; empty if all is well.
        """
        if self._stale:
            await self.resync()
        if firewall != self._firewall:  # rendering thousands of nodes at every apply would take longer than the rest
            self._firewall, self._table = firewall, render_rules(firewall)
        problem = ""
        if self._table.digest != self._actual:
            (error,) = await self._kernel.send([Put(self._table)])
            self._stale |= error is not None
            if error is None:
                self._actual = self._table.digest
            else:
                problem = str(error)
        if problem and problem != self._problem:
            _log.warning("%s", problem)
        self._problem = problem
        return problem

    def on_event(self, event: KernelEvent) -> bool:
        """Note a change of our table; True if there was one."""
        match event.object:
            case None:
                self._stale |= event.kind is None
                return event.kind is None
            case NftTable(family=family, name=name) if (family, name) == (FAMILY, TABLE):
                self._stale = True
                return True
            case _:
                return False
