"""Pods of a lab: scheduler, kubelet and runtime in one, for the network's part of a pod's life."""

import contextlib
import dataclasses
import http.client
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from calico_py.lab import namespaces, objects, runtime
from calico_py.lab.client import Api, ApiError
from calico_py.lab.commands import LabError, run
from calico_py.lab.live import Endpoint, LiveLab, PodRecord
from calico_py.lab.nodes import LiveNode
from calico_py.lab.readiness import find_break
from calico_py.lab.state import write_json

NAMESPACE = "default"
_PAUSE = 0.05  # seconds between two looks


def add(
    lab: LiveLab, name: str, node_name: str = "", annotations: Mapping[str, str] = MappingProxyType({})
) -> PodRecord:
    """Create the Pod, its network namespace and, by the plugins, its network; set its status.

    Without a node it goes to the one with the fewest pods.

    Raises:
        LabError: the name is taken, or something failed; what was made is removed then.
    """
    node = lab.node(node_name) if node_name else _emptiest(lab)
    _, conflist = runtime.read_conflist(node)
    with contextlib.ExitStack() as undo:
        uid = _create(lab.api(), name, node, annotations)
        undo.callback(lab.api().delete, _gone(name))
        sandbox = runtime.Sandbox(name, NAMESPACE, uuid.uuid4().hex * 2, uid)
        begun = PodRecord(name, node.place.name, sandbox.container_id, (), conflist, ())
        write_json(_path(lab, name), begun.to_json())  # by which `pod del` finds it, whatever happens from here on
        undo.callback(_path(lab, name).unlink)
        _add_namespace(node, name)
        undo.callback(_delete_namespace, node, name)
        results = runtime.add(node, sandbox, conflist)
        undo.callback(runtime.delete, node, sandbox, conflist, results)
        addresses = runtime.addresses(results[-1])
        record = dataclasses.replace(begun, addresses=addresses, results=tuple(results))
        write_json(_path(lab, name), record.to_json())
        lab.api().patch(f"{objects.PODS}/{name}/status", objects.pod_status(addresses, node.place))
        undo.pop_all()
    return record


def delete(lab: LiveLab, name: str) -> None:
    """Take a pod away: plugins, namespace, object. A pod of which only the object is left is removed as well.

    Raises:
        LabError: there is no such pod, or a plugin failed (everything else is removed nevertheless).
    """
    api = lab.api()
    errors: list[str] = []
    try:
        record = lab.pod(name)
    except LabError:
        try:
            api.get(f"{objects.PODS}/{name}")
        except ApiError:
            raise LabError(f"pod {name}: neither the lab nor its API server knows it") from None
    else:
        node = lab.node(record.node)
        sandbox = runtime.Sandbox(name, NAMESPACE, record.container_id)
        errors = runtime.delete(node, sandbox, record.conflist, record.results)
        _delete_namespace(node, name)
        _path(lab, name).unlink(missing_ok=True)
    api.delete(_gone(name))
    if errors:
        raise LabError("; ".join(errors))


def wait_until_routed(lab: LiveLab, record: PodRecord, *, within: float) -> list[str]:
    """Wait until each other node's packets get to the pod; names of those whose do not after so many seconds."""
    deadline = time.monotonic() + within
    owners = dict.fromkeys(record.addresses, record.node)
    while True:
        missing = [place.name for place in lab.topology.nodes if find_break(lab.topology, place, owners)]
        if not missing or time.monotonic() > deadline:
            return missing
        time.sleep(_PAUSE)


def _create(api: Api, name: str, node: LiveNode, annotations: Mapping[str, str]) -> str:
    """Create the Pod object; its uid."""
    try:
        created = api.request("POST", objects.PODS, objects.pod(name, node.place.name, annotations))
    except ApiError as error:
        cure = f"; remove it with: calico-py lab pod del {name}" if error.status == http.client.CONFLICT else ""
        raise LabError(f"pod {name}: {error}{cure}") from None
    return str((created.get("metadata") or {}).get("uid", ""))


def _gone(name: str) -> str:
    """The path by which a pod is deleted at once, as its kubelet does when nothing of it is left."""
    return f"{objects.PODS}/{name}?gracePeriodSeconds=0"


def _path(lab: LiveLab, name: str) -> Path:
    return lab.state.pods / f"{name}.json"


def _emptiest(lab: LiveLab) -> LiveNode:
    count = {node.place.name: 0 for node in lab.nodes}
    for record in lab.pods():
        count[record.node] += 1
    return lab.node(min(count, key=lambda name: count[name]))


def _add_namespace(node: LiveNode, name: str) -> None:
    """As a runtime makes it: loopback up, nothing else."""
    run([*Endpoint(node).enter(), "ip", "netns", "add", name])
    run([*Endpoint(node).enter(), "ip", "-n", name, "link", "set", "lo", "up"])


def _delete_namespace(node: LiveNode, name: str) -> None:
    """End what runs in it and remove it; gone already is success."""
    netns = node.pod_netns(name)
    namespaces.end_processes(netns)
    if netns.exists():
        run([*Endpoint(node).enter(), "ip", "netns", "delete", name])
