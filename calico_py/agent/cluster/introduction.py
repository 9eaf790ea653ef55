"""Makes the two objects without which Calico's own tools do not believe that this is a cluster of theirs.

`calicoctl ipam check` reads both; Calico's CNI plugin refuses to work without ClusterInformation's datastoreReady. In a
cluster that came from Calico they exist, and are left as they are.
"""

import logging
from typing import Any

from calico_py.model.cluster_information import CLUSTER_INFORMATIONS, ClusterInformation
from calico_py.model.controllers import KUBE_CONTROLLERS_CONFIGURATIONS, KubeControllersConfiguration
from calico_py.model.meta import Meta
from calico_py.model.store import ExistsError, Kind, RefusedError, Store

NAME = "default"

log = logging.getLogger(__name__)


async def introduce_cluster(store: Store, *, guid: str) -> None:
    """Create what is missing.

    Args:
        store: the API server.
        guid: 32 hexadecimal digits, for a cluster that has none yet.

    Raises:
        StoreError: the API server is away.
    """
    wanted: tuple[tuple[Kind[Any], Any], ...] = (
        (CLUSTER_INFORMATIONS, ClusterInformation(Meta(NAME), guid)),
        (KUBE_CONTROLLERS_CONFIGURATIONS, KubeControllersConfiguration(Meta(NAME))),
    )
    for kind, obj in wanted:
        try:
            await store.create(kind, obj)
        except ExistsError:
            continue
        except RefusedError as error:
            log.warning("%s %s cannot be made, calicoctl needs it: %s", kind.kind, NAME, error)
        else:
            log.info("made %s %s, for Calico's tools", kind.kind, NAME)
