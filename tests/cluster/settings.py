"""Command lines and configuration files of a cluster's programs: those of Kubernetes and containerd."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from calico_py.lab.nodes import KUBECONFIG
from calico_py.lab.topology import NodePlace

POD_NETWORK = "10.244.0.0/16"
POD_NETWORK6 = "fd00:10:244::/48"
SOCKET = "/run/containerd/containerd.sock"
PAUSE_IMAGE = "docker.io/calico-py/pause:1"

KUBELET_CONFIG = "/etc/kubernetes/kubelet.yaml"
PROXY_CONFIG = "/etc/kubernetes/proxy.yaml"
CONTAINERD_CONFIG = "/etc/containerd.toml"


def api_server(command: list[str]) -> list[str]:
    """The lab's API server, with service accounts."""
    return [word for word in command if not word.startswith("--disable-admission-plugins")]


def write_audit_policy(folder: Path) -> list[str]:
    """Flags with which the API server notes who asked for what, in ``audit.log`` of the folder."""
    policy: dict[str, Any] = {"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"]}
    policy["rules"] = [{"level": "Metadata", "userGroups": ["system:serviceaccounts"]}, {"level": "None"}]
    path = folder / "audit-policy.json"
    path.write_text(json.dumps(policy))
    return [f"--audit-policy-file={path}", f"--audit-log-path={folder / 'audit.log'}"]


def controller_manager(program: Path, kubeconfig: Path, authority: Path) -> list[str]:
    """kube-controller-manager."""
    return [
        str(program),
        f"--kubeconfig={kubeconfig}",
        f"--root-ca-file={authority}",
        f"--service-account-private-key-file={authority.with_suffix('.key')}",
        "--leader-elect=false",
        "--bind-address=127.0.0.1",
        "--node-monitor-period=1s",
    ]


def scheduler(program: Path, kubeconfig: Path) -> list[str]:
    """kube-scheduler."""
    return [str(program), f"--kubeconfig={kubeconfig}", "--leader-elect=false", "--bind-address=127.0.0.1"]


def kubelet(program: Path, node: NodePlace) -> list[str]:
    """A node's kubelet."""
    return [
        str(program),
        f"--config={KUBELET_CONFIG}",
        f"--kubeconfig={KUBECONFIG}",
        f"--hostname-override={node.name}",
        f"--node-ip={node.ipv4.ip}",
    ]


def proxy(program: Path, node: NodePlace) -> list[str]:
    """A node's kube-proxy."""
    return [str(program), f"--config={PROXY_CONFIG}", f"--hostname-override={node.name}"]


def files(node: NodePlace) -> Mapping[str, str]:
    """A node's configuration files, by path inside it."""
    del node
    return {
        KUBELET_CONFIG: json.dumps(_KUBELET),
        PROXY_CONFIG: json.dumps(_PROXY),
        CONTAINERD_CONFIG: _CONTAINERD,
    }


# What kubeadm leaves in a cluster, as far as network plugins read it.
KUBEADM_CONFIG: Mapping[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
    "data": {"ClusterConfiguration": f"networking:\n  podSubnet: {POD_NETWORK},{POD_NETWORK6}\n"},
}

# JSON is YAML.
_KUBELET: Mapping[str, Any] = {
    "apiVersion": "kubelet.config.k8s.io/v1beta1",
    "kind": "KubeletConfiguration",
    "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
    "authorization": {"mode": "AlwaysAllow"},
    "containerRuntimeEndpoint": f"unix://{SOCKET}",
    # The machine's own control groups are not the kubelet's to arrange.
    "cgroupDriver": "cgroupfs",
    "cgroupsPerQOS": False,
    "enforceNodeAllocatable": [],
    "failSwapOn": False,
    "localStorageCapacityIsolation": False,
    "resolvConf": "",
    "evictionHard": {"imagefs.available": "0%", "memory.available": "0%", "nodefs.available": "0%"},
    "imageGCHighThresholdPercent": 100,
    "imageGCLowThresholdPercent": 99,
    "nodeStatusUpdateFrequency": "4s",
    "syncFrequency": "10s",
}

_PROXY: Mapping[str, Any] = {
    "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
    "kind": "KubeProxyConfiguration",
    "mode": "iptables",
    "clusterCIDR": POD_NETWORK,
    "clientConnection": {"kubeconfig": KUBECONFIG},
    "conntrack": {"maxPerCore": 0, "min": 0, "tcpCloseWaitTimeout": "0s", "tcpEstablishedTimeout": "0s"},
    "metricsBindAddress": "127.0.0.1:10249",
}

_CONTAINERD = f"""\
version = 2
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
"""
