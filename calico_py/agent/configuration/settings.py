"""The settings of the agent, one line of the table each: name, default, spelling, meaning.

Names are Calico's where Calico has the setting, else they begin with CALICO_PY_. docs/configuration.md is made from
this table.
"""

from typing import Any

from calico_py.agent.configuration import spellings
from calico_py.agent.configuration.setting import Section, Setting
from calico_py.agent.configuration.spellings import (
    Backend,
    Datastore,
    Detection,
    Engine,
    LogLevel,
    MtuPolicy,
    NodeAddress,
    PoolRange,
)
from calico_py.model.pools import EncapMode

_BOOL = "true, false"
_ENCAP = "Always, CrossSubnet, Never, in any case; off and cross-subnet too"
_CIDR = "a network, or none for no pool"
_METHOD_VALUES = "a method, see below"

NODENAME: Setting[str] = Setting(
    "NODENAME",
    "",
    lambda value: spellings.name(value) if value else "",
    Section.NODE,
    "a name",
    "Name of this node's Node object.",
    default_text="the host's name in lower case",
    flag="--nodename",
)
IP: Setting[NodeAddress] = Setting(
    "IP",
    "autodetect",
    spellings.node_address(4),
    Section.NODE,
    "autodetect, none, an address, an address with prefix",
    "The node's IPv4 address. The prefix of a bare address is looked up on the host.",
)
IP6: Setting[NodeAddress] = Setting(
    "IP6",
    "none",
    spellings.node_address(6),
    Section.NODE,
    "autodetect, none, an address, an address with prefix",
    "The node's IPv6 address.",
)
IP_METHOD: Setting[Detection] = Setting(
    "IP_AUTODETECTION_METHOD",
    "default",
    spellings.detection(4),
    Section.NODE,
    _METHOD_VALUES,
    "How the IPv4 address is found. An address that was found is kept while the host has it.",
)
IP6_METHOD: Setting[Detection] = Setting(
    "IP6_AUTODETECTION_METHOD",
    "default",
    spellings.detection(6),
    Section.NODE,
    _METHOD_VALUES,
    "The same for IPv6.",
)
DISABLE_NODE_IP_CHECK: Setting[bool] = Setting(
    "DISABLE_NODE_IP_CHECK",
    "false",
    spellings.boolean,
    Section.NODE,
    _BOOL,
    "Do not look whether another node has the same address.",
)
AS: Setting[int | None] = Setting(
    "AS",
    "",
    spellings.as_number,
    Section.NODE,
    "1 to 4294967295, or dotted as in 1.10",
    "The node's AS number, written to its annotation.",
    default_text="the annotation as it is, then BGPConfiguration",
)
ROUTER_ID: Setting[str] = Setting(
    "CALICO_ROUTER_ID",
    "",
    spellings.router_id,
    Section.NODE,
    "an IPv4 address, hash",
    "The BGP identifier; hash makes it from the node's name.",
    default_text="the node's IPv4 address, or hash where it has none",
)

