"""What the API says of this node's pods and of namespaces: from a watch, so that an ADD asks nothing.

The kubelet and this agent hear of a pod at the same time, and its ADD comes a sandbox later. A pod that the watch does
not have yet is read from the API.
"""

from collections.abc import Callable
from dataclasses import dataclass

from calico_py.cni.wishes import PodFacts
from calico_py.kube.reflector import Reflector
from calico_py.model.codec import decode_meta
from calico_py.model.meta import Meta
from calico_py.model.store import Json, Kind, NotFoundError, Store
from calico_py.trouble import Trouble


@dataclass(frozen=True, slots=True)
class Described:
    """Labels and annotations of an object."""

    meta: Meta


def _decode(obj: Json) -> Described:
    return Described(decode_meta(obj))


PODS: Kind[Described] = Kind("Pod", "", "v1", "pods", _decode, namespaced=True, metadata_only=True)
NAMESPACES: Kind[Described] = Kind("Namespace", "", "v1", "namespaces", _decode, metadata_only=True)


def _uids(pod: Described) -> tuple[str, str]:
    """A static pod's own is an annotation of the object that stands for it in the API."""
    return pod.meta.uid, pod.meta.annotations.get("kubernetes.io/config.mirror", "")


def _unheard() -> None:
    """An ADD asks when it comes; until then nothing is to be done."""


class PodLookup:
    """The pods that are bound to this node, and all namespaces.

    Attributes:
        pods, namespaces: to be run by the view.
    """

    def __init__(self, store: Store, node: str, *, trouble: Trouble | None = None) -> None:
        self.pods = Reflector(store, PODS, _unheard, fields=f"spec.nodeName={node}", trouble=trouble)
        self.namespaces = Reflector(store, NAMESPACES, _unheard, trouble=trouble)
        self._store = store

    async def find(self, namespace: str, name: str, uid: str) -> PodFacts:
        """What is known of a pod. One that the API does not have asks for nothing: a static pod, at first.

        Args:
            namespace: of the pod.
            name: of the pod.
            uid: of the very pod, where the runtime says it: its name may have been another's a moment ago.

        Raises:
            StoreError: the API was to be asked and failed.
        """
        pod = await self._get(self.pods, PODS, name, namespace, lambda found: not uid or uid in _uids(found))
        around = await self._get(self.namespaces, NAMESPACES, namespace, "", lambda _: True)
        return PodFacts(
            pod.meta.annotations if pod is not None else {},
            around.meta.annotations if around is not None else {},
            around.meta.labels if around is not None else None,
        )

    async def _get(
        self,
        watch: Reflector[Described],
        kind: Kind[Described],
        name: str,
        namespace: str,
        is_it: Callable[[Described], bool],
    ) -> Described | None:
        found = watch.objects.get(f"{namespace}/{name}" if namespace else name)
        if found is None or not is_it(found):
            try:
                found = await self._store.get(kind, name, namespace=namespace)
            except NotFoundError:
                return None
        return found if is_it(found) else None
