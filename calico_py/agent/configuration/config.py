"""AgentConfig: everything that the agent is told, read once.

Precedence, the first that names a setting wins: flags of ``calico-py node``, the environment, the file
/etc/calico-py/config.yaml (the same names as keys), the default. An alias counts where its name is not given.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml

from calico_py.agent.configuration import settings
from calico_py.agent.configuration.setting import Setting
from calico_py.agent.configuration.settings import ALIASES, BY_NAME, SETTINGS, WITHOUT_EFFECT
from calico_py.agent.configuration.spellings import (
    Backend,
    Detection,
    Engine,
    LogLevel,
    MtuPolicy,
    NodeAddress,
    PoolRange,
    SpellingError,
)
from calico_py.model.net import FAMILIES, Family
from calico_py.model.pools import EncapMode

CONFIG_FILE = "/etc/calico-py/config.yaml"

T = TypeVar("T")


class ConfigError(Exception):
    """The settings cannot be used; each line of the message names one, its place, what was found and is allowed."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """What the environment says of the pool of one family.

    Attributes:
        explicit: names of the settings that were given, others are defaults.
    """

    family: Family
    range: PoolRange
    block_size: int
    ipip_mode: EncapMode = EncapMode.NEVER
    vxlan_mode: EncapMode = EncapMode.NEVER
    nat_outgoing: bool = False
    node_selector: str = "all()"
    disable_bgp_export: bool = False
    explicit: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """All settings, by meaning; docs/configuration.md tells their names.

    Attributes:
        kubeconfig: path, or None for the pod's service account.
        addresses, methods: by family.
        pools: of the families for which one is wanted.
        generation: of the DaemonSet's template; 0 where unknown.
        mtu: bytes, or what to compute it by.
        service_mark: kube-proxy's, of packets that it will masquerade; 0 leaves them to it.
        resync_interval: seconds.
        warm_addresses: to be kept reserved, of each family, without load.
        metrics_port: 0 for none.
        warnings: settings that are misspelt or of no use, each a sentence.
        ignored: Calico's settings that have no effect here: name and reason.
    """

    node: str
    kubeconfig: str | None
    addresses: Mapping[Family, NodeAddress]
    methods: Mapping[Family, Detection]
    check_duplicate_address: bool
    as_number: int | None
    router_id: str
    pools: tuple[PoolSettings, ...]
    generation: int
    backend: Backend
    engine: Engine
    mtu: int | MtuPolicy
    service_mark: int
    resync_interval: int
    warm_addresses: int
    log_level: LogLevel
    health_host: str
    health_port: int
    metrics_host: str
    metrics_port: int
    proc_sys: str
    cni_bin_dir: str
    cni_conf_dir: str
    cni_conf_name: str
    warnings: tuple[str, ...] = ()
    ignored: Mapping[str, str] | None = None

    @property
    def bgp(self) -> bool:
        """Sessions and announcements run."""
        return self.backend == Backend.BIRD


def load_config(
    environ: Mapping[str, str],
    *,
    hostname: str,
    file: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
    file_path: str = CONFIG_FILE,
) -> AgentConfig:
    """The settings from all sources.

    Args:
        environ: the process's environment.
        hostname: name of the host, for a node without NODENAME.
        file: what parse_file made of the file; None where there is none.
        flags: by name of the setting.
        file_path: for messages.

    Raises:
        ConfigError: one or more values are misspelt or contradict each other.
    """
    sources = (("flag", flags or {}), ("environment", environ), (file_path, file or {}))
    values = _Values(sources)
    pools = tuple(_pool(values, family) for family in FAMILIES)
    config = AgentConfig(
        node=values[settings.NODENAME] or hostname.lower(),
        kubeconfig=values[settings.KUBECONFIG] or None,
        addresses={4: values[settings.IP], 6: values[settings.IP6]},
        methods={4: values[settings.IP_METHOD], 6: values[settings.IP6_METHOD]},
        check_duplicate_address=not values[settings.DISABLE_NODE_IP_CHECK],
        as_number=values[settings.AS],
        router_id=values[settings.ROUTER_ID],
        pools=() if values[settings.NO_DEFAULT_POOLS] else tuple(pool for pool in pools if pool.range.wanted),
        generation=values[settings.TEMPLATE_GENERATION],
        backend=values[settings.BACKEND],
        engine=values[settings.ENGINE],
        mtu=values[settings.MTU],
        service_mark=values[settings.MASQUERADE_BIT],
        resync_interval=values[settings.RESYNC_INTERVAL],
        warm_addresses=values[settings.WARM_ADDRESSES],
        log_level=values[settings.LOG_LEVEL],
        health_host=values[settings.HEALTH_HOST],
        health_port=values[settings.HEALTH_PORT],
        metrics_host=values[settings.METRICS_HOST],
        metrics_port=values[settings.METRICS_PORT],
        proc_sys=values[settings.PROC_SYS],
        cni_bin_dir=values[settings.CNI_BIN_DIR],
        cni_conf_dir=values[settings.CNI_CONF_DIR],
        cni_conf_name=values[settings.CNI_CONF_NAME],
        warnings=tuple(_unknown(environ)),
        ignored=dict(_without_effect(environ)),
    )
    values[settings.DATASTORE]  # read for its check alone
    values.errors.extend(_contradictions(values, pools))
    if values.errors:
        raise ConfigError("\n".join(values.errors))
    return config


def parse_file(text: str, *, path: str = CONFIG_FILE) -> dict[str, str]:
    """The settings of the file: a YAML mapping of names to values.

    Raises:
        ConfigError: no mapping, or a key that is no setting.
    """
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: found {type(found).__name__}, expected a mapping of settings to values")
    unknown = [str(key) for key in found if key not in BY_NAME and key not in ALIASES and key not in WITHOUT_EFFECT]
    if unknown:
        raise ConfigError("\n".join(f"{path}: {key} is no setting{_meant(key)}" for key in unknown))
    return {key: _as_text(value) for key, value in found.items()}


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return "" if value is None else str(value)


class _Values:
    """Looks settings up in the sources and parses them; errors are collected, so that a person sees all at once."""

    def __init__(self, sources: tuple[tuple[str, Mapping[str, str]], ...]) -> None:
        self.errors: list[str] = []
        self._sources = sources
        self._parsed: dict[str, Any] = {}

    def __getitem__(self, setting: Setting[T]) -> T:
        if setting.name not in self._parsed:
            self._parsed[setting.name] = self._parse(setting)
        found: T = self._parsed[setting.name]
        return found

    def _parse(self, setting: Setting[T]) -> T:
        found = self.find(setting)
        if found is not None:
            place, name, text = found
            try:
                return setting.parse(text.strip())
            except SpellingError as error:
                self.errors.append(f"{name} ({place}): found {text!r}, expected {error}")
        return setting.parse(setting.default)

    def find(self, setting: Setting[Any]) -> tuple[str, str, str] | None:
        """Place, name and text of a setting; None where it is given nowhere.

        An empty value is as good as none: ``valueFrom`` of a manifest leaves one where its source is missing.
        """
        for name in (setting.name, *setting.aliases):
            for place, source in self._sources:
                if source.get(name):
                    return place, name, source[name]
        return None


def _pool(values: _Values, family: Family) -> PoolSettings:
    v4 = family == 4
    used = (
        (
            settings.V4_CIDR,
            settings.V4_BLOCK_SIZE,
            settings.V4_IPIP,
            settings.V4_VXLAN,
            settings.V4_NAT,
            settings.V4_SELECTOR,
            settings.V4_NO_EXPORT,
        )
        if v4
        else (
            settings.V6_CIDR,
            settings.V6_BLOCK_SIZE,
            settings.V6_VXLAN,
            settings.V6_NAT,
            settings.V6_SELECTOR,
            settings.V6_NO_EXPORT,
        )
    )
    return PoolSettings(
        family=family,
        range=values[settings.V4_CIDR if v4 else settings.V6_CIDR],
        block_size=values[settings.V4_BLOCK_SIZE if v4 else settings.V6_BLOCK_SIZE],
        ipip_mode=values[settings.V4_IPIP] if v4 else EncapMode.NEVER,
        vxlan_mode=values[settings.V4_VXLAN if v4 else settings.V6_VXLAN],
        nat_outgoing=values[settings.V4_NAT if v4 else settings.V6_NAT],
        node_selector=values[settings.V4_SELECTOR if v4 else settings.V6_SELECTOR],
        disable_bgp_export=values[settings.V4_NO_EXPORT if v4 else settings.V6_NO_EXPORT],
        explicit=frozenset(setting.name for setting in used if values.find(setting) is not None),
    )


def _contradictions(values: _Values, pools: tuple[PoolSettings, ...]) -> Iterator[str]:
    for pool in pools:
        prefix = f"CALICO_IPV{pool.family}POOL"
        cidr = pool.range.cidr
        if cidr is not None and cidr.prefixlen > pool.block_size:
            yield f"{prefix}_CIDR: found {cidr}, expected at least one block ({prefix}_BLOCK_SIZE {pool.block_size})"
        if EncapMode.NEVER not in (pool.ipip_mode, pool.vxlan_mode):
            yield f"{prefix}_VXLAN: found {pool.vxlan_mode}, expected Never beside {prefix}_IPIP {pool.ipip_mode}"
        if values[settings.NO_DEFAULT_POOLS] and f"{prefix}_CIDR" in pool.explicit and pool.range.wanted:
            yield f"{prefix}_CIDR: found {cidr}, expected none beside NO_DEFAULT_POOLS true"


# What Kubernetes itself sets for every Service of the namespace, which may be called calico-py-something.
_OF_A_SERVICE = re.compile(r"_SERVICE_(HOST|PORT)(_|$)|_PORT_[0-9]+_(TCP|UDP|SCTP)(_|$)")
_OURS = re.compile(r"^(CALICO_PY_|CALICO_IPV[46]POOL_|IP6?_AUTODETECTION)")


def _unknown(environ: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(environ):
        if not _OURS.match(name) or name in BY_NAME or name in ALIASES:
            continue
        if not _OF_A_SERVICE.search(name) and "://" not in environ[name]:
            yield f"{name} (environment) is no setting and has no effect{_meant(name)}"


def _without_effect(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for name in sorted(environ):
        if name in WITHOUT_EFFECT:
            yield name, WITHOUT_EFFECT[name]
        elif name.startswith("FELIX_") and name not in ALIASES:
            yield name, "what calico-py needs of Felix is in FelixConfiguration and in CALICO_PY_* settings"


def _meant(name: str) -> str:
    near = difflib.get_close_matches(name, [setting.name for setting in SETTINGS], n=1, cutoff=0.8)
    return f"; is {near[0]} meant?" if near else ""
