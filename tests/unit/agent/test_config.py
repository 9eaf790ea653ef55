"""Settings: Calico's spellings and start-up cases, precedence, and what a misspelling says."""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

import pytest

from calico_py.agent.configuration.config import AgentConfig, ConfigError, PoolSettings, load_config, parse_file
from calico_py.agent.configuration.settings import SETTINGS
from calico_py.agent.configuration.spellings import (
    Backend,
    Detection,
    LogLevel,
    Method,
    MtuPolicy,
    NodeAddress,
    SpellingError,
)
from calico_py.model.pools import EncapMode


def load(**environ: str) -> AgentConfig:
    return load_config(environ, hostname="Host1")


def pool(family: int, **environ: str) -> PoolSettings:
    return next(pool for pool in load(**environ).pools if pool.family == family)


def test_nothing_set_is_calico_s_start() -> None:
    config = load()
    assert config.node == "host1"
    assert [p.family for p in config.pools] == [4, 6]
    v4, v6 = config.pools
    assert (v4.range.cidr, v4.ipip_mode, v4.nat_outgoing, v4.block_size) == (None, EncapMode.NEVER, True, 26)
    assert (v6.range.cidr, v6.ipip_mode, v6.nat_outgoing, v6.block_size) == (None, EncapMode.NEVER, False, 122)
    assert config.addresses == {4: NodeAddress(), 6: NodeAddress(wanted=False)}
    assert config.methods[4] == Detection(Method.DEFAULT)
    assert config.bgp
    assert not config.warnings


@pytest.mark.parametrize("spelt", ["off", "Off", "Never", "never", ""])
def test_never_is_spelt_in_many_ways(spelt: str) -> None:
    assert pool(4, CALICO_IPV4POOL_IPIP=spelt).ipip_mode == EncapMode.NEVER


@pytest.mark.parametrize("spelt", ["always", "Always", "ALWAYS"])
def test_always_in_any_case(spelt: str) -> None:
    assert pool(4, CALICO_IPV4POOL_IPIP=spelt).ipip_mode == EncapMode.ALWAYS


@pytest.mark.parametrize("spelt", ["cross-subnet", "CrossSubnet", "crosssubnet"])
def test_cross_subnet_with_and_without_hyphen(spelt: str) -> None:
    assert pool(4, CALICO_IPV4POOL_VXLAN=spelt).vxlan_mode == EncapMode.CROSS_SUBNET


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("CALICO_IPV4POOL_IPIP", "badVal", "Always, CrossSubnet"),
        ("CALICO_IPV4POOL_CIDR", "172.16.0.0a/24", "a network"),
        ("CALICO_IPV4POOL_CIDR", "172.16.0.0/27", "at least one block"),
        ("CALICO_IPV4POOL_CIDR", "10.0.0.0/32", "at least one block"),
        ("CALICO_IPV4POOL_CIDR", "10.0.0.1/16", "without host bits: 10.0.0.0/16"),
        ("CALICO_IPV4POOL_CIDR", "fd00:10::/48", "an IPv4 network"),
        ("CALICO_IPV6POOL_CIDR", "10.0.0.0/16", "an IPv6 network"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "19", "from 20 to 32"),
        ("CALICO_IPV4POOL_BLOCK_SIZE", "33", "from 20 to 32"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "115", "from 116 to 128"),
        ("CALICO_IPV6POOL_BLOCK_SIZE", "129", "from 116 to 128"),
        ("CALICO_IPV4POOL_NODE_SELECTOR", "has(", "CALICO_IPV4POOL_NODE_SELECTOR"),
        ("CALICO_IPV4POOL_NAT_OUTGOING", "flase", "true (1, yes, y, t, on) or false"),
        ("CALICO_NETWORKING_BACKEND", "brid", "bird, vxlan, none"),
        ("IP", "1.2.3", "autodetect, none"),
        ("IP", "fd00::1", "an IPv4 address"),
        ("IP6", "1.2.3.4", "an IPv6 address"),
        ("IP_AUTODETECTION_METHOD", "first", "first-found, interface=REGEX"),
        ("IP_AUTODETECTION_METHOD", "interface", "interface=REGEX"),
        ("IP_AUTODETECTION_METHOD", "interface=eth(", "regular expressions"),
        ("IP_AUTODETECTION_METHOD", "cidr=10.0.0.0/8,x", "a network"),
        ("IP_AUTODETECTION_METHOD", "can-reach=a,b", "can-reach=HOST"),
        ("AS", "0", "an AS number"),
        ("AS", "1.70000", "an AS number"),
        ("CALICO_ROUTER_ID", "0.0.0.0", "an IPv4 address"),
        ("NODENAME", "Node_1", "lower-case"),
        ("DATASTORE_TYPE", "etcdv3", "kubernetes"),
        ("CALICO_PY_MTU", "64", "576"),
        ("CALICO_PY_MASQUERADE_BIT", "32", "a bit from 0 to 31, or none"),
    ],
)
def test_a_misspelt_value_is_refused_with_those_allowed(name: str, value: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(**{name: value})
    assert name in str(caught.value)
    assert value in str(caught.value)
    assert says in str(caught.value)


def test_all_misspellings_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        load(CALICO_IPV4POOL_IPIP="x", AS="y")
    assert len(str(caught.value).splitlines()) == 2


def test_no_default_pools_excludes_a_cidr() -> None:
    assert load(NO_DEFAULT_POOLS="true").pools == ()
    assert load(NO_DEFAULT_POOLS="true", CALICO_IPV4POOL_CIDR="none").pools == ()
    with pytest.raises(ConfigError, match="NO_DEFAULT_POOLS"):
        load(NO_DEFAULT_POOLS="true", CALICO_IPV4POOL_CIDR="10.0.0.0/16")


def test_both_encapsulations_are_refused() -> None:
    with pytest.raises(ConfigError, match="CALICO_IPV4POOL_VXLAN"):
        load(CALICO_IPV4POOL_IPIP="Always", CALICO_IPV4POOL_VXLAN="CrossSubnet")


def test_none_means_no_pool() -> None:
    assert [p.family for p in load(CALICO_IPV4POOL_CIDR="none").pools] == [6]


@pytest.mark.parametrize("value", ["false", "0", "no", "n", "f", "FALSE"])
def test_false_spellings(value: str) -> None:
    assert not pool(4, CALICO_IPV4POOL_NAT_OUTGOING=value).nat_outgoing


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1.2.3.4", NodeAddress(address=ip_address("1.2.3.4"))),
        ("4.3.2.1/25", NodeAddress(address=ip_address("4.3.2.1"), prefixlen=25)),
        ("autodetect", NodeAddress()),
        ("none", NodeAddress(wanted=False)),
    ],
)
def test_node_address(value: str, expected: NodeAddress) -> None:
    assert load(IP=value).addresses[4] == expected