NO_DEFAULT_POOLS: Setting[bool] = Setting(
    "NO_DEFAULT_POOLS",
    "false",
    spellings.boolean,
    Section.POOLS,
    _BOOL,
    "Make no pools. Excludes CALICO_IPV4POOL_CIDR and CALICO_IPV6POOL_CIDR.",
)
V4_CIDR: Setting[PoolRange] = Setting(
    "CALICO_IPV4POOL_CIDR",
    "",
    spellings.pool_range(4),
    Section.POOLS,
    _CIDR,
    "Where the IPv4 pool lies. Cannot be changed later.",
    default_text="192.168.0.0/16, or the first of 172.16.0.0/16 to 172.31.0.0/16 in which the host has no address",
)
V4_IPIP: Setting[EncapMode] = Setting(
    "CALICO_IPV4POOL_IPIP",
    "Never",
    spellings.encapsulation,
    Section.POOLS,
    _ENCAP,
    "The pool's ipipMode.",
)
V4_VXLAN: Setting[EncapMode] = Setting(
    "CALICO_IPV4POOL_VXLAN",
    "Never",
    spellings.encapsulation,
    Section.POOLS,
    _ENCAP,
    "The pool's vxlanMode.",
)
V4_BLOCK_SIZE: Setting[int] = Setting(
    "CALICO_IPV4POOL_BLOCK_SIZE",
    "26",
    spellings.number(20, 32),
    Section.POOLS,
    "20 to 32",
    "Prefix length of the blocks. Cannot be changed later.",
)
V4_NAT: Setting[bool] = Setting(
    "CALICO_IPV4POOL_NAT_OUTGOING",
    "true",
    spellings.boolean,
    Section.POOLS,
    _BOOL,
    "Pods appear with the node's address outside all pools.",
)
V4_SELECTOR: Setting[str] = Setting(
    "CALICO_IPV4POOL_NODE_SELECTOR",
    "all()",
    spellings.selector,
    Section.POOLS,
    "a selector over the labels of nodes",
    "Nodes that may take blocks.",
)
V4_NO_EXPORT: Setting[bool] = Setting(
    "CALICO_IPV4POOL_DISABLE_BGP_EXPORT",
    "false",
    spellings.boolean,
    Section.POOLS,
    _BOOL,
    "Do not announce the pool's blocks.",
)
V6_CIDR: Setting[PoolRange] = Setting(
    "CALICO_IPV6POOL_CIDR",
    "",
    spellings.pool_range(6),
    Section.POOLS,
    _CIDR,
    "Where the IPv6 pool lies. Cannot be changed later.",
    default_text="a random fd00::/8 /48 (RFC 4193) if the kernel has IPv6",
)
V6_VXLAN: Setting[EncapMode] = Setting(
    "CALICO_IPV6POOL_VXLAN",
    "Never",
    spellings.encapsulation,
    Section.POOLS,
    _ENCAP,
    "The pool's vxlanMode.",
)
V6_BLOCK_SIZE: Setting[int] = Setting(
    "CALICO_IPV6POOL_BLOCK_SIZE",
    "122",
    spellings.number(116, 128),
    Section.POOLS,
    "116 to 128",
    "Prefix length of the blocks. Cannot be changed later.",
)
V6_NAT: Setting[bool] = Setting(
    "CALICO_IPV6POOL_NAT_OUTGOING",
    "false",
    spellings.boolean,
    Section.POOLS,
    _BOOL,
    "Pods appear with the node's address outside all pools.",
)
V6_SELECTOR: Setting[str] = Setting(
    "CALICO_IPV6POOL_NODE_SELECTOR",
    "all()",
    spellings.selector,
    Section.POOLS,
    "a selector over the labels of nodes",
    "Nodes that may take blocks.",
)
V6_NO_EXPORT: Setting[bool] = Setting(
    "CALICO_IPV6POOL_DISABLE_BGP_EXPORT",
    "false",
    spellings.boolean,
    Section.POOLS,
    _BOOL,
    "Do not announce the pool's blocks.",
)
TEMPLATE_GENERATION: Setting[int] = Setting(
    "CALICO_PY_TEMPLATE_GENERATION",
    "0",
    spellings.number(0, 2**31),
    Section.POOLS,
    "a number",
    "Generation of the DaemonSet's template (label pod-template-generation): the environment of an older one never "
    "overrides that of a newer.",
)

BACKEND: Setting[Backend] = Setting(
    "CALICO_NETWORKING_BACKEND",
    "bird",
    spellings.one_of(Backend),
    Section.NETWORK,
    "bird, vxlan, none",
    "bird runs BGP (by ExaBGP); with vxlan and none there are no sessions.",
)
ENGINE: Setting[Engine] = Setting(
    "CALICO_PY_TUNNEL_ENGINE",
    "auto",
    spellings.one_of(Engine),
    Section.NETWORK,
    "auto, kernel, userspace",
    "Who encapsulates IPIP; auto takes the kernel's ipip where it exists.",
)
MTU: Setting[int | MtuPolicy] = Setting(
    "CALICO_PY_MTU",
    "auto",
    spellings.mtu,
    Section.NETWORK,
    "auto, in-use, 576 to 65535",
    "The MTU of pods: room for any mode that a pool could be switched to, room for the modes in use, or bytes.",
)
MASQUERADE_BIT: Setting[int] = Setting(
    "CALICO_PY_MASQUERADE_BIT",
    "14",
    spellings.mark_bit,
    Section.NETWORK,
    "0 to 31, none",
    "kube-proxy's masqueradeBit. What is marked so and goes to a pod of another node gets its source here and outlives "
    "mode changes; none leaves it to kube-proxy.",
)
RESYNC_INTERVAL: Setting[int] = Setting(
    "CALICO_PY_RESYNC_INTERVAL",
    "90",
    spellings.number(1, 86400),
    Section.NETWORK,
    "1 to 86400 seconds",
    "How often everything is read back from the kernel, beside the repair by events.",
)
WARM_ADDRESSES: Setting[int] = Setting(
    "CALICO_PY_WARM_ADDRESSES",
    "8",
    spellings.number(0, 64),
    Section.NETWORK,
    "0 to 64",
    "Addresses of each family that the node keeps reserved, so that a pod waits for no API; 0 keeps none.",
)

