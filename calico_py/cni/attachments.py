"""The interface that a call is about, as the wiring knows it and as results tell it. Pure."""

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any

from calico_py.cni.config import Call
from calico_py.cni.errors import CNIError, Code
from calico_py.cni.results import AddResult, ResultInterface
from calico_py.model import names
from calico_py.model.net import Address, family, parse_interface
from calico_py.model.wiring import GATEWAYS, PodLink, WiredInterface


def host_ifname(call: Call) -> str:
    """Calico's name: by the pod, and by the container where the runtime is not Kubernetes'."""
    if call.pod:
        return names.workload_ifname(call.namespace, call.pod)
    return names.WORKLOAD_PREFIX + call.container_id[:11]


def new_link(call: Call, addresses: Iterable[Address], *, mtu: int) -> PodLink:
    """What ADD makes; the mtu (bytes) is the agent's choice, and the configuration's comes first."""
    return PodLink(
        namespace=call.namespace,
        pod=call.pod or call.container_id,
        container_id=call.container_id,
        ifname=call.ifname,
        host_ifname=host_ifname(call),
        addresses=tuple(ipaddress.ip_interface(address) for address in addresses),
        mtu=call.config.mtu or mtu,
        mac=call.mac,
        network=call.config.name,
    )


def add_result(call: Call, link: PodLink, interfaces: Sequence[WiredInterface]) -> AddResult:
    """What ADD made, for the runtime."""
    return AddResult(
        interfaces=[
            ResultInterface(each.name, each.mac, each.mtu, call.netns if each.in_pod else "") for each in interfaces
        ],
        addresses=[(address, GATEWAYS[family(address)]) for address in link.addresses],
        dns=call.config.dns,
    )


def previous_link(call: Call) -> PodLink:
    """What ADD made, as its result tells; an MTU of 0 where the version's result has none.

    Raises:
        CNIError: prevResult does not hold the result of our ADD.
    """
    previous: Any = call.config.previous or {}
    try:
        interfaces = list(previous.get("interfaces") or [])
        position = next(
            i for i, each in enumerate(interfaces) if each.get("sandbox") and each.get("name") == call.ifname
        )
        addresses = tuple(
            parse_interface(ip["address"], field="prevResult.ips")
            for ip in previous.get("ips") or []
            if ip.get("interface") == position
        )
        mtu, mac = int(interfaces[position].get("mtu") or 0), str(interfaces[position].get("mac") or "")
    except StopIteration:
        raise CNIError(
            Code.INVALID_CONFIGURATION,
            "invalid prevResult",
            f"interfaces: found none named {call.ifname} with a sandbox, expected the result of ADD",
        ) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CNIError(Code.DECODE_FAILURE, "could not decode prevResult", str(error)) from None
    return PodLink(
        namespace=call.namespace,
        pod=call.pod or call.container_id,
        container_id=call.container_id,
        ifname=call.ifname,
        host_ifname=host_ifname(call),
        addresses=addresses,
        mtu=mtu,
        mac=mac,
        network=call.config.name,
    )
