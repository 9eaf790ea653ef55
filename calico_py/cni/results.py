"""Results in the shape of each version of the specification, 0.1.0 to 1.1.0. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from calico_py.cni.config import VERSIONS
from calico_py.cni.errors import CNIError
from calico_py.model.net import Address, Interface

_FIRST_WITH_INTERFACES = VERSIONS.index("0.3.0")
_FIRST_WITHOUT_IP_VERSION = VERSIONS.index("1.0.0")
_FIRST_WITH_MTU = VERSIONS.index("1.1.0")


@dataclass(frozen=True, slots=True)
class ResultInterface:
    """An interface of a result.

    Attributes:
        sandbox: path of the pod's namespace; empty for one on the host.
        mtu: bytes.
    """

    name: str
    mac: str
    mtu: int
    sandbox: str = ""


@dataclass(frozen=True, slots=True)
class AddResult:
    """What ADD made.

    Attributes:
        addresses: on the last of the interfaces, each with its gateway, by which everything is reached.
    """

    interfaces: Sequence[ResultInterface]
    addresses: Sequence[tuple[Interface, Address]]
    dns: Mapping[str, Any] = field(default_factory=dict)


def render_error(version: str, error: CNIError) -> bytes:
    """The specification's section 5, "Error"."""
    body: dict[str, Any] = {"cniVersion": version, "code": int(error.code), "msg": error.message}
    if error.details:
        body["details"] = error.details
    return _dump(body)


def render_versions(version: str) -> bytes:
    """The answer to VERSION."""
    return _dump({"cniVersion": version, "supportedVersions": list(VERSIONS)})


def render_add(version: str, result: AddResult, previous: Mapping[str, Any] | None = None) -> bytes:
    """The answer to ADD.

    Args:
        version: one of VERSIONS.
        result: at most one address of a family where the version is below 0.3.0.
        previous: result of the plugin before us in the chain, which ours is added to (0.3.0 and newer).
    """
    index = VERSIONS.index(version)
    if index < _FIRST_WITH_INTERFACES:
        return _dump(_render_old(version, result))
    body = dict(previous or {})
    body["cniVersion"] = version
    earlier = list(body.get("interfaces") or [])
    body["interfaces"] = earlier + [_render_interface(index, each) for each in result.interfaces]
    position = len(body["interfaces"]) - 1
    body["ips"] = list(body.get("ips") or []) + [
        _render_ip(index, position, address, gateway) for address, gateway in result.addresses
    ]
    body["routes"] = list(body.get("routes") or []) + [
        {"dst": _everything(gateway), "gw": str(gateway)} for _, gateway in result.addresses
    ]
    body["dns"] = dict(result.dns) or dict(body.get("dns") or {})
    return _dump(body)


def _render_old(version: str, result: AddResult) -> dict[str, Any]:
    body: dict[str, Any] = {"cniVersion": version, "dns": dict(result.dns)}
    for address, gateway in result.addresses:
        body[f"ip{address.version}"] = {
            "ip": str(address),
            "gateway": str(gateway),
            "routes": [{"dst": _everything(gateway), "gw": str(gateway)}],
        }
    return body


def _render_interface(index: int, interface: ResultInterface) -> dict[str, Any]:
    out: dict[str, Any] = {"name": interface.name, "mac": interface.mac}
    if interface.sandbox:
        out["sandbox"] = interface.sandbox
    if index >= _FIRST_WITH_MTU:
        out["mtu"] = interface.mtu
    return out


def _render_ip(index: int, position: int, address: Interface, gateway: Address) -> dict[str, Any]:
    out: dict[str, Any] = {"interface": position, "address": str(address), "gateway": str(gateway)}
    if index < _FIRST_WITHOUT_IP_VERSION:
        out["version"] = str(address.version)
    return out


def _everything(gateway: Address) -> str:
    return "0.0.0.0/0" if gateway.version == 4 else "::/0"


def _dump(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()
