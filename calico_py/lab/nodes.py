"""A node: its network namespace joined by a mount and a UTS namespace, which a sleeping process holds.

What a node has for itself: /run, /proc, /sys, /etc, /opt and /var/lib (writes stay in the node; reads see the
host's files) and, empty at first, /etc/cni, /opt/cni, /var/lib/cni, /var/lib/calico-py. All of it is memory and goes
with the process.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from calico_py.lab import namespaces
from calico_py.lab.topology import NodePlace

KUBECONFIG = "/etc/kubernetes/kubeconfig"
POD_NETNS_DIR = "/run/netns"

# Overlays, not plain tmpfs, since directories are made that the host may not have, and must not have afterwards.
_SCRIPT = r"""
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 calico-py-lab /run
for parent in /etc /opt /var/lib; do
    scratch=/run/scratch$parent
    mkdir -p $scratch/upper $scratch/work
    mount -t overlay -o lowerdir=$parent,upperdir=$scratch/upper,workdir=$scratch/work calico-py-lab $parent
done
umount --lazy /run
mount -t tmpfs -o mode=755 calico-py-lab /run
for directory in /etc/cni /opt/cni /var/lib/cni /var/lib/calico-py /etc/calico-py; do
    mkdir -p $directory
    mount -t tmpfs -o mode=755 calico-py-lab $directory
done
mkdir -p /etc/cni/net.d /opt/cni/bin /etc/kubernetes /run/netns /run/lock
echo "$1" > /proc/sys/kernel/hostname
eval "$2"
echo ready
exec sleep infinity
"""


@dataclass(frozen=True, slots=True)
class LiveNode:
    """A node that runs.

    Attributes:
        pause: process id, in the host's /proc, of the process that holds it.
    """

    place: NodePlace
    pause: int

    @property
    def root(self) -> Path:
        """The node's file system as the host sees it."""
        return Path(f"/proc/{self.pause}/root")

    def pod_netns(self, pod: str) -> Path:
        """A pod's network namespace as the host sees it."""
        return self.root / POD_NETNS_DIR.lstrip("/") / pod

    def enter(self, *, pod: str = "", fork: bool = True) -> list[str]:
        """The command before which a command runs inside the node, or with the network of one of its pods.

        With fork also in the lab's PID namespace; without for a caller who is there already.
        """
        network = self.pod_netns(pod) if pod else namespaces.named(self.place.netns)
        argv = ["nsenter", f"--target={self.pause}", "--mount", "--uts", f"--net={network}"]
        return [*argv, *(["--pid"] if fork else []), "--"]


def pause_command(place: NodePlace, *, unshare: Sequence[str] = (), then: str = "") -> list[str]:
    """The command that makes a node and holds it; says ``ready`` once that is done.

    ``unshare`` has further flags for unshare(1), such as ``--pid``; ``then`` shell commands to run before ``ready``.
    """
    network = namespaces.named(place.netns)
    made = ["unshare", "--mount", "--uts", "--propagation", "private", *unshare]
    return ["nsenter", f"--net={network}", "--", *made, "--", "sh", "-euc", _SCRIPT, "pause", place.name, then]
