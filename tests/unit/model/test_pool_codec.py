"""IPPools that the schema of another version let through: what is wrong is named by its field."""

from typing import Any

import pytest

from calico_py.model.kinds import IP_POOLS
from calico_py.model.net import InvalidError
from calico_py.model.pools import AllowedUse


def pool(**spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "p"}, "spec": {"cidr": "10.0.0.0/16", **spec}}


@pytest.mark.parametrize(
    ("field", "spec"),
    [
        ("spec.allowedUses", {"allowedUses": ["Workload", "Dancing"]}),
        ("spec.ipipMode", {"ipipMode": "Sometimes"}),
        ("spec.blockSize", {"blockSize": 33}),
        ("spec.blockSize", {"blockSize": "26"}),
        ("spec.cidr", {"cidr": "10.0.0.0/30"}),
        ("spec.vxlanMode", {"ipipMode": "Always", "vxlanMode": "Always"}),
    ],
)
def test_a_field_that_is_wrong_is_named(field: str, spec: dict[str, Any]) -> None:
    with pytest.raises(InvalidError) as caught:
        IP_POOLS.decode(pool(**spec))
    assert caught.value.field == field


def test_the_uses_of_a_pool_are_calicos() -> None:
    assert IP_POOLS.decode(pool()).allowed_uses == (AllowedUse.WORKLOAD, AllowedUse.TUNNEL)
    assert IP_POOLS.decode(pool(allowedUses=["LoadBalancer"])).allowed_uses == (AllowedUse.LOAD_BALANCER,)
