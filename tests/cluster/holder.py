"""Makes the namespaces of a cluster and holds them: ``python -m tests.cluster.holder NAME FOLDER NODES``.

Everything is inside one PID and one mount namespace, so that nothing outlives the process that this one forks: names
of network namespaces are on a tmpfs of its own, and what runs in the namespaces ends with it. It says on standard
output, in one line of JSON, which processes to enter, and ends when its standard input does; its parent then removes
what no namespace holds, the control groups and the folder.

Each node is the lab's (mounts, wires, addresses, settings) with a PID and a cgroup namespace besides.
"""

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from calico_py.lab import namespaces, network
from calico_py.lab.namespaces import CLONE_NEWPID, unshare
from calico_py.lab.nodes import pause_command
from calico_py.lab.processes import host_pid
from calico_py.lab.topology import LabSpec, NodePlace, compute_topology

_CLONE_NEWNS = 0x00020000  # linux/sched.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_WITHIN = 20.0  # seconds

# After the lab's own mounts. Images and logs are on the disk. Hosts share their mounts, as systemd makes them. What
# runs in a node has /run/tmp for a TMPDIR: /tmp is the host's, since this checkout may lie below it.
_NODE_SCRIPT = r"""
umount /sys
umount --recursive --lazy /sys
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup
for hierarchy in $hierarchies; do
    directory=/sys/fs/cgroup/${hierarchy%%:*}; options=${hierarchy#*:}
    mkdir -p $directory
    mount -t ${options%%:*} -o ${options#*:} cgroup $directory
done
mkdir -p /var/lib/containerd /var/lib/kubelet
mount --bind $folder/containerd /var/lib/containerd
mount --bind $folder/kubelet /var/lib/kubelet
mount --bind $folder/log /var/log
mkdir -m 1777 /run/tmp
mount --make-rshared /
echo ready
sleep infinity & wait
"""


def hierarchies() -> list[tuple[str, str, Path]]:
    """The control groups of this process: name of the directory, kind and options of the mount, own group."""
    mounts: dict[object, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, after = line.split(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in {"cgroup", "cgroup2"}:
            point = Path(before.split()[4])
            mounts[kind == "cgroup2" or frozenset(options.split(",")) - {"rw", "none", "xattr"}] = point
    found = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        number, controllers, path = line.split(":", 2)
        mounted = mounts.get(number == "0" or frozenset(controllers.split(",")))
        if mounted is None:
            continue
        named = "none," if controllers.startswith("name=") else ""
        how = "cgroup2:rw" if number == "0" else f"cgroup:{named}{controllers}"
        found.append((mounted.name, how, mounted / path.lstrip("/")))
    return found


def make_groups(name: str) -> list[Path]:
    """A control group of that name in each hierarchy, below the own one."""
    made = []
    for _, _, own in hierarchies():
        group = own / name
        group.mkdir(parents=True, exist_ok=True)
        for part in (*reversed(group.relative_to(own).parents), group.relative_to(own)):
            for setting in ("cpuset.cpus", "cpuset.mems"):  # version 1: empty at first, and nobody may enter then
                file = own / part / setting
                if file.exists() and not file.read_text().strip():
                    file.write_text((file.parent.parent / setting).read_text())
        made.append(group)
    return made


def remove_groups(name: str) -> None:
    """Remove the control groups of that name with all below; whoever was inside has ended."""
    deadline = time.monotonic() + _WITHIN
    for _, _, own in hierarchies():
        for group in [*sorted((own / name).rglob("*/"), key=lambda path: -len(path.parts)), own / name]:
            while group.is_dir():
                try:
                    group.rmdir()
                except OSError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)


def main() -> None:
    """Fork the holder into new namespaces, wait for its end, remove what is left."""
    name, folder, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the end of standard input is what ends it
    unshare(CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _hold(name, folder, count)
        return
    os.close(1)
    os.close(0)
    os.waitpid(child, 0)
    remove_groups(name)
    shutil.rmtree(folder, ignore_errors=True)


def _hold(name: str, folder: Path, count: int) -> None:
    namespaces.unshare(_CLONE_NEWNS)
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "cluster", "/run"], check=True)
    topology = compute_topology(LabSpec(name=name, nodes=count))
    for _ in network.build(topology):
        pass
    control = _start(
        ["nsenter", f"--net={namespaces.named(topology.core)}", "--", "sh", "-c", "echo ready; exec sleep infinity"]
    )
    pids = {"control": control, **{node.name: _start_node(node, name, folder) for node in topology.nodes}}
    print(json.dumps(pids), flush=True)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # orphans of the namespace come here
    while os.read(0, 4096):
        pass


def _start_node(place: NodePlace, name: str, folder: Path) -> int:
    for part in ("containerd", "kubelet", "log"):
        (folder / place.name / part).mkdir(parents=True)
    groups = make_groups(f"{name}/{place.name}")
    mounts = " ".join(f"{point}:{options}" for point, options, _ in hierarchies())
    command = pause_command(
        place,
        unshare=["--pid", "--fork", "--cgroup"],
        then=f"hierarchies='{mounts}'; folder={folder / place.name}; {_NODE_SCRIPT}",
    )
    enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in groups)
    outer = _start(["sh", "-euc", f'{enter} exec "$@"', "node", *command])
    (inner,) = Path(f"/proc/{outer}/task/{outer}/children").read_text().split()
    return int(inner)


def _start(command: list[str]) -> int:
    """Host's process id of a command, once it has said that it is ready."""
    reading, writing = os.pipe()
    with contextlib.closing(os.fdopen(reading, "rb")) as heard:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=writing, start_new_session=True)
        os.close(writing)
        if not select.select([heard], [], [], _WITHIN)[0] or heard.readline() != b"ready\n":
            raise RuntimeError(f"{command[:4]} did not start")
    return host_pid(child.pid)


if __name__ == "__main__":
    main()
