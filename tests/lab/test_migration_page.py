"""docs/migration.md: its commands, in its order, on a lab with a real kube-apiserver and what Calico and flannel leave.

There are no kubelets, so DaemonSets are objects and no more; what they would do is tested in tests/cluster.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from calico_py.lab.live import LiveLab
from tests.lab.labs import NEEDS_KUBE, kube_lab

CHECKOUT = Path(__file__).resolve().parents[2]
PAGE = CHECKOUT / "docs/migration.md"

pytestmark = [pytest.mark.root, *NEEDS_KUBE]


def _daemonset(namespace: str, name: str) -> dict[str, Any]:
    labels = {"k8s-app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": name, "image": "example.org/x"}]}}
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"matchLabels": labels}, "template": template},
    }


def _v1_crd() -> dict[str, Any]:
    """Calico's older CRD of pools, but for its schema."""
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": "ippools.crd.projectcalico.org"},
        "spec": {
            "group": "crd.projectcalico.org",
            "scope": "Cluster",
            "names": {"kind": "IPPool", "plural": "ippools", "singular": "ippool"},
            "versions": [version],
        },
    }


OLD_POOL: dict[str, Any] = {
    "apiVersion": "crd.projectcalico.org/v1",
    "kind": "IPPool",
    "metadata": {"name": "of-old", "annotations": {"projectcalico.org/metadata": "{}"}},
    "spec": {
        "cidr": "10.251.0.0/16",
        "blockSize": 26,
        "ipipMode": "CrossSubnet",
        "vxlanMode": "Never",
        "natOutgoing": True,
        "nodeSelector": "all()",
        "allowedUses": ["Workload", "Tunnel"],
    },
}


@dataclass(frozen=True)
class Reader:
    """Someone who reads the page, and does what it says, in a folder with a checkout's deploy/ in it."""

    lab: LiveLab
    folder: Path

    def run(self, script: str) -> str:
        """What a script prints; it must succeed."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "KUBECONFIG": str(self.lab.state.kubeconfig), "NODE": "node2"}
        environment |= {"HOME": str(self.folder)}  # of kubectl's cache
        argv = ["bash", "-euo", "pipefail", "-c", script]
        done = subprocess.run(argv, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout

    def make(self, *objects: dict[str, Any]) -> None:
        """Create objects."""
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.run(f"kubectl create -f - <<'EOF'\n{text}\nEOF")

    def follow(self, heading: str) -> str:
        """Run the commands below a heading, up to the next of its rank; what they print."""
        rank = heading.split(maxsplit=1)[0]
        section = PAGE.read_text().split(f"{heading}\n", 1)[1]
        section = re.split(rf"^#{{1,{len(rank)}}} ", section, maxsplit=1, flags=re.MULTILINE)[0]
        blocks = re.findall(r"^( *)```sh\n(.*?)^ *```$", section, re.MULTILINE | re.DOTALL)
        assert blocks, heading
        return "\n".join(self.run(textwrap.dedent(block)) for _, block in blocks)

    def names(self, kind: str) -> set[str]:
        """The names of the objects of a kind, in all namespaces."""
        return set(self.run(f"kubectl get {kind} -A -o jsonpath='{{.items[*].metadata.name}}'").split())


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    folder = tmp_path_factory.mktemp("reader")
    (folder / "deploy").symlink_to(CHECKOUT / "deploy")
    with kube_lab() as lab:
        yield Reader(lab, folder)


def test_from_calico_with_v3_crds(reader: Reader) -> None:
    reader.make(_daemonset("kube-system", "calico-node"))
    looked = reader.follow("### What does not: look before you begin")
    assert not looked.strip(), "no policy, no vxlan pool, no BGPPeer, no v1 CRD, no API server"
    assert "10.244.0.0/16" in (reader.folder / "before-ippools.projectcalico.org.yaml").read_text()
    said = reader.follow("### With v3 CRDs: node by node")
    assert re.search(r"node2 +192\.168\.50\.12", said), "status --cluster"
    assert "daemonset.apps/calico-node-migrated created" in said
    assert {"calico-node", "calico-py-speaker", "calico-py-tunnel"} <= reader.names("daemonsets")
    assert not {name for name in reader.names("daemonsets") if name.endswith("-migrated")}
    assert "network" not in reader.run("kubectl get node node2 -o jsonpath='{.metadata.labels}'")
    assert reader.names("ippools") == {"default-ipv4-ippool"}, "the CRDs, and the pools with them, were never deleted"


def test_the_two_daemonsets_never_share_a_node(reader: Reader) -> None:
    """What the page's kustomization makes: Calico's pods where the label is not, calico-py's where it is."""
    shown = reader.run("kubectl kustomize migration")
    assert "CustomResourceDefinition" not in shown
    assert (
        shown.count("network: calico-py\n        kubernetes.io/os: linux")
        + shown.count("kubernetes.io/os: linux\n        network: calico-py")
        == 3
    ), shown


def test_from_calico_with_v1_crds(reader: Reader) -> None:
    reader.make(_v1_crd())
    reader.run("kubectl wait --for=condition=Established crd/ippools.crd.projectcalico.org")
    reader.make(OLD_POOL)
    assert "ippools.crd.projectcalico.org" in reader.follow("### What does not: look before you begin")
    reader.follow("### With v1 CRDs, or Calico's API server: at once")
    moved = json.loads(reader.run("kubectl get ippools.projectcalico.org of-old -o json"))
    assert OLD_POOL["spec"].items() <= moved["spec"].items()
    assert "ippools.crd.projectcalico.org" not in reader.names("crd")
    reader.run("kubectl delete ippool of-old")


def test_from_flannel(reader: Reader) -> None:
    reader.make({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kube-flannel"}})
    reader.make(_daemonset("kube-flannel", "kube-flannel-ds"))
    said = reader.follow("## From flannel")
    assert "felixconfiguration.projectcalico.org/default created" in said
    assert "kube-flannel-ds" not in reader.names("daemonsets")
