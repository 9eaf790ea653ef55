"""Pods that come and go while something else happens, and how long each waits until it runs."""

import contextlib
import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

from calico_py.lab import namespaces
from calico_py.lab.client import Api
from calico_py.lab.objects import PODS
from tests.cluster.images import TEST_IMAGE
from tests.cluster.kube_cluster import Cluster, wait_until

LABEL = "churn"
AGENTS = "/api/v1/namespaces/kube-system/pods?labelSelector=k8s-app%3Dcalico-node"
TIDE = "/apis/apps/v1/namespaces/default/deployments"

_EVERY = 8.0  # seconds between two single pods, while all agents are there
_AWAY = 2.0  # seconds between two pods on a node whose agent is not
_HEIGHT = 3  # pods of the Deployment when it has grown
_TURN = 8.0  # seconds after which it grows or shrinks
_LOOK = 0.2  # seconds: as exact is what is measured
_LAST = 40.0  # seconds for the last pods to run


class Churn:
    """Single pods, on each node in turn and on those whose agent is not ready, and a Deployment that grows and shrinks.

    Attributes:
        seconds: from the request for a single pod until it was seen to run, by its name.
        hasty: names of those that were requested for a node while its agent was not ready.
    """

    def __init__(self, kube: Cluster) -> None:
        self.seconds: dict[str, float] = {}
        self.hasty: set[str] = set()
        self._kube = kube
        self._api = Api(kube.plan.url, kube.plan.token, str(kube.plan.authority))
        self._begun: dict[str, float] = {}
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """No more pods; returns when those that there are run, or should."""
        self._enough.set()
        self._thread.join()

    def expect_all_ran(self) -> None:
        """End it, and see that each pod came to run at the runtime's first attempt."""
        self.stop()
        for what, names in (("with an agent", self.seconds.keys() - self.hasty), ("without", self.hasty)):
            print(f"\nseconds until pods ran, {what}: {sorted(self.seconds[name] for name in names)}")
        assert self.seconds.keys() == self._begun.keys()
        events = self._kube.get("events", "--field-selector=reason=FailedCreatePodSandBox")["items"]
        mine = [event["message"] for event in events if event["involvedObject"]["name"].startswith(LABEL)]
        assert mine == []
        self._kube.kubectl("scale", f"deployment/{LABEL}", f"--replicas={_HEIGHT}")
        wait_until(lambda: self._available() == _HEIGHT, within=_LAST, what="the Deployment has grown once more")

    def _run(self) -> None:
        heights = itertools.cycle((_HEIGHT, 0))
        with namespaces.inside(self._kube.outside):
            self._api.create(TIDE, _deployment())
            turn = time.monotonic()
            due = dict.fromkeys(self._kube.nodes, turn)
            while not self._enough.wait(_LOOK):
                now = time.monotonic()
                if now >= turn:
                    turn = now + _TURN
                    self._api.patch(f"{TIDE}/{LABEL}", {"spec": {"replicas": next(heights)}})
                away = self._kube.nodes.keys() - self._served()
                for node in due:
                    if now >= due[node] - (_EVERY - _AWAY if node in away else 0):
                        due[node] = now + _EVERY
                        self._create(node, hasty=node in away)
                self._look()
            end = time.monotonic() + _LAST
            while self.seconds.keys() != self._begun.keys() and time.monotonic() < end:
                time.sleep(_LOOK)
                self._look()

    def _served(self) -> set[str]:
        """The nodes whose agent is ready."""
        return {
            agent["spec"]["nodeName"]
            for agent in self._api.list(AGENTS)
            if "deletionTimestamp" not in agent["metadata"]
            and any(status["ready"] for status in agent["status"].get("containerStatuses", ()))
        }

    def _create(self, node: str, *, hasty: bool) -> None:
        name = f"{LABEL}-{len(self._begun)}-{node}"
        self._begun[name] = time.monotonic()
        if hasty:
            self.hasty.add(name)
        metadata = {"name": name, "labels": {"run": LABEL}}
        self._api.request("POST", PODS, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _spec(node)})

    def _look(self) -> None:
        """Note which have come to run, and delete them."""
        for pod in self._api.list(f"{PODS}?labelSelector=run%3D{LABEL}"):
            name = pod["metadata"]["name"]
            if pod["status"]["phase"] == "Running" and name not in self.seconds:
                self.seconds[name] = round(time.monotonic() - self._begun[name], 1)
                self._api.delete(f"{PODS}/{name}")

    def _available(self) -> int:
        found: dict[str, Any] = self._kube.get("deployment", LABEL)
        return int(found["status"].get("availableReplicas", 0))


@contextlib.contextmanager
def churn(kube: Cluster) -> Iterator[Churn]:
    """Pods come and go while the block runs; none is left behind."""
    made = Churn(kube)
    made.start()
    try:
        yield made
    finally:
        made.stop()
        kube.kubectl("delete", f"deployment/{LABEL}", "--wait=false")
        kube.kubectl("delete", "pods", f"--selector=run={LABEL}", "--force", "--grace-period=0")


def _spec(node: str = "") -> dict[str, Any]:
    spec: dict[str, Any] = {
        "terminationGracePeriodSeconds": 1,
        "dnsPolicy": "Default",
        "containers": [{"name": "idle", "image": TEST_IMAGE}],
    }
    return {**spec, "nodeName": node} if node else spec


def _deployment() -> dict[str, Any]:
    labels = {"app": LABEL}
    spec = {
        "replicas": 0,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": _spec()},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": LABEL}, "spec": spec}
