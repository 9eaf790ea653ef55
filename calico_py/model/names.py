"""The names, labels, annotations and handles by which Calico and calico-py find each other's objects.

Every string that another program reads is here once, with the place that defines it. Pure text.
"""

import base64
import hashlib

from calico_py.model.net import Family, Network

GROUP = "projectcalico.org"
VERSION = "v3"

# Annotations of a Node, Calico's own (libcalico-go, backend/k8s/resources/node.go).
NODE_IPV4_ADDRESS = "projectcalico.org/IPv4Address"
NODE_IPV6_ADDRESS = "projectcalico.org/IPv6Address"
NODE_IPV4_IPIP_TUNNEL = "projectcalico.org/IPv4IPIPTunnelAddr"
NODE_IPV4_VXLAN_TUNNEL = "projectcalico.org/IPv4VXLANTunnelAddr"
NODE_IPV6_VXLAN_TUNNEL = "projectcalico.org/IPv6VXLANTunnelAddr"
NODE_VXLAN_MAC = "projectcalico.org/VXLANTunnelMACAddr"
NODE_VXLAN_MAC_V6 = "projectcalico.org/VXLANTunnelMACAddrV6"
NODE_AS_NUMBER = "projectcalico.org/ASNumber"
NODE_RR_CLUSTER_ID = "projectcalico.org/RouteReflectorClusterID"

# calico-py's own: what has no field in Calico.
NODE_SENDING = "calico-py.io/sending"
NODE_TUNNEL_ENGINE_LABEL = "calico-py.io/tunnel-engine"
POOL_FROM_ENV = "calico-py.io/pool-from-env"

LABEL_AFFINITY_TYPE = "projectcalico.org/affinity-type"
LABEL_IP_VERSION = "projectcalico.org/ip-version"
LABEL_HOSTNAME_HASH = "projectcalico.org/hostname-hash"
LABEL_BORROWED = "projectcalico.org/borrowed"

IPIP_DEVICE = "tunl0"
VXLAN_DEVICE = "vxlan.calico"
WORKLOAD_PREFIX = "cali"

CNI_NETWORK = "k8s-pod-network"

POOL_FINALIZER = "projectcalico.org/ippool-finalizer"
"""Keeps a pool that is deleted until its last address is released; Calico's pool controller has the same."""

_MAX_NAME = 253
_DIGEST = 11


def hostname_hash(node: str) -> str:
    """Value of the label hostname-hash: unpadded upper-case base32 (RFC 4648) of sha3-256 of the node's name."""
    digest = hashlib.sha3_256(node.encode()).digest()
    return base64.b32encode(digest).decode().rstrip("=")


def block_name(cidr: Network) -> str:
    """Name of an IPAMBlock: ``10-64-0-0-26`` for 10.64.0.0/26."""
    return str(cidr).replace(".", "-").replace(":", "-").replace("/", "-")


def affinity_name(node: str, cidr: Network) -> str:
    """Name of a BlockAffinity: node and block, and as much of a very long node's name as Calico leaves of it.

    Calico reads an affinity by this name, so another one would be another claim (libcalico-go, ipam_affinity.go).
    """
    block = block_name(cidr)
    name = f"{node}-{block}"
    if len(name) < _MAX_NAME:
        return name
    digest = hashlib.sha256(f"{node}+{block}".encode()).hexdigest()[:_DIGEST]
    kept = _MAX_NAME - 1 - len(f"-{block}-") - _DIGEST
    return f"{node[:kept]}-{block}-{digest}"


def affinity_labels(node: str, cidr: Network) -> dict[str, str]:
    """The three labels by which Calico lists the affinities of a host."""
    return {
        LABEL_AFFINITY_TYPE: "host",
        LABEL_IP_VERSION: str(cidr.version),
        LABEL_HOSTNAME_HASH: hostname_hash(node),
    }


def workload_handle(container_id: str, network: str = CNI_NETWORK) -> str:
    """Handle of a pod's addresses: network name and container id."""
    return f"{network}.{container_id}"


def ipip_tunnel_handle(node: str) -> str:
    """Handle of the address of a node's tunl0."""
    return f"ipip-tunnel-addr-{node}"


def vxlan_tunnel_handle(node: str, family: Family) -> str:
    """Handle of the address of a node's vxlan.calico."""
    return f"vxlan-tunnel-addr-{node}" if family == 4 else f"vxlan-v6-tunnel-addr-{node}"


def warm_handle(node: str) -> str:
    """Handle under which a node's agent keeps reserved addresses."""
    return f"calico-py-warm-{node}"


def handle_name(handle_id: str) -> str:
    """Name of the IPAMHandle object: the handle's id in lower case."""
    return handle_id.lower()


def workload_ifname(namespace: str, pod: str) -> str:
    """Name of a pod's device on the host: ``cali`` and eleven hex digits of sha1 of ``namespace.pod``."""
    return WORKLOAD_PREFIX + hashlib.sha1(f"{namespace}.{pod}".encode()).hexdigest()[:11]  # noqa: S324 - a name, no secret
