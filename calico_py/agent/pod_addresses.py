"""The addresses of this node's pods, as the kernel has them: those with a host route to a pod's device."""

from calico_py.model.kernel import Kernel, Link, Route
from calico_py.model.names import WORKLOAD_PREFIX
from calico_py.model.net import Address


async def list_pod_addresses(kernel: Kernel) -> set[Address]:
    """Also those of the pods that real Calico made."""
    devices = {link.ifindex for link in await kernel.dump(Link) if link.name.startswith(WORKLOAD_PREFIX)}
    return {
        route.dst.network_address
        for route in await kernel.dump(Route)
        if route.dst.prefixlen == route.dst.max_prefixlen and any(hop.ifindex in devices for hop in route.next_hops)
    }
