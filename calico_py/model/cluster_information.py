"""ClusterInformation: what Calico's tools read of a cluster before anything else, as far as calico-py writes it."""

from dataclasses import dataclass
from typing import Any

from calico_py.model import names
from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.store import Json, Kind


@dataclass(frozen=True, slots=True)
class ClusterInformation:
    """What the cluster is; object ``default``.

    calicoVersion is left out: calicoctl refuses to work with a version that is not its own, and compares none.

    Attributes:
        guid: 32 hexadecimal digits that tell this cluster from others.
        ready: Calico's tools and CNI plugin may write.
    """

    meta: Meta
    guid: str = ""
    ready: bool = True


def _decode(obj: Json) -> ClusterInformation:
    spec = obj.get("spec") or {}
    return ClusterInformation(decode_meta(obj), str(spec.get("clusterGUID") or ""), spec.get("datastoreReady") is True)


def _encode(information: ClusterInformation) -> dict[str, Any]:
    """For its creation: an object that is there is never written again."""
    return {
        "apiVersion": f"{names.GROUP}/{names.VERSION}",
        "kind": "ClusterInformation",
        "metadata": {"name": information.meta.name},
        "spec": {"clusterGUID": information.guid, "clusterType": "k8s", "datastoreReady": information.ready},
    }


CLUSTER_INFORMATIONS: Kind[ClusterInformation] = Kind(
    "ClusterInformation", names.GROUP, names.VERSION, "clusterinformations", _decode, _encode
)
