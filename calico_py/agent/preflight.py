"""Refuses a cluster whose Calico keeps its objects where calico-py does not: its v1 CRDs, or its own API server.

Both would mean two sets of pools and blocks for one network. Asked once, before anything is watched or written.
"""

import asyncio
import logging

from calico_py.kube.backoff import Backoff
from calico_py.model.names import GROUP, VERSION
from calico_py.model.store import Json, Kind, NotFoundError, RefusedError, Store, StoreError
from calico_py.trouble import Trouble

log = logging.getLogger(__name__)

_CURE = (
    "export the objects (calicoctl datastore migrate export), remove Calico's CRDs and API server, apply calico-py's "
    "CRDs (kubectl apply -k deploy/crds) and import them"
)


class ForeignCalicoError(Exception):
    """The cluster has a Calico with which calico-py cannot share its objects; the message says which and what to do."""


def _as_is(obj: Json) -> Json:
    return obj


_CRDS: Kind[Json] = Kind("CustomResourceDefinition", "apiextensions.k8s.io", "v1", "customresourcedefinitions", _as_is)
_API_SERVICES: Kind[Json] = Kind("APIService", "apiregistration.k8s.io", "v1", "apiservices", _as_is)


async def refuse_foreign_calico(store: Store) -> None:
    """Return if the cluster is ours to use; waits for an API server that is away.

    Raises:
        ForeignCalicoError: Calico's v1 CRDs or its aggregated API server are there.
    """
    v1 = f"ippools.crd.{GROUP}"
    if await _find(store, _CRDS, v1) is not None:
        raise ForeignCalicoError(
            f"CustomResourceDefinition {v1} exists: Calico keeps its objects in its v1 CRDs, calico-py in {GROUP}/"
            f"{VERSION}; {_CURE}"
        )
    service = await _find(store, _API_SERVICES, f"{VERSION}.{GROUP}")
    if service is not None and (service.get("spec") or {}).get("service"):
        raise ForeignCalicoError(
            f"APIService {VERSION}.{GROUP} is served by Calico's aggregated API server, not by CRDs; {_CURE}"
        )


async def _find(store: Store, kind: Kind[Json], name: str) -> Json | None:
    """The object; None where there is none or this agent may not look."""
    backoff, trouble = Backoff(), Trouble(log)
    while True:
        try:
            found = await store.get(kind, name)
        except NotFoundError:
            found = None
        except RefusedError as error:
            log.warning("not looked for %s %s, of a Calico that was here before: %s", kind.kind, name, error)
            return None
        except StoreError as error:
            trouble.tell("waiting for the API server", error)
            await asyncio.sleep(backoff.wait())
            continue
        trouble.over()
        return found
