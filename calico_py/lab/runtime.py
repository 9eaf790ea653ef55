"""The part of a container runtime that calls CNI plugins (CNI specification 1.1.0, sections 2 to 4).

Plugins come from the first configuration of /etc/cni/net.d and run inside the node, from /opt/cni/bin.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_interface
from typing import Any

from calico_py.lab.commands import LabError
from calico_py.lab.live import Endpoint
from calico_py.lab.nodes import POD_NETNS_DIR, LiveNode

CONF_DIR = "/etc/cni/net.d"
BIN_DIR = "/opt/cni/bin"
CACHE_DIR = "/var/lib/cni"
IFNAME = "eth0"

_VERSIONS = ("0.3.1", "0.4.0", "1.0.0", "1.1.0")

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A pod as the plugins are told of it."""

    pod: str
    namespace: str
    container_id: str
    uid: str = ""

    @property
    def netns(self) -> str:
        """CNI_NETNS: a path inside the node."""
        return f"{POD_NETNS_DIR}/{self.pod}"

    def environment(self, verb: str) -> dict[str, str]:
        """The variables of section 2, and those by which a kubelet's pod is known."""
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.pod,
            "K8S_POD_INFRA_CONTAINER_ID": self.container_id,
            "K8S_POD_UID": self.uid,
        }
        return {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": self.container_id,
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": BIN_DIR,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in arguments.items()),
        }


def read_conflist(node: LiveNode) -> tuple[str, Json]:
    """The first network configuration of a node, as (path inside the node, content).

    Raises:
        LabError: there is none, or it cannot be read.
    """
    directory = node.root / CONF_DIR.lstrip("/")
    names = sorted(path.name for path in directory.glob("*.conf*") if path.suffix in (".conf", ".conflist"))
    if not names:
        raise LabError(
            f"{node.place.name}: no network configuration in {CONF_DIR}; its agent writes it once it is ready, "
            f"see: calico-py lab logs {node.place.name}"
        )
    path = f"{CONF_DIR}/{names[0]}"
    try:
        content = json.loads((directory / names[0]).read_text())
    except ValueError as error:
        raise LabError(f"{node.place.name}: {path} is no JSON: {error}") from None
    return path, content if "plugins" in content else {**content, "plugins": [content]}


def add(node: LiveNode, sandbox: Sandbox, conflist: Json) -> list[Json]:
    """Call ADD of each plugin in order; the result of each, the last being the network's.

    Raises:
        LabError: a plugin failed; DEL of all has been called then.
    """
    results: list[Json] = []
    try:
        for plugin in conflist["plugins"]:
            config = _config(conflist, plugin, results)
            results.append(json.loads(_call(node, sandbox, "ADD", config)))
    except (LabError, ValueError) as error:
        undone = "".join(f"; and {said}" for said in delete(node, sandbox, conflist, results))
        raise LabError(f"{error}{undone}") from None
    return results


def delete(node: LiveNode, sandbox: Sandbox, conflist: Json, results: Sequence[Json]) -> list[str]:
    """Call DEL of each plugin in reverse order with the cached result; what went wrong, as sentences."""
    errors = []
    for plugin in reversed(conflist["plugins"]):
        try:
            _call(node, sandbox, "DEL", _config(conflist, plugin, results))
        except LabError as error:
            errors.append(str(error))
    return errors


def addresses(result: Json) -> tuple[IPv4Address | IPv6Address, ...]:
    """The addresses of a result (section 5), without their prefix lengths."""
    return tuple(ip_interface(entry["address"]).ip for entry in result.get("ips") or [])


def choose_version(conflist: Json) -> str:
    """The newest version that list and runtime know (section 1, cniVersions)."""
    offered = {*(conflist.get("cniVersions") or ()), conflist.get("cniVersion") or _VERSIONS[0]}
    return next((version for version in reversed(_VERSIONS) if version in offered), str(conflist.get("cniVersion")))


def _config(conflist: Json, plugin: Json, results: Sequence[Json]) -> dict[str, Any]:
    """What a plugin reads from stdin (section 3, "Deriving request configuration from plugin configuration")."""
    config = {**plugin, "name": conflist.get("name", ""), "cniVersion": choose_version(conflist)}
    return {**config, "prevResult": results[-1]} if results else config


def _call(node: LiveNode, sandbox: Sandbox, verb: str, config: Json) -> str:
    """One plugin's answer.

    Raises:
        LabError: with the error object that it printed.
    """
    executable = f"{BIN_DIR}/{config['type']}"
    environment = sandbox.environment(verb) | {"PATH": os.environ.get("PATH", "")}
    argv = ["env", "-i", *(f"{name}={value}" for name, value in environment.items()), executable]
    done = Endpoint(node).run(argv, stdin=json.dumps(config))
    if done.returncode == 0:
        return done.stdout
    raise LabError(f"{node.place.name}: {executable} {verb} of pod {sandbox.pod}: {_error(done.stdout, done.stderr)}")


def _error(output: str, errors: str) -> str:
    """The message of a CNI error object (section 5), or whatever the plugin said."""
    try:
        found = json.loads(output)
        return f"{found['msg']} {found.get('details', '')} (code {found['code']})".replace("  ", " ")
    except (ValueError, KeyError, TypeError):
        return (output + errors).strip() or "no output"
