"""The environment of a node's processes."""

from calico_py.lab.environments import compute_command, compute_environment
from calico_py.lab.objects import further_pools, pool_spec
from calico_py.lab.topology import LabSpec
from calico_py.model.kinds import IP_POOLS
from calico_py.model.pools import EncapMode


def test_pool_and_mode_have_calicos_names() -> None:
    spec = LabSpec(pools=("10.1.0.0/16", "fd01::/48"), ipip=EncapMode.CROSS_SUBNET)
    found = compute_environment(spec, "node2", {})
    assert found["NODENAME"] == "node2"
    assert found["CALICO_IPV4POOL_CIDR"] == "10.1.0.0/16"
    assert found["CALICO_IPV4POOL_IPIP"] == "CrossSubnet"
    assert found["CALICO_IPV6POOL_CIDR"] == "fd01::/48"
    assert found["CALICO_PY_TEMPLATE_GENERATION"] == "1"


def test_a_family_without_a_pool_gets_none() -> None:
    assert compute_environment(LabSpec(), "node1", {})["CALICO_IPV6POOL_CIDR"] == "none"
    assert compute_environment(LabSpec(pools=("fd01::/48",)), "node1", {})["CALICO_IPV4POOL_CIDR"] == "none"


def test_the_callers_own_settings_do_not_leak_into_an_agent() -> None:
    found = compute_environment(LabSpec(), "node1", {"CALICO_IPV4POOL_IPIP": "Never", "PATH": "/bin", "HOME": "/root"})
    assert found["CALICO_IPV4POOL_IPIP"] == "Always"
    assert found["PATH"].endswith(":/bin")
    assert found["HOME"] == "/root"


def test_what_was_asked_for_overrides() -> None:
    extra = {"CALICO_IPV4POOL_IPIP": "Never", "CALICO_PY_X": "1"}
    found = compute_environment(LabSpec(), "node1", {}, generation=7, extra=extra)
    assert (found["CALICO_IPV4POOL_IPIP"], found["CALICO_PY_X"]) == ("Never", "1")
    assert found["CALICO_PY_TEMPLATE_GENERATION"] == "7"


def test_commands() -> None:
    assert compute_command(LabSpec(), "agent")[1:] == ["node"]
    assert compute_command(LabSpec(), "tunnel")[1:] == ["tunnel"]
    assert compute_command(LabSpec(commands={"agent": ("sleep", "9")}), "agent") == ["sleep", "9"]


def test_further_pools_are_objects_that_the_model_accepts() -> None:
    spec = LabSpec(pools=("10.1.0.0/16", "10.2.0.0/16", "fd01::/48", "fd02::/48"), ipip=EncapMode.ALWAYS)
    decoded = [IP_POOLS.decode(body) for body in further_pools(spec)]
    assert [str(pool.cidr) for pool in decoded] == ["10.2.0.0/16", "fd02::/48"]
    assert [pool.ipip_mode for pool in decoded] == [EncapMode.ALWAYS, EncapMode.NEVER]
    assert pool_spec("fd02::/48", EncapMode.ALWAYS)["natOutgoing"] is False
