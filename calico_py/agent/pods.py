"""All pods of the cluster, as far as the leader's garbage collection must know them."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from calico_py.ipam.garbage import PodName, PodView
from calico_py.model.kinds import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.net import Address
from calico_py.model.store import Json, Kind, Store

_FINISHED = frozenset({"Succeeded", "Failed"})


@dataclass(frozen=True, slots=True)
class _Pod:
    """A pod; view is None for one on the host's network."""

    meta: Meta
    view: PodView | None


def _decode(obj: Json) -> _Pod:
    spec, status = obj.get("spec") or {}, obj.get("status") or {}
    view = PodView(spec.get("nodeName") or "", _addresses(status), status.get("phase") in _FINISHED)
    return _Pod(decode_meta(obj), None if spec.get("hostNetwork") else view)


def _addresses(status: Json) -> frozenset[Address]:
    """Of podIPs and, from an older kubelet, podIP; what is no address belongs to nobody."""
    texts = [entry.get("ip") for entry in status.get("podIPs") or ()] or [status.get("podIP")]
    found = set()
    for text in texts:
        try:
            found.add(ip_address(text or ""))
        except ValueError:
            continue
    return frozenset(found)


def _never(_: _Pod) -> dict[str, Any]:
    raise AssertionError("pods are only read")


_PODS: Kind[_Pod] = Kind("Pod", "", "v1", "pods", _decode, _never, namespaced=True)


async def list_pods(store: Store) -> Mapping[PodName, PodView]:
    """Every pod that is not on the host's network, as the API has it now.

    Raises:
        StoreError: the API failed.
    """
    found = (await store.list(_PODS)).items
    return {(pod.meta.namespace, pod.meta.name): pod.view for pod in found if pod.view is not None}