KUBECONFIG: Setting[str] = Setting(
    "KUBECONFIG",
    "",
    spellings.text,
    Section.PROCESS,
    "a path",
    "How the API server is reached.",
    default_text="the pod's service account",
    flag="--kubeconfig",
)
DATASTORE: Setting[Datastore] = Setting(
    "DATASTORE_TYPE",
    "kubernetes",
    spellings.one_of(Datastore),
    Section.PROCESS,
    "kubernetes",
    "Accepted because Calico's manifests set it; there is no other store.",
)
LOG_LEVEL: Setting[LogLevel] = Setting(
    "CALICO_PY_LOG_LEVEL",
    "info",
    spellings.log_level,
    Section.PROCESS,
    "debug, info, warning, error",
    "What is logged, to standard error.",
    aliases=("FELIX_LOGSEVERITYSCREEN",),
    flag="--log-level",
)
HEALTH_HOST: Setting[str] = Setting(
    "CALICO_PY_HEALTH_HOST",
    "127.0.0.1",
    spellings.text,
    Section.PROCESS,
    "an address",
    "Where /liveness, /readiness and /status are served.",
    aliases=("FELIX_HEALTHHOST",),
)
HEALTH_PORT: Setting[int] = Setting(
    "CALICO_PY_HEALTH_PORT",
    "9099",
    spellings.number(1, 65535),
    Section.PROCESS,
    "1 to 65535",
    "Their TCP port.",
    aliases=("FELIX_HEALTHPORT",),
)
METRICS_HOST: Setting[str] = Setting(
    "CALICO_PY_METRICS_HOST",
    "",
    spellings.text,
    Section.PROCESS,
    "an address",
    "Where /metrics is served.",
    default_text="all addresses",
    aliases=("FELIX_PROMETHEUSMETRICSHOST",),
)
METRICS_PORT: Setting[int] = Setting(
    "CALICO_PY_METRICS_PORT",
    "9091",
    spellings.number(0, 65535),
    Section.PROCESS,
    "0 to 65535",
    "TCP port of /metrics; 0 serves none.",
    aliases=("FELIX_PROMETHEUSMETRICSPORT",),
)
PROC_SYS: Setting[str] = Setting(
    "CALICO_PY_PROC_SYS",
    "/proc/sys",
    spellings.text,
    Section.PROCESS,
    "a path",
    "Where the host's /proc/sys is; that of a container which is not privileged is read-only.",
)
CNI_BIN_DIR: Setting[str] = Setting(
    "CALICO_PY_CNI_BIN_DIR",
    "/opt/cni/bin",
    spellings.text,
    Section.PROCESS,
    "a path",
    "Where the CNI executable is installed; empty installs none.",
)
CNI_CONF_DIR: Setting[str] = Setting(
    "CALICO_PY_CNI_CONF_DIR",
    "/etc/cni/net.d",
    spellings.text,
    Section.PROCESS,
    "a path",
    "Where the CNI configuration is written.",
)
CNI_CONF_NAME: Setting[str] = Setting(
    "CNI_CONF_NAME",
    "10-calico.conflist",
    spellings.text,
    Section.PROCESS,
    "a file name",
    "Name of the CNI configuration.",
)

SETTINGS: tuple[Setting[Any], ...] = tuple(each for each in list(globals().values()) if isinstance(each, Setting))
BY_NAME = {setting.name: setting for setting in SETTINGS}
ALIASES = {alias: setting for setting in SETTINGS for alias in setting.aliases}

# Calico's variables that are known and have no effect here, with the reason; docs and status name them.
WITHOUT_EFFECT = {
    "AUTODETECT_POLL_INTERVAL": "addresses are watched, not polled",
    "CALICO_DISABLE_FILE_LOGGING": "logs go to standard error",
    "CALICO_K8S_NODE_REF": "a node has one name, NODENAME",
    "CALICO_MANAGE_CNI": "the agent always refreshes its own credentials",
    "CALICO_STARTUP_LOGLEVEL": "CALICO_PY_LOG_LEVEL is the only level",
    "CLUSTER_TYPE": "nothing depends on it",
    "WAIT_FOR_DATASTORE": "the agent always waits",
}
