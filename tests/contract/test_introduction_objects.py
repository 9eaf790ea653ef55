"""The objects that Calico's tools look for, as both API servers keep them."""

from calico_py.agent.cluster.introduction import introduce_cluster
from calico_py.kube.client import connect
from tests.contract.servers import ApiUnderTest

GROUP = "/apis/projectcalico.org/v3"


async def test_they_are_made_once(api_server: ApiUnderTest) -> None:
    async with connect(str(api_server.kubeconfig)) as store:
        await introduce_cluster(store, guid="a" * 32)
        await introduce_cluster(store, guid="b" * 32)
    information = api_server.request("GET", f"{GROUP}/clusterinformations/default").body["spec"]
    assert information == {"clusterGUID": "a" * 32, "clusterType": "k8s", "datastoreReady": True}
    configuration = api_server.request("GET", f"{GROUP}/kubecontrollersconfigurations/default").body["spec"]
    assert configuration == {"controllers": {"node": {}}}