def test_methods() -> None:
    assert load(IP_AUTODETECTION_METHOD="interface=eth.*,ens3").methods[4] == Detection(
        Method.INTERFACE, ("eth.*", "ens3")
    )
    assert str(load(IP6_AUTODETECTION_METHOD="can-reach=dns.example").methods[6]) == "can-reach=dns.example"


def test_a_flag_beats_the_environment_which_beats_the_file() -> None:
    def level(flags: Mapping[str, str], environ: Mapping[str, str], file: Mapping[str, str]) -> LogLevel:
        return load_config(environ, hostname="h", file=file, flags=flags).log_level

    name = "CALICO_PY_LOG_LEVEL"
    assert level({name: "debug"}, {name: "error"}, {name: "warning"}) == LogLevel.DEBUG
    assert level({}, {name: "error"}, {name: "warning"}) == LogLevel.ERROR
    assert level({}, {}, {name: "warning"}) == LogLevel.WARNING
    assert level({}, {"FELIX_LOGSEVERITYSCREEN": "Fatal"}, {name: "debug"}) == LogLevel.DEBUG
    assert level({}, {"FELIX_LOGSEVERITYSCREEN": "Fatal"}, {}) == LogLevel.ERROR


def test_explicit_tells_what_was_given_from_what_is_a_default() -> None:
    assert pool(4, CALICO_IPV4POOL_IPIP="Never").explicit == {"CALICO_IPV4POOL_IPIP"}
    assert pool(4, CALICO_IPV4POOL_CIDR="10.0.0.0/16").range.cidr == ip_network("10.0.0.0/16")


def test_the_file_has_the_same_names() -> None:
    found = parse_file("CALICO_NETWORKING_BACKEND: none\nCALICO_IPV4POOL_NAT_OUTGOING: no\nAS: 64513\n")
    config = load_config({}, hostname="h", file=found)
    assert (config.backend, config.as_number, config.bgp) == (Backend.NONE, 64513, False)
    assert not config.pools[0].nat_outgoing
    assert parse_file("") == {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n", "expected a mapping"),
        ("a: [", "not YAML"),
        ("CALICO_IPV4POOL_IPIPMODE: Always\n", "is CALICO_IPV4POOL_IPIP meant"),
    ],
)
def test_a_file_that_cannot_be_right(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_file(text)


def test_a_misspelt_value_in_the_file_names_the_file() -> None:
    with pytest.raises(ConfigError, match=r"AS \(/etc/x.yaml\)"):
        load_config({}, hostname="h", file={"AS": "x"}, file_path="/etc/x.yaml")


def test_unknown_names_of_ours_are_warned_about_but_not_those_of_a_service() -> None:
    config = load(
        CALICO_PY_LOGLEVEL="debug",
        CALICO_IPV4POOL_IPIPMODE="Always",
        CALICO_PY_METRICS_SERVICE_HOST="10.96.0.5",
        CALICO_PY_METRICS_PORT_9091_TCP_ADDR="10.96.0.5",
        PATH="/bin",
    )
    assert len(config.warnings) == 2
    assert "is CALICO_IPV4POOL_IPIP meant?" in config.warnings[0]
    assert "is CALICO_PY_LOG_LEVEL meant?" in config.warnings[1]


def test_calico_s_variables_without_effect_are_named() -> None:
    config = load(CLUSTER_TYPE="k8s,bgp", FELIX_IPV6SUPPORT="false", FELIX_HEALTHPORT="9199")
    assert set(config.ignored or ()) == {"CLUSTER_TYPE", "FELIX_IPV6SUPPORT"}
    assert config.health_port == 9199


def test_mtu() -> None:
    assert load().mtu == MtuPolicy.AUTO
    assert load(CALICO_PY_MTU="In-Use").mtu == MtuPolicy.IN_USE
    assert load(CALICO_PY_MTU="8950").mtu == 8950


def test_the_mark_of_kube_proxy() -> None:
    assert load().service_mark == 0x4000
    assert load(CALICO_PY_MASQUERADE_BIT="31").service_mark == 0x8000_0000
    assert load(CALICO_PY_MASQUERADE_BIT="none").service_mark == 0


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_every_default_can_be_spelt(setting: object) -> None:
    assert isinstance(setting, type(SETTINGS[0]))
    try:
        setting.parse(setting.default)
    except SpellingError as error:
        pytest.fail(str(error))


def test_the_host_s_settings_may_be_elsewhere() -> None:
    assert load().proc_sys == "/proc/sys"
    assert load(CALICO_PY_PROC_SYS="/host/proc/sys").proc_sys == "/host/proc/sys"
