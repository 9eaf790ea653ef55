"""An agent whose rights, credentials or Node are taken away, on a real kube-apiserver: what it asks, says and shows."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml

from calico_py.agent.publish import NodePublisher
from calico_py.agent.view import ClusterView
from calico_py.kube.client import connect
from calico_py.model.kinds import NODES
from calico_py.model.meta import Meta
from calico_py.model.nodes import Node
from calico_py.model.store import ForbiddenError, NotFoundError, UnauthenticatedError
from tests.contract.servers import ApiUnderTest
from tests.fakes.running import running
from tests.fakes.waiting import until

RBAC = Path(__file__).resolve().parents[2] / "deploy" / "rbac.yaml"
ACCOUNT = "/api/v1/namespaces/kube-system/serviceaccounts"
ROLES = "/apis/rbac.authorization.k8s.io/v1"
PATHS = {
    "ServiceAccount": ACCOUNT,
    "ClusterRole": f"{ROLES}/clusterroles",
    "ClusterRoleBinding": f"{ROLES}/clusterrolebindings",
    "Role": f"{ROLES}/namespaces/kube-system/roles",
    "RoleBinding": f"{ROLES}/namespaces/kube-system/rolebindings",
}
NODE = "node1"
OBSERVED = Node(Meta(NODE))


@pytest.fixture
def account(kube_server: ApiUnderTest) -> ApiUnderTest:
    """The server on which the agents' account has the rights of deploy/rbac.yaml."""
    for manifest in yaml.safe_load_all(RBAC.read_text()):
        path = PATHS[manifest["kind"]]
        if manifest["metadata"].get("namespace", "kube-system") != "kube-system":
            path = path.replace("kube-system", manifest["metadata"]["namespace"])
        made = kube_server.request("POST", path, manifest)
        assert made.status == 201, made.body
    return kube_server


def agents_kubeconfig(api: ApiUnderTest, folder: Path) -> Path:
    """A kubeconfig with a token of the account."""
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 600}}
    made = api.request("POST", f"{ACCOUNT}/calico-node/token", request)
    assert made.status == 201, made.body
    config: dict[str, Any] = yaml.safe_load(api.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": made.body["status"]["token"]}
    path = folder / "agent.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path


async def test_a_node_that_is_deleted_then_its_rights_then_its_credentials(
    account: ApiUnderTest, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert account.request("POST", "/api/v1/nodes", {"metadata": {"name": NODE}}).status == 201
    async with connect(str(agents_kubeconfig(account, tmp_path))) as store:
        publisher = NodePublisher(store, NODE, lambda: OBSERVED)
        publisher.set(annotations={"calico-py.io/test": "1"})
        view = ClusterView(store, NODE, lambda: None)
        async with running(publisher.run(), view.run()):
            await view.wait_in_sync()
            assert (await store.get(NODES, NODE)).meta.annotations == {"calico-py.io/test": "1"}
            caplog.clear()

            async def refused(error: type[Exception], words: str) -> None:
                """The publisher meets it, and says so."""
                publisher.set(annotations={"calico-py.io/test": words})
                await until(lambda: words in publisher.last_error, within=20)
                with pytest.raises(error):
                    await store.get(NODES, NODE)

            assert account.request("DELETE", f"/api/v1/nodes/{NODE}").status == 200
            await refused(NotFoundError, "not found")
            assert account.request("DELETE", f"{PATHS['ClusterRoleBinding']}/calico-node").status == 200
            await refused(ForbiddenError, "cannot patch resource")
            assert account.request("DELETE", f"{ACCOUNT}/calico-node").status == 200
            await refused(UnauthenticatedError, "does not accept the credentials")
            said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
            assert len(said) == 1, said
            assert said[0].startswith(f"Node {NODE}: its annotations could not be written: patch Node {NODE}")
            assert said[0].endswith(NotFoundError.cure)
