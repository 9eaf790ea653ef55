"""A Node is read annotation by annotation: one that is broken takes nothing else with it."""

from ipaddress import IPv4Address, IPv4Interface
from typing import Any

import pytest

from calico_py.model.kinds import NODES
from calico_py.model.names import (
    NODE_AS_NUMBER,
    NODE_IPV4_ADDRESS,
    NODE_IPV4_IPIP_TUNNEL,
    NODE_IPV6_ADDRESS,
    NODE_SENDING,
)

WHOLE = {
    NODE_IPV4_ADDRESS: "192.168.1.12/24",
    NODE_IPV6_ADDRESS: "fd00::12/64",
    NODE_IPV4_IPIP_TUNNEL: "10.244.2.1",
    NODE_AS_NUMBER: "64512",
    NODE_SENDING: '{"pool": {"mode": "IPIP", "since": "2026-01-01T00:00:00+00:00"}}',
}


def node(annotations: dict[str, str]) -> dict[str, Any]:
    return {"metadata": {"name": "node2", "annotations": annotations}}


def test_a_whole_node_has_nothing_invalid() -> None:
    found = NODES.decode(node(WHOLE))
    assert found.ipv4 == IPv4Interface("192.168.1.12/24")
    assert found.ipip_tunnel == IPv4Address("10.244.2.1")
    assert found.sending is not None
    assert found.sending["pool"].mode == "IPIP"
    assert found.invalid == ()


@pytest.mark.parametrize(
    ("annotation", "broken"),
    [
        (NODE_IPV4_ADDRESS, "nonsense"),
        (NODE_IPV4_ADDRESS, "fd00::12/64"),
        (NODE_IPV6_ADDRESS, "192.168.1.12/24"),
        (NODE_IPV4_IPIP_TUNNEL, "fd00::1"),
        (NODE_IPV4_IPIP_TUNNEL, "10.244.2"),
        (NODE_AS_NUMBER, "0"),
        (NODE_SENDING, "[]"),
        (NODE_SENDING, '{"pool": 1}'),
    ],
)
def test_a_broken_annotation_counts_as_absent_and_is_named(annotation: str, broken: str) -> None:
    found = NODES.decode(node(WHOLE | {annotation: broken}))
    without = NODES.decode(node({key: value for key, value in WHOLE.items() if key != annotation}))
    assert (found.ipv4, found.ipv6, found.ipip_tunnel, found.as_number, found.sending) == (
        without.ipv4,
        without.ipv6,
        without.ipip_tunnel,
        without.as_number,
        without.sending,
    )
    (sentence,) = found.invalid
    assert f"metadata.annotations[{annotation}]" in sentence
    assert repr(broken) in sentence
