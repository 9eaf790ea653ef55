"""ClusterState: all that the API says, as one frozen value; and Local: what this node knows of itself."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from calico_py.model.bgp import BGPConfiguration, FelixConfiguration
from calico_py.model.blocks import BlockAffinity, IPAMBlock
from calico_py.model.meta import Meta
from calico_py.model.net import Family, Network
from calico_py.model.nodes import Node
from calico_py.model.pools import IPPool


@dataclass(frozen=True, slots=True)
class ClusterState:
    """The cluster as the reflectors have it.

    Attributes:
        nodes, pools, affinities: by object name.
        blocks: only this node's own and those with borrowed addresses.
        node_bgp: BGPConfiguration ``node.NAME`` by node name; fields set there override ``bgp``.
    """

    nodes: Mapping[str, Node] = field(default_factory=dict)
    pools: Mapping[str, IPPool] = field(default_factory=dict)
    affinities: Mapping[str, BlockAffinity] = field(default_factory=dict)
    blocks: Mapping[Network, IPAMBlock] = field(default_factory=dict)
    bgp: BGPConfiguration = field(default_factory=lambda: BGPConfiguration(Meta("default")))
    node_bgp: Mapping[str, BGPConfiguration] = field(default_factory=dict)
    felix: FelixConfiguration = field(default_factory=lambda: FelixConfiguration(Meta("default")))


@dataclass(frozen=True, slots=True)
class Local:
    """What the agent knows of its own node and the API does not say.

    Attributes:
        node: name of this node.
        ipip_address: address of tunl0 from IPAM; None while there is none.
        ipip_address_gone: IPAM says that this node has none, so that somebody else may get one that is still on tunl0.
        ipip_receiver: tunl0 must be able to receive: a pool tunnels, somebody still sends, or it lingers.
        ipip_announced: the receiver has been seen to be up, so that others may send.
        uplinks: names of the devices that hold the node's addresses.
        uplink_mtu: bytes, by family; the MTU of that device.
        bgp: sessions and announcements run (backend is not ``none``).
        router_id: BGP identifier, or ``hash`` for one made from the name; empty for the node's IPv4 address.
        service_mark: kube-proxy's, of packets that it will masquerade; 0 leaves them to it.
    """

    node: str
    ipip_address: IPv4Address | None = None
    ipip_address_gone: bool = False
    ipip_receiver: bool = False
    uplinks: frozenset[str] = frozenset()
    uplink_mtu: Mapping[Family, int] = field(default_factory=dict)
    bgp: bool = True
    router_id: str = ""
    service_mark: int = 0
