"""`make demo-kube`: a Kubernetes cluster gets its network by `kubectl apply -k deploy/`, seen by a person.

With ``--stay`` the cluster stays until Enter is pressed, for a look around.
"""

import argparse
import contextlib
import signal
import tempfile
import time
from pathlib import Path

from tests.cluster import images
from tests.cluster.kube_cluster import CHECKOUT, Cluster, cluster, fetch, wait_until
from tests.cluster.parts import DAEMONSETS
from tests.cluster.pool import set_mode
from tests.cluster.traffic import traffic
from tests.cluster.workloads import MANIFESTS, one_on_each_node, rolled_out, running


def main() -> None:
    """The demonstration."""
    parser = argparse.ArgumentParser(prog="make demo-kube")
    parser.add_argument("--stay", action="store_true", help="keep the cluster until Enter is pressed")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="cpy-demo-") as scratch:
        _say("Building the image, and Kubernetes where the cache has none (cold: some minutes)")
        archives = images.build(Path(scratch))
        _say("Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler and three nodes")
        with cluster(Path(scratch), lambda: archives) as kube:
            _show(kube, given.stay)


def _show(kube: Cluster, stay: bool) -> None:
    _kubectl(kube, "get", "nodes", "-o", "wide")
    _say("No node is Ready: there is no network. Installing calico-py")
    _kubectl(kube, "apply", "-k", str(CHECKOUT / "deploy"), quiet=True)
    seconds = wait_until(lambda: kube.ready_nodes() == set(kube.nodes), within=120, what="all nodes are Ready")
    for name in DAEMONSETS:
        rolled_out(kube, name)
    _say(f"All nodes are Ready after {seconds:.0f} s")
    _kubectl(kube, "get", "pods", "--namespace=kube-system", "-o", "wide")
    _say("A Deployment of six pods")
    _kubectl(kube, "apply", "-f", str(MANIFESTS / "web.yaml"))
    rolled_out(kube, "web", kind="deployment", namespace="default")
    _kubectl(kube, "get", "pods", "-o", "wide")
    pods = running(kube, "web")
    answers = [
        fetch(source.network, f"http://{target.address()}/") == target.name for source in pods for target in pods
    ]
    _say(f"Each asks each over HTTP: {sum(answers)} of {len(answers)} answers")
    with traffic(one_on_each_node(kube)) as flows:
        for mode in ("Never", "Always"):
            _say(f"Under traffic between all nodes: ipipMode {mode}")
            set_mode(kube, mode)
            time.sleep(2)
        lost = sum(result.lost for result in flows.stop().values())
    _say(f"Datagrams lost by both changes: {lost}")
    _kubectl(kube, "exec", "--namespace=kube-system", "ds/calico-node", "--", "calico-py", "status")
    if stay:
        script = kube.folder / "kubectl"
        script.write_text(f'#!/bin/sh\nexec {" ".join(kube.kubectl.command())} "$@"\n')
        script.chmod(0o755)
        input(f"\nThe cluster stays until you press Enter. Meanwhile: {script} get pods -A\n")


def _say(line: str) -> None:
    print(f"\n== {line}", flush=True)


def _kubectl(kube: Cluster, *arguments: str, quiet: bool = False) -> None:
    print(f"$ kubectl {' '.join(arguments)}", flush=True)
    said = kube.kubectl(*arguments).stdout
    print(f"  ({said.count(chr(10))} objects)" if quiet else said, flush=True)


if __name__ == "__main__":
    main()
